/**
 * Checkpoints of jobs: opaque bytes in the blob store, one row each, found again after a restart.
 * Invariants: a checkpoint is listed only when all its bytes are durable; only the run that holds the job can add one; the bytes are compared with
 * their sha256 before a job goes on from them; of a job the newest few and the best remain, and none beyond the last one saved: a job that begins
 * anew, or goes on from an earlier one, has given those up.
 * What the bytes mean is the handler's.
 */
import { LoricaError } from '../common/errors.js';
import {
  pageCursor,
  toPage,
  type BlobLedger,
  type BlobStore,
  type Database,
  type Page,
  type PageRequest,
  type StagedBlob,
} from '../storage/index.js';
import type { Fence } from './job-events.js';

export interface JobCheckpoint {
  /** {job}/checkpoints/{step} */
  readonly name: string;
  /** Optimizer steps done, over all stages. */
  readonly step: number;
  /** Where the job goes on: the stage, and the steps of it that are done. */
  readonly stage: number;
  readonly stageStep: number;
  readonly bytes: number;
  readonly sha256: string;
  /** Whether it has the best evaluation so far. */
  readonly best: boolean;
  /** Figures measured on these weights, by metric; empty when none were. */
  readonly evaluation: Readonly<Record<string, number>>;
  readonly createTime: Date;
}

export interface NewCheckpoint extends Pick<JobCheckpoint, 'step' | 'stage' | 'stageStep'> {
  /** True: takes this mark from the one that had it. */
  readonly best?: boolean;
  readonly evaluation?: Readonly<Record<string, number>>;
  /** How many of the newest stay, this one included; at least 1. */
  readonly keepNewest: number;
}

/** The checkpoints of a job, for the run that holds it. */
export interface RunCheckpoints {
  /** Resolves when the checkpoint is durable; one of the same step is replaced, those of later steps go. Rejects with JOB_LOST when another run has the job. */
  save(checkpoint: NewCheckpoint, pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<JobCheckpoint>;
  /** The newest whose bytes are whole, with the file that holds them; damaged ones are passed over. */
  newest(): Promise<(JobCheckpoint & { readonly path: string }) | undefined>;
  /** Leaves the checkpoints in place when the job succeeds; otherwise they go then. */
  keepAfterSuccess(): void;
}

/** Where bytes are kept; the file path of a blob is needed, because tensors are read one at a time. */
export interface CheckpointStorage {
  readonly blobs: BlobStore;
  readonly ledger: BlobLedger;
}

interface CheckpointRow {
  job: string;
  step: number;
  stage: number;
  stage_step: number;
  bytes: number;
  sha256: string;
  best: boolean;
  evaluation: Record<string, number>;
  create_time: Date;
}

const COLUMNS = 'job, step, stage, stage_step, bytes, sha256, best, evaluation, create_time';

export class JobCheckpoints {
  private readonly savedListeners = new Set<(checkpoint: JobCheckpoint) => void>();

  constructor(
    private readonly database: Database,
    private readonly storage: CheckpointStorage,
  ) {}

  /** Newest first. */
  async list(job: string, request: PageRequest): Promise<Page<JobCheckpoint>> {
    const query = ['checkpoints', job];
    const cursor = pageCursor(request, query);
    const rows = await this.database.query<CheckpointRow & { ordinal: number }>(
      `SELECT ${COLUMNS}, step AS ordinal FROM job_checkpoints WHERE job = $1 AND step < $2 ORDER BY step DESC LIMIT $3`,
      [job, cursor.before, cursor.limit + 1],
    );
    return toPage(rows, cursor, query, toCheckpoint);
  }

  /** RunCheckpoints.save, without its job. */
  async save(
    job: string,
    fence: Fence,
    checkpoint: NewCheckpoint,
    pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  ): Promise<JobCheckpoint> {
    const staged = await this.storage.blobs.stage(pieces);
    let saved: { row: CheckpointRow; released: readonly string[] };
    try {
      saved = await this.database.transaction(async (tx) => {
        await hold(tx, job, fence);
        const replaced = await this.storage.ledger.release(tx, checkpointName(job, checkpoint.step));
        const row = await insert(tx, job, checkpoint, staged);
        await this.storage.ledger.keep(tx, staged, checkpointName(job, checkpoint.step));
        const givenUp = await this.giveUpBeyond(tx, job, checkpoint.step);
        const outdated = await this.retain(tx, job, Math.max(1, checkpoint.keepNewest));
        return { row, released: [...replaced, ...givenUp, ...outdated] };
      });
    } catch (error) {
      await staged.discard();
      throw error;
    }
    await this.sweep(saved.released);
    const kept = toCheckpoint(saved.row);
    for (const listener of this.savedListeners) listener(kept);
    return kept;
  }

  /** RunCheckpoints.newest, without its job. `damaged` is told of each one that is passed over. */
  async newest(
    job: string,
    damaged: (checkpoint: JobCheckpoint, error: unknown) => void,
  ): Promise<(JobCheckpoint & { readonly path: string }) | undefined> {
    const rows = await this.database.query<CheckpointRow>(`SELECT ${COLUMNS} FROM job_checkpoints WHERE job = $1 ORDER BY step DESC`, [
      job,
    ]);
    for (const row of rows) {
      try {
        return { ...toCheckpoint(row), path: await this.whole(row.sha256) };
      } catch (error) {
        if (!(error instanceof LoricaError) || error.reason !== 'DIGEST_MISMATCH') throw error;
        damaged(toCheckpoint(row), error);
      }
    }
    return undefined;
  }

  /** Removes a job's rows within the transaction that no longer needs them; pass the result to `sweep` after it has committed. */
  async release(tx: Database, job: string): Promise<readonly string[]> {
    const rows = await tx.query<{ step: number }>('DELETE FROM job_checkpoints WHERE job = $1 RETURNING step', [job]);
    return this.releaseBytes(tx, job, rows);
  }

  sweep(digests: readonly string[]): Promise<void> {
    return this.storage.ledger.sweep(digests);
  }

  /** Called with every checkpoint that this process has saved. Returns how to stop listening. */
  onSaved(listener: (checkpoint: JobCheckpoint) => void): () => void {
    this.savedListeners.add(listener);
    return () => void this.savedListeners.delete(listener);
  }

  /** Drops those of later steps. They would else pass for newer, and push out what the job saves now. */
  private async giveUpBeyond(tx: Database, job: string, step: number): Promise<readonly string[]> {
    return this.releaseBytes(tx, job, await tx.query('DELETE FROM job_checkpoints WHERE job = $1 AND step > $2 RETURNING step', [job, step]));
  }

  /** Drops all but the newest `count` and the best. */
  private async retain(tx: Database, job: string, count: number): Promise<readonly string[]> {
    const rows = await tx.query<{ step: number }>(
      `DELETE FROM job_checkpoints WHERE job = $1 AND NOT best
         AND step NOT IN (SELECT step FROM job_checkpoints WHERE job = $1 ORDER BY step DESC LIMIT $2) RETURNING step`,
      [job, count],
    );
    return this.releaseBytes(tx, job, rows);
  }

  private async releaseBytes(tx: Database, job: string, rows: readonly { readonly step: number }[]): Promise<readonly string[]> {
    const released: string[] = [];
    for (const { step } of rows) released.push(...(await this.storage.ledger.release(tx, checkpointName(job, step))));
    return released;
  }

  /** The file of a blob after all its bytes were compared with the digest; DATA_LOSS / DIGEST_MISMATCH when they differ. */
  private async whole(sha256: string): Promise<string> {
    const { blobs } = this.storage;
    const bytes = blobs.stream(sha256)[Symbol.asyncIterator]();
    while ((await bytes.next()).done !== true) continue;
    if (blobs.path === undefined) throw new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', 'checkpoints need blobs in local files');
    return blobs.path(sha256);
  }
}

export function checkpointName(job: string, step: number): string {
  return `${job}/checkpoints/${step}`;
}

/** Keeps the job's row until the transaction ends; ABORTED / JOB_LOST when this run no longer has it. */
async function hold(tx: Database, job: string, { worker, attempt }: Fence): Promise<void> {
  // Progress: deaths before this checkpoint no longer count against the job.
  const held = await tx.query(
    `UPDATE jobs SET lost = 0 WHERE name = $1 AND worker = $2 AND attempt = $3 AND state = 'RUNNING' RETURNING name`,
    [job, worker, attempt],
  );
  if (held.length === 0) throw new LoricaError('ABORTED', 'JOB_LOST', `${job} is run by another process now`);
}

async function insert(tx: Database, job: string, checkpoint: NewCheckpoint, staged: StagedBlob): Promise<CheckpointRow> {
  const { step, stage, stageStep, best = false, evaluation = {} } = checkpoint;
  if (best) await tx.query('UPDATE job_checkpoints SET best = false WHERE job = $1 AND best', [job]);
  const [row] = await tx.query<CheckpointRow>(
    `INSERT INTO job_checkpoints (job, step, stage, stage_step, bytes, sha256, best, evaluation) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (job, step) DO UPDATE SET stage = excluded.stage, stage_step = excluded.stage_step, bytes = excluded.bytes, sha256 = excluded.sha256,
       best = excluded.best OR job_checkpoints.best, evaluation = CASE WHEN $9 THEN job_checkpoints.evaluation ELSE excluded.evaluation END, create_time = now()
     RETURNING ${COLUMNS}`,
    [job, step, stage, stageStep, staged.bytes, staged.sha256, best, JSON.stringify(evaluation), checkpoint.evaluation === undefined],
  );
  return row!;
}

function toCheckpoint(row: CheckpointRow): JobCheckpoint {
  return {
    name: checkpointName(row.job, row.step),
    step: row.step,
    stage: row.stage,
    stageStep: row.stage_step,
    bytes: row.bytes,
    sha256: row.sha256,
    best: row.best,
    evaluation: row.evaluation,
    createTime: row.create_time,
  };
}
