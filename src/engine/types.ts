/**
 * What the engine takes and gives: targets, sampling, events, residency, options. Types only, so that the services and the
 * client of a test can be written against them without loading native code.
 */
import type { AdapterContent } from '../adapters/index.js';
import type { Checkpoint } from '../models/checkpoint.js';
import type { ServingForm } from '../models/serving-form-weights.js';

export type { ServingForm };

/**
 * What a request runs on: a base model and, optionally, one immutable adapter version. Names and aliases were resolved before;
 * the engine knows digests only, so an alias that moves later never changes a running sequence.
 */
export interface ResolvedTarget {
  readonly modelId: string;
  /** 'sha256:…' of the base model's files; a loaded checkpoint with another digest is refused. */
  readonly modelDigest: string;
  readonly adapter?: ResolvedAdapter;
}

export interface ResolvedAdapter {
  /** For labels and residency lists: 'tenants/t/adapters/a'. Never a cache key. */
  readonly name: string;
  /** Whose it is: its loads are counted there, whether generation, scoring or a preload asks for it first. */
  readonly tenant: string;
  readonly digest: string;
  /** Reads and verifies the content; called at most once while the digest stays resident. */
  load(): Promise<AdapterContent>;
}

export interface ModelProvider {
  /** NOT_FOUND/MODEL_NOT_FOUND when there is no such model. */
  checkpoint(modelId: string): Promise<Checkpoint>;
}

/** How to choose tokens. Order: temperature, then topK, then topP over what topK left. */
export interface Sampling {
  /** ≥ 1. Generation ends with 'length' at this many tokens or at the model's context limit, whichever is first. */
  readonly maxTokens: number;
  /** ≥ 0; 0 (the default) is greedy, ties to the lowest token id. */
  readonly temperature?: number;
  /** (0, 1]; default 1 = off. */
  readonly topP?: number;
  /** ≥ 1, or 0 = off (the default). */
  readonly topK?: number;
  /** Taken modulo 2^64. Left out: a random one. The same seed, prompt and target give the same draws whatever else is in the batch. */
  readonly seed?: bigint | number;
  /** Up to 16 non-empty strings; generation ends before the first that appears in the text, also across token boundaries. */
  readonly stop?: readonly string[];
  /** Ask for the log-probability of each token (natural logarithm, under the model before temperature, topK and topP). */
  readonly logProbabilities?: boolean;
}

export interface GenerateRequest {
  readonly tenant: string;
  readonly target: ResolvedTarget;
  /** At least one token; the caller adds the beginning-of-sequence token if the model wants one. */
  readonly promptTokens: readonly number[];
  readonly sampling: Sampling;
  readonly signal?: AbortSignal;
}

export type FinishReason = 'stop' | 'length' | 'cancelled';

export interface Usage {
  readonly promptTokens: number;
  /** Tokens sampled, the end-of-sequence token included. */
  readonly generatedTokens: number;
  readonly queueMs: number;
  readonly timeToFirstTokenMs: number;
  readonly totalMs: number;
}

/** One sampled token. `text` is what became certain with it: '' while half a character or a possible stop string is held back. */
export interface TokenEvent {
  readonly kind: 'token';
  readonly id: number;
  readonly text: string;
  readonly logProbability?: number;
}

/** Always the last event. `text` is held-back text released at the end ('' mostly): append it to the tokens' texts. */
export interface EndEvent {
  readonly kind: 'end';
  readonly text: string;
  readonly finishReason: FinishReason;
  readonly usage: Usage;
}

export type GenerationEvent = TokenEvent | EndEvent;

export interface ScoreSequence {
  readonly tokens: readonly number[];
  /** First position to score, 1 ≤ scoreFrom < tokens.length: the result holds log p(tokens[i] | tokens[0..i-1]) for i ≥ scoreFrom. */
  readonly scoreFrom: number;
}

export interface ScoreRequest {
  readonly target: ResolvedTarget;
  readonly sequences: readonly ScoreSequence[];
  readonly signal?: AbortSignal;
  /** Default 'evaluation'; 'generation' for a request that a user waits for. */
  readonly lane?: 'generation' | 'evaluation';
}

export interface SequenceScore {
  /** Natural logarithms, one per scored position. */
  readonly logProbabilities: Float64Array;
}

export interface ScoreNextRequest {
  readonly target: ResolvedTarget;
  readonly prompts: readonly (readonly number[])[];
  /** Token ids whose probability right after each prompt is wanted. */
  readonly candidates: readonly number[];
  readonly signal?: AbortSignal;
  readonly lane?: 'generation' | 'evaluation';
}

/** What a target with a classification head tells apart, and what it reads of a text. */
export interface TargetHead {
  readonly labels: readonly string[];
  /** `{text}` stands for the text. */
  readonly template: string;
}

export interface ClassifyRequest {
  /** Has a head. */
  readonly target: ResolvedTarget;
  /** Whole texts as the head's template words them; each is read at its last token. */
  readonly prompts: readonly (readonly number[])[];
  readonly signal?: AbortSignal;
  readonly lane?: 'generation' | 'evaluation';
}

export interface ModelResidency {
  readonly modelId: string;
  readonly modelDigest: string;
  /** Set for a fully or partly tuned variant of the model. */
  readonly variantDigest?: string;
  /** Of a variant: 'tenants/t/adapters/a'. */
  readonly name?: string;
  /** Weights of its own; what a variant shares counts with its base. */
  readonly bytes: number;
  readonly runningSequences: number;
  readonly lastUsedMs: number;
}

export interface AdapterResidency {
  readonly modelId: string;
  readonly name: string;
  readonly digest: string;
  readonly rank: number;
  readonly bytes: number;
  readonly runningSequences: number;
  readonly lastUsedMs: number;
}

export interface Residency {
  readonly models: readonly ModelResidency[];
  readonly adapters: readonly AdapterResidency[];
}

export interface EngineOptions {
  /** Weights of the linear layers: 'int8' (blocks of 32, the default) or 'float32'. */
  readonly servingForm?: ServingForm;
  /** Rows of a decode step, over all models (default 8). */
  readonly maxSequences?: number;
  /** Prompt plus generated tokens of one sequence (default 1,024; never above the model's own limit). */
  readonly maxContextTokens?: number;
  /** Requests waiting for a slot before OVERLOADED (default 256); one tenant has at most three quarters of them. */
  readonly maxWaiting?: number;
  /** Longest piece of a prompt computed in one run (default 96). */
  readonly prefillChunkTokens?: number;
  /** Positions, padding included, of one scoring run (default 256); longer sequences run in pieces of this. */
  readonly scoringBatchTokens?: number;
  /** Bytes of LoRA adapters kept resident when no sequence uses them (default 1 GiB). */
  readonly adapterCacheBytes?: number;
  /** Variants kept when no sequence uses them (default 2). */
  readonly maxVariants?: number;
}
