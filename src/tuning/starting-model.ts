/**
 * What a job starts from: the base, or the base edited (edit-model.ts makes it). Invariant: every tensor of the model is the base's
 * under some name or made by the edits; the base's are never copied.
 */
import type { DropoutRates } from '../models/architecture.js';
import { weightShapes, type DecoderConfig } from '../models/config.js';
import type { EmbeddingReport } from '../models/pretrained-embeddings.js';

export interface StartingModel {
  readonly config: DecoderConfig;
  /** Layer of the base that each layer is, or is made from. */
  readonly layerOrigins: readonly number[];
  /** Tensors that are the base's: name here → name in the base. Several may share one. */
  readonly unchanged: ReadonlyMap<string, string>;
  /** All others. Two names may share one array; not to be written to. */
  readonly made: ReadonlyMap<string, Float32Array>;
  /** Holds for every stage of the job. */
  readonly dropout: DropoutRates;
  /** Where the embeddings were replaced. */
  readonly embeddings?: EmbeddingReport;
}

/** The base as it is. */
export function bareBase(config: DecoderConfig): StartingModel {
  return {
    config, made: new Map(), dropout: {},
    layerOrigins: Array.from({ length: config.layers }, (_, i) => i),
    unchanged: new Map([...weightShapes(config).keys()].map((name) => [name, name])),
  };
}
