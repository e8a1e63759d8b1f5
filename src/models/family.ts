/**
 * What tells one family of decoders from another beside numbers: norms, biases, positions, the feed-forward unit, and how its
 * checkpoints spell all that. A family is data (src/models/families); decoder.ts and the two lowerings compute what it says.
 * Invariant: a family says nothing that a config.json could say differently; that is in DecoderConfig.
 */
import type { ConfigFields } from './config-fields.js';
import type { DecoderConfig } from './config-decoder.js';

export type FamilyName = 'llama' | 'mistral' | 'qwen2' | 'qwen3' | 'gpt2' | 'gemma2' | 'gemma3' | 'olmo2' | 'granite' | 'phi3';

/**
 * r is the inverse deviation. 'rms': x·r·gain (Zhang & Sennrich 2019); 'rmsPlusOne': x·r·(1 + gain);
 * 'layer': (x − mean)·r·gain + bias (Ba et al. 2016).
 */
export type NormKind = 'rms' | 'rmsPlusOne' | 'layer';

/** Norms of a decoder layer by their names in it; a place without one has none. */
export interface LayerNormNames {
  readonly beforeAttention?: string;
  readonly afterAttention?: string;
  readonly beforeFeedForward?: string;
  readonly afterFeedForward?: string;
}

export interface Family {
  readonly name: FamilyName;
  /** As people call it. */
  readonly title: string;
  readonly norm: NormKind;
  readonly norms: LayerNormNames;
  /** RMS norms of q and k before the rotation: over each head, gain [D], or over all heads at once, gains [H·D] and [KV·D]. */
  readonly queryKeyNorm?: 'head' | 'projection';
  /** activation(gate)·up (Shazeer 2020), else activation(up). */
  readonly gated: boolean;
  /** Rotary (Su et al. 2021), or a learned vector per position that is added to the embedding. */
  readonly positions: 'rotary' | 'learned';
  /** Whether `attentionBias` means o too, beside q, k and v. */
  readonly outputBias: boolean;
  readonly hf: HfFormat;
}

/** How transformers writes the family. */
export interface HfFormat {
  /** `model_type` of config.json. */
  readonly modelType: string;
  /** The class in `architectures`. */
  readonly className: string;
  /** The class with a head over labels; absent where transformers has none. */
  readonly classifierName?: string;
  /** Keys of config.json that are not the usual ones: usual → this family's. */
  readonly keys?: Readonly<Record<string, string>>;
  /** What the reference class takes where config.json says nothing, by usual key. */
  readonly defaults?: Readonly<Record<string, number | string | boolean | ((fields: ConfigFields) => number)>>;
  /** Keys of FEATURES that this family's graphs compute; all others are refused. */
  readonly features?: readonly string[];
  /** What only some families' configs say. */
  readonly read?: (fields: ConfigFields) => Partial<DecoderConfig>;
  /** The inverse of `read`, and what must differ from what is written for all. */
  readonly write?: (config: DecoderConfig) => Record<string, unknown>;
  readonly layout?: CheckpointLayout;
}

/** Where a checkpoint's tensors differ from the canonical ones. Modules of a layer are relative to it. */
export interface CheckpointLayout {
  /** Stands before every name but the head's; older files lack it. */
  readonly prefix?: string;
  /** Before a layer's index, after the prefix. Default 'model.layers.'. */
  readonly layers?: string;
  /** Canonical module → the file's. */
  readonly modules?: Readonly<Record<string, string>>;
  /** The file's module → the canonical ones whose outputs it stacks, in order. */
  readonly fused?: Readonly<Record<string, readonly string[]>>;
  /** Weights of a layer's linear modules are [in, out]. */
  readonly transposed?: boolean;
  /** Tensors that hold no parameters. */
  readonly ignored?: RegExp;
}
