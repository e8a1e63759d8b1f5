/** What a running job reports, and what a finished one gives back. Plain JSON values only. */
import type { LoraInput, VariantInput } from '../adapters/index.js';
import type { EmbeddingReport } from '../models/pretrained-embeddings.js';

export interface StepEvent {
  /** Index of the stage in the specification. */
  readonly stage: number;
  /** 1-based, of this stage. */
  readonly step: number;
  readonly totalSteps: number;
  /** Fraction of passes over the rows done, e.g. 1.25. */
  readonly epoch: number;
  /** Mean of the objective over the terms of this step; of cross entropies, in nats. */
  readonly loss: number;
  /** Tokens fed, padding not counted. */
  readonly tokens: number;
  /** Terms of the loss: tokens that counted, of a classification rows, of preferences pairs. */
  readonly lossTokens: number;
  readonly learningRate: number;
  /** Global 2-norm before clipping. */
  readonly gradientNorm: number;
  readonly tokensPerSecond: number;
  /** Estimated time left in this stage. */
  readonly etaMs: number;
  /** Of preferences: share of the pairs whose chosen answer has the higher reward, and the mean difference of the rewards. */
  readonly preferenceAccuracy?: number;
  readonly preferenceMargin?: number;
}

/** A checkpoint was kept. */
export interface CheckpointEvent {
  readonly kind: 'checkpoint';
  readonly stage: number;
  /** Steps of the stage that are done. */
  readonly step: number;
  readonly name: string;
  /** Of its tensors. */
  readonly bytes: number;
}

/** What a stage has done so far. */
export interface StageOutcome {
  readonly steps: number;
  readonly finalLoss: number;
  readonly tokens: number;
  readonly elapsedMs: number;
  readonly peakMemoryBytes: number;
}

/** The embeddings were replaced; the first step comes next. */
export interface EmbeddingsEvent {
  readonly kind: 'embeddings';
  readonly report: EmbeddingReport;
}

export interface TuningResult {
  readonly content: LoraInput | VariantInput;
  readonly steps: number;
  readonly finalLoss: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  /** Highest resident set of the process seen at a step. */
  readonly peakMemoryBytes: number;
  /** Rows that were left out because no token of theirs counts. */
  readonly skippedRows: number;
  /** Where the embeddings were replaced. */
  readonly embeddings?: EmbeddingReport;
}
