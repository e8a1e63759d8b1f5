/** What a running job reports, and what a finished one gives back. Plain JSON values only. */
import type { LoraInput, VariantInput } from '../adapters/index.js';
import type { EvaluationValues } from './evaluation-specification.js';
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

/** Held-out rows were measured. */
export interface EvaluationEvent {
  readonly kind: 'evaluation';
  readonly stage: number;
  readonly step: number;
  readonly values: EvaluationValues;
  /** Whether these are the best weights so far, by the metric that the stage keeps the best of. */
  readonly best: boolean;
}

/** How a stage's evaluations ended. */
export interface StageEvaluationOutcome {
  /** Step of the weights that the stage ended with: the best one where it keeps that, else of the last evaluation. */
  readonly step: number;
  readonly values: EvaluationValues;
  readonly stoppedEarly: boolean;
}

/** What a stage has done so far. */
export interface StageOutcome {
  readonly steps: number;
  readonly finalLoss: number;
  readonly tokens: number;
  readonly elapsedMs: number;
  readonly peakMemoryBytes: number;
  /** Of a stage that is done and had held-out rows. */
  readonly evaluation?: StageEvaluationOutcome;
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
  /** Of the last stage that measured held-out rows. */
  readonly evaluation?: StageEvaluationOutcome;
  /** Where the embeddings were replaced. */
  readonly embeddings?: EmbeddingReport;
}
