/**
 * The one definition of a decoder layer, for every family, and of the names of its weights.
 * A lowering says how each step is expressed: the training form as plain differentiable ONNX, the serving form with fused
 * operators and a KV cache. Invariant: whatever a layer computes is decided here, by its family and its config, never in a lowering.
 * This file must not import graphs, runtimes or weights.
 */
import type { DecoderConfig } from './config-decoder.js';
import { familyOf } from './families/index.js';


/** Linear layers of a decoder layer, relative to its prefix, in the order in which they run; a family may lack the gate. Weights are [out, in]. */
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

export const EMBEDDING_WEIGHT = 'model.embed_tokens.weight';
/** A learned vector per position, [positions, C], in families that have no rotary positions. */
export const POSITION_WEIGHT = 'model.embed_positions.weight';
export const FINAL_NORM = 'model.norm';
export const FINAL_NORM_WEIGHT = `${FINAL_NORM}.weight`;
/** Present where norms are layer norms. */
export const FINAL_NORM_BIAS = `${FINAL_NORM}.bias`;
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
 * `Stream` is the residual stream [B,T,C] (a lowering may carry a pending addition in it); `V` is any other value. Norms are of the
 * family's kind, named without '.weight' and '.bias'.
 */
export interface DecoderLowering<Stream, V> {
  /** The stream as it is. */
  read(stream: Stream): V;
  /** Norm of the stream. */
  norm(stream: Stream, name: string): V;
  /** Norm of a unit's output. */
  normOutput(x: V, name: string): V;
  /**
   * Linear layers that share the input x, by full module name ('model.layers.0.self_attn.q_proj'; weight = name + '.weight').
   * One value per module in that order, or fewer where the lowering merges them; the consumer below knows its lowering's choice.
   */
  project(x: V, modules: readonly string[]): readonly V[];
  /** What project gave for q, k, v with q and k normalized by RMS norms of these names, over each head or over all heads at once. */
  normQueryKey(qkv: readonly V[], names: readonly [string, string], over: 'head' | 'projection'): readonly V[];
  /** Causal grouped-query attention (Ainslie et al. 2023), with rotary positions (Su et al. 2021) where the family has them, over q, k, v. */
  attention(qkv: readonly V[]): V;
  /** activation(gate)·up (Shazeer 2020) over what project gave for gate and up, or activation(up) where it gave up alone. */
  feedForwardUnit(values: readonly V[]): V;
  scale(x: V, factor: number): V;
  residual(stream: Stream, delta: V): Stream;
}

/** One decoder layer: attention and a feed-forward unit, each added to the stream, with the norms that the family has around them. */
export function decoderLayer<Stream, V>(lowering: DecoderLowering<Stream, V>, config: DecoderConfig, prefix: string, stream: Stream): Stream {
  const { norms, queryKeyNorm, gated } = familyOf(config);
  const at = (name: string): string => `${prefix}.${name}`;
  const single = (values: readonly V[]): V => {
    const [value] = values;
    if (value === undefined || values.length !== 1) throw new Error(`${prefix}: a lowering gave ${values.length} values for one module`);
    return value;
  };
  const input = (from: Stream, norm: string | undefined): V => (norm === undefined ? lowering.read(from) : lowering.norm(from, at(norm)));
  const added = (to: Stream, output: V, norm: string | undefined): Stream => {
    const normed = norm === undefined ? output : lowering.normOutput(output, at(norm));
    return lowering.residual(to, config.residualMultiplier === undefined ? normed : lowering.scale(normed, config.residualMultiplier));
  };
  const projected = lowering.project(input(stream, norms.beforeAttention), [at('self_attn.q_proj'), at('self_attn.k_proj'), at('self_attn.v_proj')]);
  const qkv = queryKeyNorm === undefined ? projected : lowering.normQueryKey(projected, [at('self_attn.q_norm'), at('self_attn.k_norm')], queryKeyNorm);
  const attended = added(stream, single(lowering.project(lowering.attention(qkv), [at('self_attn.o_proj')])), norms.afterAttention);
  const wide = lowering.project(input(attended, norms.beforeFeedForward), [...(gated ? [at('mlp.gate_proj')] : []), at('mlp.up_proj')]);
  return added(attended, single(lowering.project(lowering.feedForwardUnit(wide), [at('mlp.down_proj')])), norms.afterFeedForward);
}
