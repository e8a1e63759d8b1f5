/** What a running stage reports after every optimizer step, and what a finished job gives back. Plain JSON values only. */
import type { LoraInput, VariantInput } from '../adapters/index.js';

export interface StepEvent {
  /** Index of the stage in the specification. */
  readonly stage: number;
  /** 1-based, of this stage. */
  readonly step: number;
  readonly totalSteps: number;
  /** Fraction of passes over the rows done, e.g. 1.25. */
  readonly epoch: number;
  /** Mean cross entropy in nats over the tokens of this step that count. */
  readonly loss: number;
  /** Tokens fed, padding not counted, and those that counted in the loss. */
  readonly tokens: number;
  readonly lossTokens: number;
  readonly learningRate: number;
  /** Global 2-norm before clipping. */
  readonly gradientNorm: number;
  readonly tokensPerSecond: number;
  /** Estimated time left in this stage. */
  readonly etaMs: number;
}

/** What a stage has done so far. */
export interface StageOutcome {
  readonly steps: number;
  readonly finalLoss: number;
  readonly tokens: number;
  readonly elapsedMs: number;
  readonly peakMemoryBytes: number;
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
}
