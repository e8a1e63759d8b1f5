/**
 * Jobs as resources: created, read, listed, paused, resumed, cancelled, deleted, watched. The runner (job-runner.ts) moves them.
 * Invariant: every change of state is one transaction with its event and with the queue's entry.
 */
import { LoricaError } from '../common/errors.js';
import { silentLogger, type Logger } from '../common/logger.js';
import {
  isUniqueViolation,
  pageCursor,
  RequestIds,
  requireResourceId,
  toPage,
  type Database,
  type Page,
  type PageRequest,
  type RequestKey,
} from '../storage/index.js';
import { Dispatch } from './dispatch.js';
import { isTerminal, type CreateJob, type Job, type JobEvent, type JobKind, type JobState } from './job.js';
import type { JobCheckpoints } from './job-checkpoints.js';
import { JobEvents } from './job-events.js';
import { JobLeases } from './job-leases.js';
import { filterStates, JOB_COLUMNS, jobName, jobNotFound, type JobRow, newJobId, toJob } from './job-rows.js';
import { nextTurn } from './turns.js';

const KINDS: readonly JobKind[] = ['tuning', 'evaluation'];

export interface JobStoreOptions {
  readonly requestIds?: RequestIds;
  readonly logger?: Logger;
}

export interface ListJobs extends PageRequest {
  readonly kind: JobKind;
  readonly tenant: string;
  /** '' or e.g. `state = "RUNNING" OR state = "QUEUED"`. */
  readonly filter?: string;
}

/** What a running job was asked to do; its runner aborts its handler. */
export type StopRequest = 'cancel' | 'pause';

type Listener<T extends unknown[]> = (...values: T) => void;

export class JobStore {
  /** For the runner. */
  readonly leases: JobLeases;
  private readonly jobEvents: JobEvents;
  private readonly queuedListeners = new Set<Listener<[JobKind]>>();
  private readonly stopListeners = new Set<Listener<[string, StopRequest]>>();

  private constructor(
    readonly database: Database,
    readonly checkpoints: JobCheckpoints,
    private readonly dispatch: Dispatch,
    private readonly requestIds: RequestIds,
    readonly logger: Logger,
  ) {
    this.jobEvents = new JobEvents(database);
    this.leases = new JobLeases(database, dispatch, this.jobEvents, checkpoints);
  }

  static async open(database: Database, checkpoints: JobCheckpoints, options: JobStoreOptions = {}): Promise<JobStore> {
    const logger = options.logger ?? silentLogger;
    const dispatch = await Dispatch.open(database, KINDS, logger);
    return new JobStore(database, checkpoints, dispatch, options.requestIds ?? new RequestIds(database), logger);
  }

  /** Queues a job. `created` is false when the same request id made this job before: the caller then watches that one. */
  async create(input: CreateJob): Promise<{ readonly job: Job; readonly created: boolean }> {
    if (input.id !== undefined) requireResourceId('id', input.id);
    const id = input.id ?? newJobId(input.kind);
    const name = jobName(input.kind, input.tenant, id);
    const insert = async (tx: Database): Promise<string> => {
      const turn = await nextTurn(tx, input.kind, input.tenant);
      const dispatchId = await this.dispatch.enqueue(tx, input.kind, name, turn);
      await tx.query(
        `INSERT INTO jobs (name, kind, tenant, id, state, spec, request_id, dispatch_id, turn) VALUES ($1, $2, $3, $4, 'QUEUED', $5, $6, $7, $8)`,
        [name, input.kind, input.tenant, id, JSON.stringify(input.spec ?? null), input.requestId ?? null, dispatchId, turn],
      );
      await this.jobEvents.appendState(tx, name, 'QUEUED', 0);
      return name;
    };
    const made = await this.inserted(input, insert).catch((error: unknown) => {
      if (isUniqueViolation(error)) throw new LoricaError('ALREADY_EXISTS', 'ALREADY_EXISTS', `${name} exists already`);
      throw error;
    });
    if (made.first) for (const listener of this.queuedListeners) listener(input.kind);
    return { job: await this.get(made.name), created: made.first };
  }

  /** The job that this request id made before; undefined for a new id. INVALID_ARGUMENT / REQUEST_ID_REUSED as in create. */
  async findCreated(input: Required<Pick<CreateJob, 'kind' | 'tenant' | 'requestId' | 'requestDigest'>>): Promise<Job | undefined> {
    const name = await this.requestIds.find(createKey(input));
    return name === undefined ? undefined : this.get(name);
  }

  async get(name: string): Promise<Job> {
    return toJob(await this.row(this.database, name));
  }

  /** Newest first. */
  async list(request: ListJobs): Promise<Page<Job>> {
    const filter = request.filter ?? '';
    const query = ['jobs', request.kind, request.tenant, filter];
    const cursor = pageCursor(request, query);
    const rows = await this.database.query<JobRow>(
      `SELECT ${JOB_COLUMNS} FROM jobs WHERE tenant = $1 AND kind = $2 AND state = ANY ($3) AND ordinal < $4 ORDER BY ordinal DESC LIMIT $5`,
      [request.tenant, request.kind, filterStates(filter), cursor.before, cursor.limit + 1],
    );
    return toPage(rows, cursor, query, toJob);
  }

  /**
   * A queued or paused job is CANCELLED at once; a running one when its handler has stopped (its signal aborts within a second). Cancelling a
   * cancelled job changes nothing; a finished one is FAILED_PRECONDITION / JOB_STATE.
   */
  async cancel(name: string): Promise<Job> {
    const running = await this.database.transaction(async (tx) => {
      const row = await this.row(tx, name, 'FOR UPDATE');
      if (row.state === 'CANCELLED') return false;
      if (isTerminal(row.state)) throw wrongState(row, 'cancelled');
      if (row.state === 'RUNNING') {
        await tx.query('UPDATE jobs SET cancel_requested = true, revision = revision + 1 WHERE name = $1', [name]);
        return true;
      }
      if (row.dispatch_id !== null) await this.dispatch.remove(tx, row.kind, row.dispatch_id);
      await tx.query(
        `UPDATE jobs SET state = 'CANCELLED', cancel_requested = true, dispatch_id = NULL, end_time = now(), revision = revision + 1 WHERE name = $1`,
        [name],
      );
      await this.jobEvents.appendState(tx, name, 'CANCELLED', row.attempt);
      return false;
    });
    if (running) for (const listener of this.stopListeners) listener(name, 'cancel');
    this.jobEvents.wake(name);
    return this.get(name);
  }

  /**
   * A queued job is PAUSED at once; a running one when its handler has stopped, which may save a checkpoint before. A paused job holds no place and
   * waits for `resume`, however often the server starts. Pausing a paused job changes nothing; one that has ended or is being cancelled
   * is FAILED_PRECONDITION / JOB_STATE.
   */
  async pause(name: string): Promise<Job> {
    const running = await this.database.transaction(async (tx) => {
      const row = await this.row(tx, name, 'FOR UPDATE');
      if (row.state === 'PAUSED') return false;
      if (isTerminal(row.state) || row.cancel_requested) throw wrongState(row, 'paused');
      if (row.state === 'RUNNING') {
        await tx.query('UPDATE jobs SET pause_requested = true, revision = revision + 1 WHERE name = $1 AND NOT pause_requested', [name]);
        return true;
      }
      if (row.dispatch_id !== null) await this.dispatch.remove(tx, row.kind, row.dispatch_id);
      await tx.query(`UPDATE jobs SET state = 'PAUSED', dispatch_id = NULL, revision = revision + 1 WHERE name = $1`, [name]);
      await this.jobEvents.appendState(tx, name, 'PAUSED', row.attempt);
      return false;
    });
    if (running) for (const listener of this.stopListeners) listener(name, 'pause');
    this.jobEvents.wake(name);
    return this.get(name);
  }

  /**
   * Puts a paused job in line again; of a running one that is being paused, takes the pause back (it is queued when its handler has stopped).
   * A job that waits or runs stays as it is; one that has ended or is being cancelled is FAILED_PRECONDITION / JOB_STATE.
   */
  async resume(name: string): Promise<Job> {
    const queued = await this.database.transaction(async (tx) => {
      const row = await this.row(tx, name, 'FOR UPDATE');
      if (isTerminal(row.state) || row.cancel_requested) throw wrongState(row, 'resumed');
      if (row.state === 'RUNNING') {
        await tx.query('UPDATE jobs SET pause_requested = false, revision = revision + 1 WHERE name = $1 AND pause_requested', [name]);
      }
      if (row.state !== 'PAUSED') return undefined;
      const turn = await nextTurn(tx, row.kind, row.tenant);
      const dispatchId = await this.dispatch.enqueue(tx, row.kind, name, turn);
      await tx.query(`UPDATE jobs SET state = 'QUEUED', dispatch_id = $2, turn = $3, revision = revision + 1 WHERE name = $1`, [
        name,
        dispatchId,
        turn,
      ]);
      await this.jobEvents.appendState(tx, name, 'QUEUED', row.attempt);
      return row.kind;
    });
    if (queued !== undefined) for (const listener of this.queuedListeners) listener(queued);
    this.jobEvents.wake(name);
    return this.get(name);
  }

  /** Removes a finished job with its events and checkpoints; FAILED_PRECONDITION / JOB_STATE while it is not finished. */
  async delete(name: string): Promise<void> {
    const released = await this.database.transaction(async (tx) => {
      const row = await this.row(tx, name, 'FOR UPDATE');
      if (!isTerminal(row.state)) throw wrongState(row, 'deleted: cancel it first');
      const checkpoints = await this.checkpoints.release(tx, name);
      await tx.query('DELETE FROM jobs WHERE name = $1', [name]);
      return checkpoints;
    });
    this.jobEvents.wake(name);
    await this.checkpoints.sweep(released);
  }

  /** Events after `afterSequence`, then new ones as they come. Ends after the terminal state event, and when `signal` aborts. */
  async *events(name: string, afterSequence: number, signal?: AbortSignal): AsyncGenerator<JobEvent> {
    await this.get(name);
    yield* this.jobEvents.follow(name, afterSequence, signal);
  }

  /** Payloads of a job's newest progress events, newest first. */
  newestProgress(name: string, limit: number): Promise<readonly unknown[]> {
    return this.jobEvents.newestProgress(name, limit);
  }

  /** Appends a progress event to an unfinished job and returns its sequence. Handlers use their context's emit. */
  async append(name: string, payload: unknown): Promise<number> {
    const sequence = await this.jobEvents.appendProgress(name, payload);
    if (sequence === undefined) throw wrongState(await this.row(this.database, name), 'given events');
    return sequence;
  }

  /** As append, for the worker that runs the job; undefined when it no longer does. */
  appendFenced(name: string, payload: unknown, fence: { readonly worker: string; readonly attempt: number }): Promise<number | undefined> {
    return this.jobEvents.appendProgress(name, payload, fence);
  }

  /** Jobs by kind and state, for metrics. */
  async counts(): Promise<readonly { readonly kind: JobKind; readonly state: JobState; readonly count: number }[]> {
    return this.database.query('SELECT kind, state, count(*) AS count FROM jobs GROUP BY kind, state');
  }

  /** Called when this process has queued a job. Returns how to stop listening. */
  onQueued(listener: Listener<[JobKind]>): () => void {
    this.queuedListeners.add(listener);
    return () => void this.queuedListeners.delete(listener);
  }

  /** Called with the name of a running job that this process was asked to cancel or pause. Returns how to stop listening. */
  onStopRequested(listener: Listener<[string, StopRequest]>): () => void {
    this.stopListeners.add(listener);
    return () => void this.stopListeners.delete(listener);
  }

  async close(): Promise<void> {
    await this.dispatch.close();
  }

  private async inserted(input: CreateJob, insert: (tx: Database) => Promise<string>): Promise<{ name: string; first: boolean }> {
    if (input.requestId === undefined || input.requestId === '') return { name: await this.database.transaction(insert), first: true };
    if (input.requestDigest === undefined) throw new TypeError('a job with a request id needs the digest of its request');
    const key = createKey({ ...input, requestId: input.requestId, requestDigest: input.requestDigest });
    return this.requestIds.once(key, insert);
  }

  private async row(database: Database, name: string, lock = ''): Promise<JobRow> {
    const [row] = await database.query<JobRow>(`SELECT ${JOB_COLUMNS} FROM jobs WHERE name = $1 ${lock}`, [name]);
    if (row === undefined) throw jobNotFound(name);
    return row;
  }
}

function createKey({
  tenant,
  kind,
  requestId,
  requestDigest,
}: Required<Pick<CreateJob, 'kind' | 'tenant' | 'requestId' | 'requestDigest'>>): RequestKey {
  return { tenant, method: `create ${kind} job`, requestId, requestDigest };
}

function wrongState(row: JobRow, change: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'JOB_STATE', `${row.name} is ${row.state} and cannot be ${change}`, {
    metadata: { state: row.state },
  });
}
