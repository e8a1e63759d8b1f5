/**
 * What an evaluation takes and gives. A target is opaque here (`T`): the injected scorer knows how to run it. Every target is
 * measured on the same rows, in the same order, so that differences are paired.
 */
import type { Example } from '../datasets/index.js';
import type { ChatTemplate } from '../models/chat-template.js';
import type { LabelTemplate } from '../models/prompt.js';
import type { Tokenizer } from '../models/tokenizer.js';

/** The port that the engine fills (`Engine.score`, `Engine.scoreNext`). All logarithms are natural. */
export interface Scorer<T> {
  score(request: {
    readonly target: T;
    readonly sequences: readonly { readonly tokens: readonly number[]; readonly scoreFrom: number }[];
    readonly signal?: AbortSignal;
  }): Promise<readonly { readonly logProbabilities: Float64Array }[]>;
  /** log p(candidate | prompt) per prompt, in the order of `candidates`. */
  scoreNext(request: {
    readonly target: T;
    readonly prompts: readonly (readonly number[])[];
    readonly candidates: readonly number[];
    readonly signal?: AbortSignal;
  }): Promise<readonly Float64Array[]>;
  /** What a target with a classification head tells apart; undefined for one without. A scorer without this method has no such targets. */
  head?(target: T): Promise<{ readonly labels: readonly string[]; readonly template: string } | undefined>;
  /** log p of the head's labels per prompt, in their order. */
  classify?(request: { readonly target: T; readonly prompts: readonly (readonly number[])[]; readonly signal?: AbortSignal }): Promise<readonly Float64Array[]>;
}

export interface ClassificationTask {
  readonly kind: 'classification';
  /** At least two, distinct. */
  readonly labels: readonly string[];
  /** '{text}' is replaced by the row's text, e.g. 'Review: {text}\nSentiment:'. */
  readonly promptTemplate: string;
  /** '{label}' is replaced by the label, e.g. ' {label}'. */
  readonly labelTemplate: string;
}

export interface PerplexityTask {
  readonly kind: 'perplexity';
  /** 'completion' (default): tokens after the prompt; 'all': every token but the first. */
  readonly tokens?: 'completion' | 'all';
  /** How rows of text and label are worded; default: the one of src/models/prompt.ts. */
  readonly labelTemplate?: LabelTemplate;
}

export type EvaluationTask = ClassificationTask | PerplexityTask;

export interface EvaluateInput<T> {
  readonly task: EvaluationTask;
  readonly rows: readonly (Example & { readonly line?: number })[];
  /** At least one; the first is the baseline of every comparison. */
  readonly targets: readonly T[];
  readonly scorer: Scorer<T>;
  readonly tokenizer: Tokenizer;
  readonly chatTemplate?: ChatTemplate;
  readonly emit: (event: EvaluationProgress) => Promise<void> | void;
  readonly signal?: AbortSignal;
  /** Of the bootstrap; default 0. */
  readonly seed?: number;
  /** Of the bootstrap; default 10,000, at least 2,000. */
  readonly resamples?: number;
  /** What every row gave, for a caller that keeps it: target after target, in row order, once the target is done. */
  readonly onRow?: (outcome: RowOutcome) => Promise<void> | void;
  /** Longest row in tokens; a longer one loses the oldest tokens of its prompt. Default: no limit. */
  readonly maxLengthTokens?: number;
}

export interface EvaluationProgress {
  readonly kind: 'progress';
  readonly target: number;
  readonly rowsDone: number;
  readonly rowsTotal: number;
}

export type RowOutcome =
  | {
      readonly kind: 'classification';
      readonly target: number;
      readonly row: number;
      readonly line?: number;
      readonly label: string;
      readonly predicted: string;
      readonly correct: boolean;
      /** Log-likelihood of each label's tokens after the prompt, or what the target's head gives it, in the order of the task's labels. */
      readonly labelLogProbabilities: readonly number[];
    }
  | {
      readonly kind: 'perplexity';
      readonly target: number;
      readonly row: number;
      readonly line?: number;
      readonly tokens: number;
      readonly logProbability: number;
    };

export interface LabelCounts {
  readonly label: string;
  /** Rows with this label. */
  readonly support: number;
  readonly predicted: number;
  readonly correct: number;
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
}

export interface ClassificationResult {
  readonly kind: 'classification';
  readonly rows: number;
  readonly accuracy: number;
  readonly macroF1: number;
  readonly majorityLabel: string;
  readonly majorityAccuracy: number;
  readonly labels: readonly LabelCounts[];
  /** confusion[i][j]: rows of label i predicted as label j. */
  readonly confusion: readonly (readonly number[])[];
}

export interface PerplexityResult {
  readonly kind: 'perplexity';
  readonly rows: number;
  readonly tokens: number;
  readonly meanNegativeLogProbability: number;
  readonly perplexity: number;
}

export type TargetResult = ClassificationResult | PerplexityResult;

/** A paired difference with its percentile interval. Positive = the candidate is better (accuracy up, log-probability up). */
export interface Comparison {
  /** Index of the candidate in the input's targets. */
  readonly target: number;
  readonly against: 'baseline' | 'majority';
  readonly metric: 'accuracy' | 'macroF1' | 'meanLogProbability';
  readonly difference: number;
  readonly low: number;
  readonly high: number;
  /** 0.95. */
  readonly confidence: number;
  /** Two-sided, from the same resamples: 2·min(P(d*≤0), P(d*≥0)), at least 1/(resamples+1), at most 1. */
  readonly pValue: number;
  readonly resamples: number;
}

export interface EvaluationResult {
  readonly task: EvaluationTask['kind'];
  readonly rows: number;
  /** In the order of the input's targets. */
  readonly targets: readonly TargetResult[];
  readonly comparisons: readonly Comparison[];
  readonly seconds: number;
}
