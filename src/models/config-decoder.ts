/**
 * What a decoder of the Llama family is, as numbers: the one description that checkpoints are read into and graphs are built
 * from. Every field is final: defaults of the file formats are applied here and nowhere else, and a feature that the graphs
 * don't compute is refused by name, never ignored.
 */
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
  /** One divisor per frequency, [headDim/2], as GGUF files carry it (`rope_freqs.weight`). */
  | { readonly kind: 'divisors'; readonly divisors: readonly number[] };

export interface DecoderConfig {
  readonly family: 'llama';
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
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling;
  readonly rmsNormEpsilon: number;
  readonly tieWordEmbeddings: boolean;
  /** Biases on q, k, v and o. */
  readonly attentionBias: boolean;
  /** Biases on gate, up and down. */
  readonly mlpBias: boolean;
  /** A token attends to itself and at most this many minus one before it. */
  readonly slidingWindowTokens?: number;
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
}

/** F of a layer. */
export function feedForwardSize(config: DecoderConfig, layer: number): number {
  return config.intermediateSizes?.[layer] ?? config.intermediateSize;
}

/** The config of a model whose layers are all like this one: what the graphs of a single layer are built from. */
export function configOfLayer(config: DecoderConfig, layer: number): DecoderConfig {
  const { intermediateSizes: _, ...rest } = config;
  return { ...rest, intermediateSize: feedForwardSize(config, layer) };
}

/**
 * Every tensor of the model by its Hugging Face name, with its shape. Linear weights are [out, in]; `lm_head.weight` only when
 * the embedding is not tied.
 */
export function weightShapes(config: DecoderConfig): Map<string, readonly number[]> {
  const { hiddenSize: c, vocabSize: v } = config;
  const q = config.heads * config.headDim;
  const kv = config.kvHeads * config.headDim;
  const shapes = new Map<string, readonly number[]>([['model.embed_tokens.weight', [v, c]]]);
  const linear = (name: string, out: number, input: number, bias: boolean): void => {
    shapes.set(`${name}.weight`, [out, input]);
    if (bias) shapes.set(`${name}.bias`, [out]);
  };
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`;
    const f = feedForwardSize(config, i);
    shapes.set(`${layer}.input_layernorm.weight`, [c]);
    linear(`${layer}.self_attn.q_proj`, q, c, config.attentionBias);
    linear(`${layer}.self_attn.k_proj`, kv, c, config.attentionBias);
    linear(`${layer}.self_attn.v_proj`, kv, c, config.attentionBias);
    linear(`${layer}.self_attn.o_proj`, c, q, config.attentionBias);
    shapes.set(`${layer}.post_attention_layernorm.weight`, [c]);
    linear(`${layer}.mlp.gate_proj`, f, c, config.mlpBias);
    linear(`${layer}.mlp.up_proj`, f, c, config.mlpBias);
    linear(`${layer}.mlp.down_proj`, c, f, config.mlpBias);
  }
  shapes.set('model.norm.weight', [c]);
  if (!config.tieWordEmbeddings) shapes.set('lm_head.weight', [v, c]);
  return shapes;
}
