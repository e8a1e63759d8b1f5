/**
 * What the services need of layers that they do not import (models, storage) and that `main` wires in. Each port is as narrow as
 * its one use. No behaviour here.
 */
import type { BaseShapes } from '../adapters/index.js';
import type { Engine } from '../engine/index.js';
import type { TuningSpecification } from '../tuning/index.js';

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
  chat(messages: readonly { readonly role: string; readonly content: string }[]): number[];
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
  shapes(id: string): Promise<BaseShapes>;
  /** Registers a folder or file of this machine. ALREADY_EXISTS when the id names other files. */
  importPath(id: string, path: string): Promise<ModelInfo>;
  /** Fetches a catalogue model where needed and registers it; `id` defaults to the catalogue's. */
  importCatalogue(
    catalogueId: string,
    id: string | undefined,
    onProgress: (progress: ImportProgress) => void,
    signal: AbortSignal,
  ): Promise<ModelInfo>;
  /** FAILED_PRECONDITION for a model that the configuration names. */
  remove(id: string): Promise<void>;
}

/** Checks a specification against the model that it names: layers, modules, names and lengths must exist. */
export interface TuningPlanner {
  check(specification: TuningSpecification): Promise<void>;
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

export type Generator = Pick<Engine, 'generate' | 'score' | 'scoreNext' | 'residency'>;
