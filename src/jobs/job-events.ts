/**
 * A job's numbered events: appended, replayed and followed.
 * Invariant: sequences rise by one without gaps and become visible in order (the job's row is locked while its number is drawn), and nothing follows
 * a terminal state event.
 */
import type { Database } from '../storage/index.js';
import { isTerminal, type JobEvent, type JobFailure, type JobState } from './job.js';
import { jobNotFound } from './job-rows.js';

const BATCH = 500;
/** How long a follower waits for a wake-up before it looks again; another process's events come by looking. */
const LOOK_MS = 500;

/** Who may write to a running job: the worker that claimed it, in the attempt it claimed. */
export interface Fence {
  readonly worker: string;
  readonly attempt: number;
}

type StoredEvent = { type: 'state'; state: JobState; attempt: number; error?: JobFailure } | { type: 'progress'; payload: unknown };

interface EventRow {
  sequence: number;
  time: Date;
  event: StoredEvent;
}

export class JobEvents {
  private readonly followers = new Map<string, Set<() => void>>();

  constructor(private readonly database: Database) {}

  /** Appends a state event in the transaction that changes the state; call wake after it has committed. */
  async appendState(tx: Database, name: string, state: JobState, attempt: number, error?: JobFailure): Promise<void> {
    const event: StoredEvent = { type: 'state', state, attempt, ...(error === undefined ? {} : { error }) };
    await tx.query(
      `WITH next AS (UPDATE jobs SET last_sequence = last_sequence + 1 WHERE name = $1 RETURNING last_sequence)
       INSERT INTO job_events (job, sequence, event) SELECT $1, last_sequence, $2::json FROM next`,
      [name, JSON.stringify(event)],
    );
  }

  /** Appends a progress event and returns its sequence; undefined when the job is terminal, gone, or no longer the fence's. */
  async appendProgress(name: string, payload: unknown, fence?: Fence): Promise<number | undefined> {
    const event: StoredEvent = { type: 'progress', payload: payload ?? null };
    const rows = await this.database.query<{ sequence: number }>(
      `WITH next AS (
         UPDATE jobs SET last_sequence = last_sequence + 1
         WHERE name = $1 AND state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED') AND ($3::text IS NULL OR (worker = $3 AND attempt = $4 AND state = 'RUNNING'))
         RETURNING last_sequence)
       INSERT INTO job_events (job, sequence, event) SELECT $1, last_sequence, $2::json FROM next RETURNING sequence`,
      [name, JSON.stringify(event), fence?.worker ?? null, fence?.attempt ?? null],
    );
    this.wake(name);
    return rows[0]?.sequence;
  }

  /** Payloads of the newest progress events, newest first. */
  async newestProgress(name: string, limit: number): Promise<readonly unknown[]> {
    const rows = await this.database.query<Pick<EventRow, 'event'>>(
      `SELECT event FROM job_events WHERE job = $1 AND event->>'type' = 'progress' ORDER BY sequence DESC LIMIT $2`,
      [name, limit],
    );
    return rows.map(({ event }) => (event.type === 'progress' ? event.payload : undefined));
  }

  /** Events after `afterSequence`, then new ones as they come. Ends after a terminal state event, and when `signal` aborts. */
  async *follow(name: string, afterSequence: number, signal?: AbortSignal): AsyncGenerator<JobEvent> {
    let after = afterSequence;
    while (signal?.aborted !== true) {
      const woken = this.waiter(name, signal);
      try {
        const rows = await this.database.query<EventRow>(
          `SELECT sequence, time, event FROM job_events WHERE job = $1 AND sequence > $2 ORDER BY sequence LIMIT ${BATCH}`,
          [name, after],
        );
        for (const row of rows) {
          after = row.sequence;
          yield { job: name, sequence: row.sequence, time: row.time, ...row.event };
          if (row.event.type === 'state' && isTerminal(row.event.state)) return;
        }
        if (rows.length === BATCH) continue;
        if (rows.length === 0) {
          const [job] = await this.database.query<{ state: JobState; last_sequence: number }>(
            'SELECT state, last_sequence FROM jobs WHERE name = $1',
            [name],
          );
          if (job === undefined) throw jobNotFound(name);
          if (isTerminal(job.state) && job.last_sequence <= after) return;
        }
        await woken.wait();
      } finally {
        woken.cancel();
      }
    }
  }

  /** Makes followers of `name` in this process look at once. */
  wake(name: string): void {
    for (const follower of this.followers.get(name) ?? []) follower();
  }

  /** Listens from now on, so that a wake-up between looking and waiting is not missed. */
  private waiter(name: string, signal: AbortSignal | undefined): { wait(): Promise<void>; cancel(): void } {
    let wakeUp: () => void = () => undefined;
    const woken = new Promise<void>((resolve) => {
      wakeUp = resolve;
    });
    const followers = this.followers.get(name) ?? new Set();
    this.followers.set(name, followers.add(wakeUp));
    signal?.addEventListener('abort', wakeUp, { once: true });
    let timer: NodeJS.Timeout | undefined;
    return {
      wait: () => {
        timer = setTimeout(wakeUp, LOOK_MS);
        return woken;
      },
      cancel: () => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', wakeUp);
        followers.delete(wakeUp);
        if (followers.size === 0) this.followers.delete(name);
      },
    };
  }
}
