/**
 * Phi-3, Phi-3.5-mini and Phi-4-mini: a Llama with LongRoPE, on a part of each head where the config says so. Its checkpoints hold q, k, v and
 * gate, up as one module each.
 */
import type { Family } from '../family.js';
import { LLAMA } from './llama.js';

export const PHI3: Family = {
  ...LLAMA,
  name: 'phi3',
  title: 'Phi-3',
  hf: {
    modelType: 'phi3',
    className: 'Phi3ForCausalLM',
    classifierName: 'Phi3ForSequenceClassification',
    defaults: { max_position_embeddings: 4096, original_max_position_embeddings: 4096, rms_norm_eps: 1e-5 },
    features: ['sliding_window', 'partial_rotary_factor'],
    read: (fields) => fields.window(),
    write: (config) => ({
      sliding_window: config.slidingWindowTokens ?? null,
      partial_rotary_factor: (config.rotaryDim ?? config.headDim) / config.headDim,
      ...(config.ropeScaling?.kind === 'longrope' && { original_max_position_embeddings: config.ropeScaling.originalMaxPositionTokens }),
    }),
    layout: {
      fused: {
        'self_attn.qkv_proj': ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
        'mlp.gate_up_proj': ['mlp.gate_proj', 'mlp.up_proj'],
      },
    },
  },
};
