/**
 * Runs queued jobs in this process: claims, hands to the kind's handler, keeps the lease, records the outcome.
 * Invariant: a handler's signal aborts as soon as the job is no longer its to run; what it emits afterwards is refused.
 * Do not give two runners of one embedded database to one process: at start the embedded runner takes over every running job.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { LoricaError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import type { Job, JobContext, JobHandler, JobKind } from './job.js';
import type { Outcome } from './job-leases.js';
import { failureOf } from './job-rows.js';
import type { JobStore, StopRequest } from './job-store.js';

export interface JobRunnerOptions {
  /** Jobs of a kind at once; 1 by default. */
  readonly concurrency?: Partial<Record<JobKind, number>>;
  /** A job whose process died this often fails; 3 by default. */
  readonly maxLost?: number;
  readonly leaseMs?: number;
  readonly logger?: Logger;
}

interface Run {
  readonly job: Job;
  readonly controller: AbortController;
  settled: Promise<void>;
}

/** How often cancels and leases are looked after: other processes' cancels come this way on PostgreSQL. */
const TICK_MS = { pglite: 2_000, postgres: 500 } as const;
/** How long an aborted handler may take to save a checkpoint and stop before its job is queued again without it. */
const SAVE_MS = 10_000;
const FINISH_ATTEMPTS = 5;

export class JobRunner {
  private readonly worker = `${hostname()}-${process.pid}-${randomUUID()}`;
  private readonly kinds: readonly JobKind[];
  private readonly runs = new Map<string, Run>();
  private readonly pumps = new Map<JobKind, Promise<void>>();
  private readonly leaseMs: number;
  private readonly maxLost: number;
  private readonly logger: Logger;
  private unsubscribe: readonly (() => void)[] = [];
  private ticking: Promise<void> | undefined;
  private timer: NodeJS.Timeout | undefined;
  private stopping = false;

  constructor(
    private readonly store: JobStore,
    private readonly handlers: Partial<Record<JobKind, JobHandler>>,
    private readonly options: JobRunnerOptions = {},
  ) {
    this.kinds = Object.keys(handlers) as JobKind[];
    this.leaseMs = options.leaseMs ?? 30_000;
    this.maxLost = options.maxLost ?? 3;
    this.logger = options.logger ?? store.logger;
  }

  /** Queues again what a dead process left running, then begins to take jobs. */
  async start(): Promise<void> {
    const recovered = await this.store.leases.recover(this.worker, this.store.database.kind === 'pglite', this.maxLost);
    if (recovered.length > 0) this.logger.warn('jobs of a dead process were queued again', { jobs: recovered.length });
    this.unsubscribe = [
      this.store.onQueued((kind) => this.pump(kind)),
      this.store.onStopRequested((name, request) => this.abort(name, STOPPED[request]())),
    ];
    this.timer = setInterval(() => this.tick(), TICK_MS[this.store.database.kind]);
    for (const kind of this.kinds) this.pump(kind);
  }

  /** Takes no more jobs; lets running ones finish for graceMs, then aborts them, lets them save checkpoints for saveMs, and queues them again. */
  async stop(options: { readonly graceMs: number; readonly saveMs?: number }): Promise<void> {
    this.stopping = true;
    for (const unsubscribe of this.unsubscribe) unsubscribe();
    await Promise.all(this.pumps.values());
    await this.settledWithin(options.graceMs);
    for (const run of this.runs.values()) run.controller.abort(new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the server is stopping'));
    await this.settledWithin(options.saveMs ?? SAVE_MS);
    clearInterval(this.timer);
    await this.ticking;
    for (const { job } of this.runs.values()) {
      this.logger.error('a job handler did not stop; its job was queued again', { job: job.name });
      await this.store.leases.finish(job.name, { worker: this.worker, attempt: job.attempt }, { state: 'QUEUED' });
    }
  }

  /** Fills the free places of a kind. One filling at a time; a call during one makes it look once more. */
  private pump(kind: JobKind): void {
    if (this.handlers[kind] === undefined) return;
    const before = this.pumps.get(kind) ?? Promise.resolve();
    const next = before.then(() => this.fill(kind)).catch((error: unknown) => this.logger.error('jobs cannot be claimed', { kind, error }));
    this.pumps.set(kind, next);
  }

  private async fill(kind: JobKind): Promise<void> {
    const limit = this.options.concurrency?.[kind] ?? 1;
    while (!this.stopping && [...this.runs.values()].filter((run) => run.job.kind === kind).length < limit) {
      const job = await this.store.leases.claim(kind, this.worker, this.leaseMs);
      if (job === undefined) return;
      const run: Run = { job, controller: new AbortController(), settled: Promise.resolve() };
      this.runs.set(job.name, run);
      run.settled = this.execute(run).finally(() => {
        this.runs.delete(job.name);
        this.pump(kind);
      });
    }
  }

  private async execute(run: Run): Promise<void> {
    const { job, controller } = run;
    const fence = { worker: this.worker, attempt: job.attempt };
    const emit = async (payload: unknown): Promise<void> => {
      if ((await this.store.appendFenced(job.name, payload, fence)) === undefined) {
        controller.abort(lost(job));
        throw lost(job);
      }
    };
    let keepCheckpoints = false;
    const outcome = await this.outcome(run, {
      job,
      signal: controller.signal,
      emit,
      emitted: (limit) => this.store.newestProgress(job.name, limit),
      checkpoints: {
        save: (checkpoint, pieces) => this.store.checkpoints.save(job.name, fence, checkpoint, pieces),
        newest: () =>
          this.store.checkpoints.newest(job.name, ({ name }, error) =>
            this.logger.warn('a damaged checkpoint is passed over', { name, error }),
          ),
        keepAfterSuccess: () => (keepCheckpoints = true),
      },
    });
    for (let attempt = 1; ; attempt += 1) {
      try {
        if (!(await this.store.leases.finish(job.name, fence, { ...outcome, keepCheckpoints })))
          this.logger.warn('a job was taken over before it ended here', { job: job.name });
        return;
      } catch (error) {
        this.logger.error('the outcome of a job cannot be stored', { job: job.name, attempt, error });
        if (attempt === FINISH_ATTEMPTS) return;
        await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** attempt));
      }
    }
  }

  private async outcome({ job, controller }: Run, context: JobContext): Promise<Outcome> {
    try {
      const handler = this.handlers[job.kind] as JobHandler;
      return { state: 'SUCCEEDED', result: await handler(context) };
    } catch (error) {
      const reason: unknown = controller.signal.aborted ? controller.signal.reason : undefined;
      if (reason instanceof LoricaError && reason.reason === 'CANCELLED') return { state: 'CANCELLED' };
      if (reason instanceof LoricaError && (reason.reason === 'SHUTTING_DOWN' || reason.reason === 'JOB_PAUSED')) {
        if (failureOf(error).code === 'INTERNAL')
          this.logger.error('a job failed while it was stopped; it goes on later', { job: job.name, error });
        return { state: 'QUEUED' };
      }
      const failure = failureOf(error);
      this.logger[failure.code === 'INTERNAL' ? 'error' : 'info']('job failed', { job: job.name, error });
      return { state: 'FAILED', error: failure };
    }
  }

  private abort(name: string, reason: LoricaError): void {
    this.runs.get(name)?.controller.abort(reason);
  }

  private tick(): void {
    this.ticking ??= this.lookAfter()
      .catch((error: unknown) => this.logger.error('jobs cannot be looked after', { error }))
      .finally(() => {
        this.ticking = undefined;
      });
  }

  /** Renews leases, aborts what was cancelled, paused or taken over, takes over what others lost, looks for work. */
  private async lookAfter(): Promise<void> {
    const before = [...this.runs.values()];
    if (before.length > 0) {
      const held = await this.store.leases.renew(this.worker, this.leaseMs);
      for (const { job } of before) {
        const lease = held.get(job.name);
        if (lease?.attempt !== job.attempt) this.abort(job.name, lost(job));
        else if (lease.cancelRequested) this.abort(job.name, cancelled());
        else if (lease.pauseRequested) this.abort(job.name, paused());
      }
    }
    if (this.stopping) return;
    await this.store.leases.recover(this.worker, false, this.maxLost);
    for (const kind of this.kinds) this.pump(kind);
  }

  private async settledWithin(limitMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, limitMs);
    });
    await Promise.race([Promise.all([...this.runs.values()].map((run) => run.settled)), limit]);
    clearTimeout(timer);
  }
}

function cancelled(): LoricaError {
  return new LoricaError('CANCELLED', 'CANCELLED', 'the job was cancelled');
}

function paused(): LoricaError {
  return new LoricaError('ABORTED', 'JOB_PAUSED', 'the job was paused');
}

const STOPPED: Readonly<Record<StopRequest, () => LoricaError>> = { cancel: cancelled, pause: paused };

function lost(job: Job): LoricaError {
  return new LoricaError('ABORTED', 'JOB_LOST', `${job.name} is run by another process now`);
}
