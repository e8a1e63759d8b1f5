/**
 * What a decoder is, as numbers: the one description that checkpoints are read into and graphs are built from; what its family has in
 * common is in family.ts. Every field is final: defaults of the file formats are applied when a file is read and nowhere else, and a
 * feature that the graphs don't compute is refused by name, never ignored.
 */
import type { FamilyName } from './family.js';
import { familyOf } from './families/index.js';

export type RopeScaling =
  /** Positions divided by `factor`. */
  | { readonly kind: 'linear'; readonly factor: number }
  /** Llama 3.1's: low frequencies divided by `factor`, high ones kept, a ramp between. */
  | {
      readonly kind: 'llama3';
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalMaxPositionTokens: number;
    }
  /** YaRN (Peng et al. 2023): a ramp between frequencies that turn more than betaFast and less than betaSlow times in the original context. */
  | {
      readonly kind: 'yarn';
      readonly factor: number;
      readonly originalMaxPositionTokens: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** The ramp begins and ends at whole indices. */
      readonly wholeRange: boolean;
      /** What cos and sin are multiplied by. */
      readonly magnitude: number;
    }
  /** LongRoPE (Ding et al. 2024): one divisor per frequency, [rotaryDim/2], others for contexts beyond the original one. */
  | {
      readonly kind: 'longrope';
      readonly shortDivisors: readonly number[];
      readonly longDivisors: readonly number[];
      readonly originalMaxPositionTokens: number;
      readonly magnitude: number;
    }
  /** One divisor per frequency, [rotaryDim/2], as GGUF files carry it (`rope_freqs.weight`). */
  | { readonly kind: 'divisors'; readonly divisors: readonly number[] };

export interface Rope {
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling;
}

/** 'geluTanh' is 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) (Hendrycks & Gimpel 2016). */
export type Activation = 'silu' | 'geluTanh';

export interface DecoderConfig {
  readonly family: FamilyName;
  readonly vocabSize: number;
  /** C */
  readonly hiddenSize: number;
  /** F; the widest layer's where layers differ. */
  readonly intermediateSize: number;
  /** Each layer's F where they differ, as after growing or pruning feed-forward units; absent where all have `intermediateSize`. */
  readonly intermediateSizes?: readonly number[];
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly maxPositionTokens: number;
  /** 0 where positions are learned. */
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling;
  /** How many of a head's leading dimensions are rotated. Default: all. */
  readonly rotaryDim?: number;
  /** Of every norm. */
  readonly rmsNormEpsilon: number;
  readonly tieWordEmbeddings: boolean;
  /** Biases on q, k and v, and on o where the family has one there. */
  readonly attentionBias: boolean;
  /** Biases on gate, up and down. */
  readonly mlpBias: boolean;
  /** A token attends to itself and at most this many minus one before it; in local layers where there are such, else in all. */
  readonly slidingWindowTokens?: number;
  /** Which layers attend locally, where not all are alike: with the window, and with `localRope`. */
  readonly localLayers?: readonly boolean[];
  /** Rotary settings of local layers where they are others. */
  readonly localRope?: Rope;
  /** Default: silu. */
  readonly activation?: Activation;
  /** What q·k is multiplied by. Default: headDim^-½. */
  readonly attentionScale?: number;
  /** Scores s become cap·tanh(s / cap). */
  readonly attentionSoftcap?: number;
  /** What token embeddings are multiplied by where they enter the stream. Default 1. */
  readonly embeddingMultiplier?: number;
  /** What each unit's output is multiplied by before it is added to the stream. Default 1. */
  readonly residualMultiplier?: number;
  /** Default 1. */
  readonly logitDivisor?: number;
  /** Logits z become cap·tanh(z / cap), after the division. */
  readonly logitSoftcap?: number;
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
}

/** How many dimensions of a head are rotated; 0 where positions are learned. */
export function rotaryWidth(config: DecoderConfig): number {
  return familyOf(config).positions === 'learned' ? 0 : (config.rotaryDim ?? config.headDim);
}

/** The local layers of a model whose layers are made of these layers of the base. */
export function localLayersOf(base: DecoderConfig, layerOrigins: readonly number[]): Pick<DecoderConfig, 'localLayers'> {
  return base.localLayers === undefined ? {} : { localLayers: layerOrigins.map((origin) => base.localLayers![origin]!) };
}

/** What one kind of layer's attention depends on beside q, k and v. */
export interface AttentionKind {
  readonly name: 'global' | 'local';
  readonly windowTokens?: number;
  readonly rope: Rope;
}

/** The kind of a layer's attention. Layers of one name are alike. */
export function attentionKind(config: DecoderConfig, layer: number): AttentionKind {
  const { localLayers, localRope, slidingWindowTokens: windowTokens } = config;
  const local = localLayers?.[layer] === true;
  const rope = local && localRope !== undefined ? localRope : { ropeTheta: config.ropeTheta, ...(config.ropeScaling && { ropeScaling: config.ropeScaling }) };
  const windowed = windowTokens !== undefined && (localLayers === undefined || local);
  return { name: local ? 'local' : 'global', rope, ...(windowed && { windowTokens }) };
}

/** The kinds that the model's layers have. */
export function attentionKinds(config: DecoderConfig): readonly AttentionKind[] {
  const kinds = new Map<string, AttentionKind>();
  for (let layer = 0; layer < config.layers; layer++) {
    const kind = attentionKind(config, layer);
    kinds.set(kind.name, kind);
  }
  return [...kinds.values()];
}

/** F of a layer. */
export function feedForwardSize(config: DecoderConfig, layer: number): number {
  return config.intermediateSizes?.[layer] ?? config.intermediateSize;
}

/** The config of a model whose layers are all like this one: what the graphs of a single layer are built from, which take windows as inputs. */
export function configOfLayer(config: DecoderConfig, layer: number): DecoderConfig {
  const { intermediateSizes: _sizes, localLayers: _local, ...rest } = config;
  return { ...rest, intermediateSize: feedForwardSize(config, layer) };
}
