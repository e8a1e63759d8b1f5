/**
 * A checkpoint of a tuning job: everything that the rest of its training depends on, so that a job that goes on from it ends with the
 * same bytes as one that was never interrupted. Order of rows and random streams are functions of (seed, stage, epoch, step), so
 * that counters stand for them; weights, optimizer moments and the best weights so far are tensors.
 * Where checkpoints are kept is the caller's: nothing here reads or writes files.
 */
import type { EvaluationValues } from './evaluation-specification.js';
import type { StageOutcome } from './events.js';
import type { StageMemory } from './memory-budget.js';

/** Raised when a state of an earlier format can no longer be read. */
export const CHECKPOINT_FORMAT = 2;

/** What must be equal for training to go on, each a SHA-256 or a digest of the registry. */
export interface CheckpointIdentity {
  /** The base's digest. */
  readonly base: string;
  /** Of the specification, apart from what changes no number (`trainingIdentity`). */
  readonly specification: string;
  /** Of what edits of the architecture and the embeddings made of the base. */
  readonly start: string;
  /** Of the rows of the stage as they are fed, and of those that it is evaluated on. Absent between two stages. */
  readonly rows?: string;
}

/** A LoRA module of the model, its matrices among the tensors. */
export interface CheckpointLora {
  readonly module: string;
  readonly rank: number;
  readonly scaling: number;
  readonly dora: boolean;
}

/** JSON. */
export interface CheckpointState {
  readonly format: number;
  readonly identity: CheckpointIdentity;
  /** Index of the stage that training goes on with, and its optimizer steps done; 0: the stage has not begun. */
  readonly stage: number;
  readonly step: number;
  /** How each stage keeps activations and cuts micro-batches, chosen where the job began: it decides the order of sums. */
  readonly memory: readonly StageMemory[];
  /** Stages that are done. */
  readonly finished: readonly StageOutcome[];
  /** What the current stage has counted, once it has made a step. */
  readonly current?: StageOutcome;
  /** Rows left out in the stages so far, the current one not counted. */
  readonly skippedRows: number;
  readonly lora: readonly CheckpointLora[];
  /** What the stage's evaluations remember: the newest, the best (its weights are tensors), and how long none has been better. */
  readonly evaluation?: {
    readonly step: number;
    readonly values: EvaluationValues;
    readonly best?: { readonly step: number; readonly values: EvaluationValues };
    readonly stopping?: { readonly best: number; readonly since: number };
  };
  /** Of a classification head, whose weight is among the tensors. */
  readonly head?: { readonly labels: readonly string[]; readonly template: string };
}

/** A row-major tensor, float32 but for what an objective measured; `data` may be a view of memory that training goes on to change. */
export interface CheckpointTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Float64Array;
}

/**
 * Tensors by name: `model/{tensor}` that differ from the base, `model/{module}.lora_A.weight` and its like, and of the current stage
 * `{optimizer}/{moment}/{parameter}`, `objective/reference`, `evaluation/reference` and `best/{parameter}`.
 */
export interface TrainingCheckpoint {
  readonly state: CheckpointState;
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
}

/** A checkpoint that was kept; its tensors are read one at a time. */
export interface StoredCheckpoint {
  readonly name: string;
  readonly state: CheckpointState;
  /** Shapes by tensor name. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  read(tensor: string): Promise<Float32Array | Float64Array>;
}

/** Where the checkpoints of one job are kept; filled by `main`. */
export interface Checkpoints {
  /**
   * Keeps a checkpoint and resolves with its name once it is durable. Training stands still until then, because the tensors are
   * views of what it changes: they must not be kept beyond.
   */
  save(checkpoint: TrainingCheckpoint): Promise<string>;
  /** The newest one whose bytes are whole; undefined for a job that has none. */
  load(): Promise<StoredCheckpoint | undefined>;
}

/** How often a job keeps a checkpoint and how many it keeps. */
export interface CheckpointPolicy {
  /** Optimizer steps between two. Default: as many as make them cost at most 2 % of the time, and at least one every 5 minutes. */
  readonly everySteps?: number;
  /** The newest so many are kept. Default 2. */
  readonly keep?: number;
}

export const DEFAULT_KEPT_CHECKPOINTS = 2;
