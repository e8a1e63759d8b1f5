/**
 * The tensors of a decoder by name, with their shapes, as its config and family say. Names are canonical: Hugging Face's of the Llama
 * family for what all families have. Nothing else in the project lists tensors.
 */
import { feedForwardSize, type DecoderConfig } from './config-decoder.js';
import type { LinearModule } from './decoder.js';
import { familyOf } from './families/index.js';

/** Sizes of a linear module of a layer, whose weight is [out, in], and whether it has a bias. */
export interface LinearShape {
  readonly outputs: number;
  readonly inputs: number;
  readonly bias: boolean;
}

/** The linear modules of a layer by their names in it, in the order in which they run. */
export function linearShapes(config: DecoderConfig, layer: number): Map<LinearModule, LinearShape> {
  const { hiddenSize: c, attentionBias, mlpBias } = config;
  const { gated, outputBias } = familyOf(config);
  const q = config.heads * config.headDim;
  const kv = config.kvHeads * config.headDim;
  const f = feedForwardSize(config, layer);
  const up = { outputs: f, inputs: c, bias: mlpBias };
  return new Map<LinearModule, LinearShape>([
    ['self_attn.q_proj', { outputs: q, inputs: c, bias: attentionBias }],
    ['self_attn.k_proj', { outputs: kv, inputs: c, bias: attentionBias }],
    ['self_attn.v_proj', { outputs: kv, inputs: c, bias: attentionBias }],
    ['self_attn.o_proj', { outputs: c, inputs: q, bias: attentionBias && outputBias }],
    ...(gated ? [['mlp.gate_proj', up] as const] : []),
    ['mlp.up_proj', up],
    ['mlp.down_proj', { outputs: c, inputs: f, bias: mlpBias }],
  ]);
}

/** Norm parameters of a layer by local name, in the order in which they run. */
export function normShapes(config: DecoderConfig): Map<string, readonly number[]> {
  const { hiddenSize: c, headDim: d } = config;
  const { norm, norms, queryKeyNorm } = familyOf(config);
  const shapes = new Map<string, readonly number[]>();
  const add = (name: string | undefined): void => {
    if (name === undefined) return;
    shapes.set(`${name}.weight`, [c]);
    if (norm === 'layer') shapes.set(`${name}.bias`, [c]);
  };
  add(norms.beforeAttention);
  if (queryKeyNorm !== undefined) {
    const whole = queryKeyNorm === 'projection';
    shapes.set('self_attn.q_norm.weight', [whole ? config.heads * d : d]);
    shapes.set('self_attn.k_norm.weight', [whole ? config.kvHeads * d : d]);
  }
  add(norms.afterAttention);
  add(norms.beforeFeedForward);
  add(norms.afterFeedForward);
  return shapes;
}

/** Every tensor of a layer by its name in it. */
export function layerShapes(config: DecoderConfig, layer: number): Map<string, readonly number[]> {
  const shapes = normShapes(config);
  for (const [module, { outputs, inputs, bias }] of linearShapes(config, layer)) {
    shapes.set(`${module}.weight`, [outputs, inputs]);
    if (bias) shapes.set(`${module}.bias`, [outputs]);
  }
  return shapes;
}

/**
 * Every tensor of the model by its canonical name (Hugging Face's of the Llama family, for what all families have), with its shape. Linear
 * weights are [out, in]; `lm_head.weight` only when the embedding is not tied.
 */
export function weightShapes(config: DecoderConfig): Map<string, readonly number[]> {
  const { hiddenSize: c, vocabSize: v } = config;
  const { norm, positions } = familyOf(config);
  const shapes = new Map<string, readonly number[]>([['model.embed_tokens.weight', [v, c]]]);
  if (positions === 'learned') shapes.set('model.embed_positions.weight', [config.maxPositionTokens, c]);
  for (let i = 0; i < config.layers; i++) for (const [name, shape] of layerShapes(config, i)) shapes.set(`model.layers.${i}.${name}`, shape);
  shapes.set('model.norm.weight', [c]);
  if (norm === 'layer') shapes.set('model.norm.bias', [c]);
  if (!config.tieWordEmbeddings) shapes.set('lm_head.weight', [v, c]);
  return shapes;
}
