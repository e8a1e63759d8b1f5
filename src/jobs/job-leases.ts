/**
 * Running jobs and who runs them. A worker claims a job with a lease and renews it; a job whose lease has run out belongs to a dead process and is
 * queued again, a bounded number of times.
 * Invariant: at most one worker passes the fence (worker, attempt) of a job, and only it can finish it.
 */
import type { Database } from '../storage/index.js';
import type { Dispatch } from './dispatch.js';
import type { Job, JobFailure, JobKind, JobState } from './job.js';
import type { JobCheckpoints } from './job-checkpoints.js';
import type { Fence, JobEvents } from './job-events.js';
import { JOB_COLUMNS, type JobRow, toJob } from './job-rows.js';

/** How a run ended. QUEUED: unfinished; the job waits again, unless a cancel or a pause was asked for. */
export interface Outcome {
  readonly state: 'SUCCEEDED' | 'FAILED' | 'CANCELLED' | 'QUEUED';
  /** Keep the checkpoints of a job that has succeeded. */
  readonly keepCheckpoints?: boolean;
  readonly result?: unknown;
  readonly error?: JobFailure;
}

const FENCE = `name = $1 AND worker = $2 AND attempt = $3 AND state = 'RUNNING'`;

export class JobLeases {
  constructor(
    private readonly database: Database,
    private readonly dispatch: Dispatch,
    private readonly events: JobEvents,
    private readonly checkpoints: JobCheckpoints,
  ) {}

  /** Takes the queued job of `kind` whose turn it is for `worker`; undefined when none waits. */
  async claim(kind: JobKind, worker: string, leaseMs: number): Promise<Job | undefined> {
    const job = await this.database.transaction(async (tx) => {
      const name = await this.dispatch.next(tx, kind);
      if (name === undefined) return undefined;
      const [row] = await tx.query<JobRow>(
        `UPDATE jobs SET state = 'RUNNING', worker = $2, lease_until = now() + $3 * interval '1 millisecond', attempt = attempt + 1, dispatch_id = NULL,
           start_time = coalesce(start_time, now()), revision = revision + 1
         WHERE name = $1 AND state = 'QUEUED' RETURNING ${JOB_COLUMNS}`,
        [name, worker, leaseMs],
      );
      if (row === undefined) return undefined;
      await this.events.appendState(tx, name, 'RUNNING', row.attempt);
      return toJob({ ...row, last_sequence: row.last_sequence + 1 });
    });
    if (job !== undefined) this.events.wake(job.name);
    return job;
  }

  /** Renews all leases of `worker`; returns the jobs it still holds and whether a cancel or a pause was asked for. */
  async renew(
    worker: string,
    leaseMs: number,
  ): Promise<ReadonlyMap<string, { readonly attempt: number; readonly cancelRequested: boolean; readonly pauseRequested: boolean }>> {
    const rows = await this.database.query<Pick<JobRow, 'name' | 'attempt' | 'cancel_requested' | 'pause_requested'>>(
      `UPDATE jobs SET lease_until = now() + $2 * interval '1 millisecond' WHERE worker = $1 AND state = 'RUNNING'
       RETURNING name, attempt, cancel_requested, pause_requested`,
      [worker, leaseMs],
    );
    return new Map(
      rows.map((row) => [row.name, { attempt: row.attempt, cancelRequested: row.cancel_requested, pauseRequested: row.pause_requested }]),
    );
  }

  /** Ends a run. False when the fence no longer holds. */
  async finish(name: string, fence: Fence, outcome: Outcome): Promise<boolean> {
    const released = await this.database.transaction(async (tx) => {
      const [row] = await tx.query<JobRow>(`SELECT ${JOB_COLUMNS} FROM jobs WHERE ${FENCE} FOR UPDATE`, [
        name,
        fence.worker,
        fence.attempt,
      ]);
      return row === undefined ? undefined : this.leave(tx, row, outcome);
    });
    this.events.wake(name);
    if (released !== undefined) await this.checkpoints.sweep(released);
    return released !== undefined;
  }

  /**
   * Queues jobs whose process died: all that run under another worker (`everything`, when nobody else can have the database open), or those
   * whose lease has run out. A job lost `maxLost` times fails instead. Returns their kinds.
   */
  async recover(worker: string, everything: boolean, maxLost: number): Promise<readonly JobKind[]> {
    const recovered = await this.database.transaction(async (tx) => {
      const rows = await tx.query<JobRow>(
        `SELECT ${JOB_COLUMNS} FROM jobs WHERE state = 'RUNNING' AND worker <> $1 AND ($2 OR lease_until < now()) ORDER BY ordinal FOR UPDATE SKIP LOCKED`,
        [worker, everything],
      );
      for (const row of rows) {
        const lost = row.lost + 1;
        await tx.query('UPDATE jobs SET lost = $2 WHERE name = $1', [row.name, lost]);
        const error = { code: 'ABORTED', reason: 'JOB_LOST', message: `the server process died ${lost} times while it ran this job` };
        await this.leave(tx, row, lost >= maxLost ? { state: 'FAILED', error } : { state: 'QUEUED' });
      }
      return rows;
    });
    for (const row of recovered) this.events.wake(row.name);
    return recovered.map((row) => row.kind);
  }

  /**
   * RUNNING to something else, within a transaction that holds the row. A job that waits again keeps its turn, so that it goes on before others of
   * its tenant. Returns the blobs of checkpoints that it no longer needs, to be swept after the transaction.
   */
  private async leave(tx: Database, row: JobRow, outcome: Outcome): Promise<readonly string[]> {
    const state = stateAfter(row, outcome.state);
    const dispatchId = state === 'QUEUED' ? await this.dispatch.enqueue(tx, row.kind, row.name, row.turn) : null;
    const result = outcome.result === undefined || outcome.result === null ? null : JSON.stringify(outcome.result);
    const error = outcome.error === undefined ? null : JSON.stringify(outcome.error);
    await tx.query(
      `UPDATE jobs SET state = $2, worker = NULL, lease_until = NULL, dispatch_id = $3, result = $4, error = $5, pause_requested = false,
         end_time = CASE WHEN $2 IN ('QUEUED', 'PAUSED') THEN NULL ELSE now() END, revision = revision + 1 WHERE name = $1`,
      [row.name, state, dispatchId, result, error],
    );
    await this.events.appendState(tx, row.name, state, row.attempt, outcome.error);
    return state === 'SUCCEEDED' && outcome.keepCheckpoints !== true ? this.checkpoints.release(tx, row.name) : [];
  }
}

/** What was asked for meanwhile decides where an unfinished job goes. */
function stateAfter(row: JobRow, ended: Outcome['state']): JobState {
  if (ended !== 'QUEUED') return ended;
  if (row.cancel_requested) return 'CANCELLED';
  return row.pause_requested ? 'PAUSED' : 'QUEUED';
}
