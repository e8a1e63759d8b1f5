/** Llama 2 and 3, SmolLM2, TinyLlama; and Mistral, which adds a window to its attention. */
import type { Family } from '../family.js';

export const LLAMA: Family = {
  name: 'llama',
  title: 'Llama',
  norm: 'rms',
  norms: { beforeAttention: 'input_layernorm', beforeFeedForward: 'post_attention_layernorm' },
  gated: true,
  positions: 'rotary',
  outputBias: true,
  hf: { modelType: 'llama', className: 'LlamaForCausalLM', classifierName: 'LlamaForSequenceClassification', defaults: { max_position_embeddings: 2048 }, features: ['attention_bias', 'mlp_bias'] },
};

export const MISTRAL: Family = {
  ...LLAMA,
  name: 'mistral',
  title: 'Mistral',
  hf: {
    modelType: 'mistral',
    className: 'MistralForCausalLM',
    classifierName: 'MistralForSequenceClassification',
    defaults: { num_key_value_heads: 8, max_position_embeddings: 131072, sliding_window: 4096 },
    features: ['sliding_window'],
    read: (fields) => fields.window(),
    write: (config) => ({ sliding_window: config.slidingWindowTokens ?? null }),
  },
};
