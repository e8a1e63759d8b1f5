/**
 * When a job keeps a checkpoint, and what it says of it. A checkpoint that cannot be stored costs the job nothing but that
 * checkpoint: training goes on, and the next one is tried when it is due. Only losing the job itself ends it.
 */
import { systemClock, type Clock } from '../common/clock.js';
import { LoricaError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { CHECKPOINT_FORMAT, type CheckpointPolicy, type Checkpoints, type CheckpointState, type CheckpointTensor, type StoredCheckpoint } from './checkpoint.js';
import type { CheckpointEvent } from './events.js';

/** Without `everySteps`: a checkpoint costs at most this share of the time, */
const MOST_COST_RATIO = 0.02;
/** comes at least this often, */
const MOST_INTERVAL_MS = 300_000;
/** and at most this often. */
const LEAST_INTERVAL_MS = 30_000;

export interface CheckpointKeeperInput {
  readonly checkpoints: Checkpoints;
  readonly policy: CheckpointPolicy;
  readonly report: (event: CheckpointEvent) => void | Promise<void>;
  readonly logger: Logger;
  readonly clock?: Clock;
}

export class CheckpointKeeper {
  private readonly clock: Clock;
  private lastMs: number;
  private costMs = 0;
  private newest: string | undefined;
  private position = '';

  constructor(private readonly input: CheckpointKeeperInput) {
    this.clock = input.clock ?? systemClock;
    this.lastMs = this.clock.monotonicMs();
  }

  /** The newest checkpoint of the job, as far as this run knows. */
  get name(): string | undefined {
    return this.newest;
  }

  /** The job goes on from this one. */
  resumedFrom({ name, state }: Pick<StoredCheckpoint, 'name' | 'state'>): void {
    this.newest = name;
    this.position = positionOf(state);
  }

  /** Whether one is due after `step` steps of a stage. */
  due(step: number): boolean {
    const { everySteps } = this.input.policy;
    if (everySteps !== undefined) return step % everySteps === 0;
    const intervalMs = Math.min(MOST_INTERVAL_MS, Math.max(LEAST_INTERVAL_MS, this.costMs / MOST_COST_RATIO));
    return this.clock.monotonicMs() - this.lastMs >= intervalMs;
  }

  /** Keeps one now, unless this is where the newest stands. Gives its name, or undefined when it could not be stored. Throws when the job is no longer this process's. */
  async save(state: Omit<CheckpointState, 'format'>, tensors: ReadonlyMap<string, CheckpointTensor>): Promise<string | undefined> {
    if (this.position === positionOf(state)) return this.newest;
    const startedMs = this.clock.monotonicMs();
    try {
      this.newest = await this.input.checkpoints.save({ state: { format: CHECKPOINT_FORMAT, ...state }, tensors });
    } catch (error) {
      if (error instanceof LoricaError && error.reason === 'JOB_LOST') throw error;
      this.input.logger.error('a checkpoint of a tuning job cannot be stored', { stage: state.stage, step: state.step, error });
      return undefined;
    } finally {
      this.lastMs = this.clock.monotonicMs();
      this.costMs = this.lastMs - startedMs;
    }
    this.position = positionOf(state);
    const bytes = [...tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0);
    await this.input.report({ kind: 'checkpoint', stage: state.stage, step: state.step, name: this.newest, bytes });
    return this.newest;
  }
}

const positionOf = ({ stage, step }: Pick<CheckpointState, 'stage' | 'step'>): string => `${stage}/${step}`;

/** Whether a job that ends for this reason is to go on from where it stood: not when it was cancelled or belongs to another process. */
export function isInterruption(signal: AbortSignal | undefined): boolean {
  if (signal?.aborted !== true) return false;
  const reason: unknown = signal.reason;
  return reason instanceof LoricaError && reason.reason !== 'CANCELLED' && reason.reason !== 'JOB_LOST';
}
