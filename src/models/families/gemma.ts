/**
 * Gemma 2 and 3 (text): gains that are one plus the weight, norms before and after each unit, a scaled embedding, layers with a window
 * between layers without. Gemma 2 caps scores and logits; Gemma 3 has norms of q and k instead, and a rotary base of its own for local layers.
 */
import { writtenLayerTypes, type ConfigFields } from '../config-fields.js';
import { parseHfRope } from '../config-hf-rope.js';
import type { DecoderConfig } from '../config-decoder.js';
import type { Family } from '../family.js';

const SHARED = {
  norm: 'rmsPlusOne',
  norms: {
    beforeAttention: 'input_layernorm',
    afterAttention: 'post_attention_layernorm',
    beforeFeedForward: 'pre_feedforward_layernorm',
    afterFeedForward: 'post_feedforward_layernorm',
  },
  gated: true,
  positions: 'rotary',
  outputBias: true,
} as const;

const KEYS = { hidden_act: 'hidden_activation' };
const FEATURES = ['attention_bias', 'query_pre_attn_scalar', 'sliding_window', 'layer_types'];

function readShared(fields: ConfigFields): Partial<DecoderConfig> {
  const hiddenSize = fields.count('hidden_size');
  const headDim = fields.count('head_dim');
  const scalar = fields.number('query_pre_attn_scalar');
  return { embeddingMultiplier: Math.fround(Math.sqrt(hiddenSize)), ...(scalar !== headDim && { attentionScale: scalar ** -0.5 }) };
}

const writeShared = (config: DecoderConfig): Record<string, unknown> => ({
  query_pre_attn_scalar: config.attentionScale === undefined ? config.headDim : config.attentionScale ** -2,
  // A window as long as the context is none.
  sliding_window: config.slidingWindowTokens ?? config.maxPositionTokens,
  layer_types: writtenLayerTypes(config),
});

const cap = (fields: ConfigFields, key: string): number | undefined => (fields.has(key) ? fields.number(key) : undefined);

export const GEMMA2: Family = {
  ...SHARED,
  name: 'gemma2',
  title: 'Gemma 2',
  hf: {
    modelType: 'gemma2',
    className: 'Gemma2ForCausalLM',
    classifierName: 'Gemma2ForSequenceClassification',
    keys: KEYS,
    defaults: {
      head_dim: 256, max_position_embeddings: 8192, hidden_act: 'gelu_pytorch_tanh', tie_word_embeddings: true, query_pre_attn_scalar: 256, sliding_window: 4096,
      attn_logit_softcapping: 50, final_logit_softcapping: 30,
    },
    features: [...FEATURES, 'attn_logit_softcapping', 'final_logit_softcapping'],
    read(fields) {
      const [attentionSoftcap, logitSoftcap] = [cap(fields, 'attn_logit_softcapping'), cap(fields, 'final_logit_softcapping')];
      return {
        ...readShared(fields),
        ...fields.window(fields.layerTypes((layer) => layer % 2 === 0)),
        ...(attentionSoftcap !== undefined && { attentionSoftcap }),
        ...(logitSoftcap !== undefined && { logitSoftcap }),
      };
    },
    write: (config) => ({ ...writeShared(config), attn_logit_softcapping: config.attentionSoftcap ?? null, final_logit_softcapping: config.logitSoftcap ?? null }),
  },
};

export const GEMMA3: Family = {
  ...SHARED,
  name: 'gemma3',
  title: 'Gemma 3',
  queryKeyNorm: 'head',
  hf: {
    modelType: 'gemma3_text',
    className: 'Gemma3ForCausalLM',
    classifierName: 'Gemma3TextForSequenceClassification',
    keys: KEYS,
    defaults: {
      head_dim: 256, max_position_embeddings: 131072, hidden_act: 'gelu_pytorch_tanh', tie_word_embeddings: true, query_pre_attn_scalar: 256, sliding_window: 4096,
      rope_theta: 1e6, rope_local_base_freq: 1e4, sliding_window_pattern: 6,
    },
    features: [...FEATURES, 'sliding_window_pattern', 'rope_local_base_freq', 'final_logit_softcapping'],
    read(fields) {
      const pattern = fields.count('sliding_window_pattern');
      const logitSoftcap = cap(fields, 'final_logit_softcapping');
      const local = fields.layerTypes((layer) => (layer + 1) % pattern !== 0);
      return {
        ...readShared(fields),
        ...fields.window(local),
        localLayers: local,
        localRope: parseHfRope(fields, 'sliding_attention', fields.number('rope_local_base_freq')),
        ...(logitSoftcap !== undefined && { logitSoftcap }),
      };
    },
    write: (config) => ({ ...writeShared(config), final_logit_softcapping: config.logitSoftcap ?? null }),
  },
};
