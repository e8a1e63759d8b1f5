/**
 * The one definition of a Llama-family decoder layer (Llama 2/3, SmolLM2, TinyLlama, Mistral) and of the names of its weights.
 * A lowering says how each step is expressed: the training form as plain differentiable ONNX, the serving form with fused
 * operators and a KV cache. Invariant: whatever a layer computes is decided here, never in a lowering.
 * This file must not import graphs, runtimes or weights.
 */

/** Linear layers of a decoder layer, relative to its prefix, in the order in which they run. Weights are [out, in]. */
export const LINEAR_MODULES = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
] as const;
export type LinearModule = (typeof LINEAR_MODULES)[number];

export const ATTENTION_MODULES = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj'] as const;
export const FEED_FORWARD_MODULES = ['mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj'] as const;

/** Norm gains of a decoder layer, relative to its prefix, in the order in which they run. */
export const LAYER_NORMS = ['input_layernorm', 'post_attention_layernorm'] as const;

export const EMBEDDING_WEIGHT = 'model.embed_tokens.weight';
export const FINAL_NORM_WEIGHT = 'model.norm.weight';
/** Present in checkpoints whose head is not tied to the embedding. */
export const HEAD_WEIGHT = 'lm_head.weight';
/** [K,C] of a classification head over K labels, beside the language model's; the name is that of transformers' *ForSequenceClassification. */
export const CLASSIFICATION_HEAD_WEIGHT = 'score.weight';

/** 'model.layers.3' for 3. */
export function layerPrefix(layer: number): string {
  return `model.layers.${layer}`;
}

/**
 * How one form of the model expresses the steps of a layer.
 * `Stream` is the residual stream [B,T,C] (a lowering may carry a pending addition in it); `V` is any other value.
 */
export interface DecoderLowering<Stream, V> {
  /** RMS norm (Zhang & Sennrich 2019) of the stream; `weight` is the full name of the gain [C]. */
  norm(stream: Stream, weight: string): V;
  /**
   * Linear layers that share the input x, by full module name ('model.layers.0.self_attn.q_proj'; weight = name + '.weight').
   * One value per module in that order, or fewer where the lowering merges them; the consumer below knows its lowering's choice.
   */
  project(x: V, modules: readonly string[]): readonly V[];
  /** Causal grouped-query attention (Ainslie et al. 2023) with rotary positions (Su et al. 2021) over what project gave for q, k, v. */
  attention(qkv: readonly V[]): V;
  /** SiLU(gate) * up (Shazeer 2020) over what project gave for gate, up. */
  gatedUnit(gateUp: readonly V[]): V;
  residual(stream: Stream, delta: V): Stream;
}

/** One decoder layer: pre-norm attention and pre-norm gated feed-forward, each added to the stream. */
export function decoderLayer<Stream, V>(lowering: DecoderLowering<Stream, V>, prefix: string, stream: Stream): Stream {
  const at = (name: string): string => `${prefix}.${name}`;
  const single = (values: readonly V[]): V => {
    const [value] = values;
    if (value === undefined || values.length !== 1) throw new Error(`${prefix}: a lowering gave ${values.length} values for one module`);
    return value;
  };
  const normed = lowering.norm(stream, at('input_layernorm.weight'));
  const qkv = lowering.project(normed, [at('self_attn.q_proj'), at('self_attn.k_proj'), at('self_attn.v_proj')]);
  const attended = lowering.residual(stream, single(lowering.project(lowering.attention(qkv), [at('self_attn.o_proj')])));
  const normedAgain = lowering.norm(attended, at('post_attention_layernorm.weight'));
  const gateUp = lowering.project(normedAgain, [at('mlp.gate_proj'), at('mlp.up_proj')]);
  return lowering.residual(attended, single(lowering.project(lowering.gatedUnit(gateUp), [at('mlp.down_proj')])));
}
