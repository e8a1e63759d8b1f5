/**
 * What the services need of layers that they do not import (models, storage) and that `main` wires in. Each port is as narrow as
 * its one use. No behaviour here.
 */
import type { AdapterContent, FitOf } from '../adapters/index.js';
import type { RowMeter } from '../datasets/index.js';
import type { Engine } from '../engine/index.js';
import type { Recommendation, RecommendInput, StageEstimate, TuningSpecification } from '../tuning/index.js';

/** A base model as the API shows it. */
export interface ModelInfo {
  readonly id: string;
  /** 'sha256:…'; '' when `problem` is set. */
  readonly digest: string;
  readonly family: string;
  readonly parameters: number;
  readonly layers: number;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly maxPositionTokens: number;
  readonly hasChatTemplate: boolean;
  readonly storedAs: string;
  readonly bytes: number;
  readonly origin: 'configured' | 'imported' | 'embedded';
  /** Why it cannot be used; '' when it can. */
  readonly problem: string;
}

export interface ImportProgress {
  readonly phase: string;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

export type ExportFormat =
  | { readonly kind: 'huggingFace'; readonly type: 'float32' | 'float16' | 'bfloat16' }
  | { readonly kind: 'gguf'; readonly type: 'float32' | 'float16' | 'q8_0' };

/** A checkpoint that was written aside. */
export interface ExportedFiles {
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[];
  /** The bytes of one of the files, in pieces of at most 1 MiB. */
  read(name: string): AsyncIterable<Uint8Array>;
  /** Removes them. */
  dispose(): Promise<void>;
}

export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

/** One turn of a conversation. */
export interface ChatTurn {
  readonly role: string;
  readonly content: string;
  readonly toolCalls?: readonly { readonly id?: string; readonly name: string; readonly arguments: JsonObject }[];
  readonly toolCallId?: string;
  readonly name?: string;
}

/** A function that the assistant may call; `parameters` is a JSON Schema. */
export interface ChatTool {
  readonly name: string;
  readonly description: string;
  readonly parameters: JsonObject;
}

/** Text to tokens and back, as generation, scoring and tuning see it. */
export interface TextModel {
  readonly vocabSize: number;
  /** Prompt and completion together, as the engine serves it. */
  readonly maxContextTokens: number;
  /** The model's begin token first, where it has one. */
  prompt(text: string): number[];
  /** Tokens that `continuation` adds to `prompt`. */
  continuation(prompt: string, continuation: string): number[];
  /** FAILED_PRECONDITION / MODEL_UNSUPPORTED where the model has no chat template. */
  chat(turns: readonly ChatTurn[], tools: readonly ChatTool[]): number[];
  labelled(
    text: string,
    label: string,
    template?: { readonly prompt: string; readonly label: string },
  ): { prompt: string; continuation: string };
  encode(text: string, options: { readonly addSpecialTokens: boolean }): number[];
  decode(tokens: readonly number[], options: { readonly skipSpecialTokens: boolean }): string;
}

/** The base models of this server. Unknown ids are NOT_FOUND / MODEL_NOT_FOUND. */
export interface ModelLibrary {
  /** Sorted by id. */
  list(): Promise<readonly ModelInfo[]>;
  get(id: string): Promise<ModelInfo>;
  text(id: string): Promise<TextModel>;
  fit(id: string): Promise<FitOf>;
  /** Registers a folder or file of this machine. ALREADY_EXISTS when the id names other files. */
  importPath(id: string, path: string): Promise<ModelInfo>;
  /** Fetches a catalogue model where needed and registers it; `id` defaults to the catalogue's. */
  importCatalogue(
    catalogueId: string,
    id: string | undefined,
    onProgress: (progress: ImportProgress) => void,
    signal: AbortSignal,
  ): Promise<ModelInfo>;
  /** Fetches `hf:owner/name[@revision][:file]` where needed and registers it. */
  importHub(reference: string, id: string, onProgress: (progress: ImportProgress) => void, signal: AbortSignal): Promise<ModelInfo>;
  /** Writes a model, with an adapter's content merged in, as files of another tool's format. Nothing is left behind when it throws. */
  export(id: string, change: AdapterContent | undefined, format: ExportFormat): Promise<ExportedFiles>;
  /** FAILED_PRECONDITION for a model that the configuration names. */
  remove(id: string): Promise<void>;
}

/** Checks a specification against the model that it names: layers, modules, names and lengths must exist. */
export interface TuningPlanner {
  check(specification: TuningSpecification): Promise<void>;
  /** RESOURCE_EXHAUSTED / MEMORY_INSUFFICIENT for a checked one that can not fit the memory that a job may take, whatever its rows. */
  requireMemory(specification: TuningSpecification): Promise<void>;
  /** What the job would take on this server; runs for some seconds. */
  estimate(tenant: string, specification: TuningSpecification, signal: AbortSignal): Promise<TuningEstimate>;
}

export interface TuningEstimate {
  readonly stages: readonly StageEstimate[];
  readonly memoryBytes: number;
  /** With what the process holds now. */
  readonly peakMemoryBytes: number;
  readonly memoryLimitBytes: number;
  /** What the job may add. */
  readonly jobLimitBytes: number;
}

/** What a recommendation is asked with, but for what the server knows; `memoryLimitBytes` defaults to what its machine has left. */
export type RecommendQuestion = Omit<RecommendInput, 'config' | 'threads' | 'memoryLimitBytes'> & { readonly memoryLimitBytes: number | undefined };

/** Chooses a method and its settings. Throws as `recommendTuning`, and NOT_FOUND / MODEL_NOT_FOUND. */
export interface TuningRecommender {
  recommend(question: RecommendQuestion): Promise<{ readonly recommendation: Recommendation; readonly memoryLimitBytes: number }>;
}

/** How rows are to be rendered; what is left out is as in a tuning stage. */
export interface MeterRequest {
  readonly baseModel: string;
  readonly maxLengthTokens?: number;
  readonly loss?: 'completion' | 'all';
  readonly labelTemplate?: { readonly prompt: string; readonly label: string };
}

export interface OpenRowMeter extends RowMeter {
  /** Ends its threads; what is being measured is given up. More than once is allowed. */
  close(): Promise<void>;
}

/** Measures rows of data sets as tuning renders them, off the event loop. */
export interface RowMeters {
  /** Waits until no other validation measures. NOT_FOUND / MODEL_NOT_FOUND; INVALID_FIELD for max_length_tokens beyond the model's context. */
  open(request: MeterRequest, signal: AbortSignal): Promise<OpenRowMeter>;
}

export interface RequestKey {
  readonly tenant: string;
  readonly method: string;
  readonly requestId: string;
  readonly requestDigest: string;
}

/** Answers given before, for 24 hours. */
export interface RequestMemory {
  /** The resource name answered earlier; INVALID_ARGUMENT / REQUEST_ID_REUSED when the digest differs. */
  find(key: RequestKey): Promise<string | undefined>;
  record(key: RequestKey, resourceName: string): Promise<void>;
}

export type Generator = Pick<Engine, 'generate' | 'score' | 'scoreNext' | 'head' | 'classify' | 'residency'>;
