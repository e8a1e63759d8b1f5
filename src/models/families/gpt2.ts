/**
 * GPT-2: layer norms with biases, learned positions, biases everywhere, no gate. Its checkpoints hold q, k and v as one module and
 * linear weights as [in, out]; here they have the names and the layout that all families share.
 */
import type { Family } from '../family.js';

export const GPT2: Family = {
  name: 'gpt2',
  title: 'GPT-2',
  norm: 'layer',
  norms: { beforeAttention: 'input_layernorm', beforeFeedForward: 'post_attention_layernorm' },
  gated: false,
  positions: 'learned',
  outputBias: true,
  hf: {
    modelType: 'gpt2',
    className: 'GPT2LMHeadModel',
    classifierName: 'GPT2ForSequenceClassification',
    keys: {
      hidden_size: 'n_embd',
      num_hidden_layers: 'n_layer',
      num_attention_heads: 'n_head',
      max_position_embeddings: 'n_positions',
      intermediate_size: 'n_inner',
      rms_norm_eps: 'layer_norm_epsilon',
      hidden_act: 'activation_function',
    },
    defaults: {
      max_position_embeddings: 1024,
      intermediate_size: (fields) => 4 * fields.count('hidden_size'),
      rms_norm_eps: 1e-5,
      hidden_act: 'gelu_new',
      tie_word_embeddings: true,
    },
    features: ['scale_attn_weights'],
    read: (fields) => ({
      ...(!fields.boolean('scale_attn_weights', true) && { attentionScale: 1 }),
      attentionBias: true,
      mlpBias: true,
    }),
    write: (config) => ({ scale_attn_weights: config.attentionScale === undefined }),
    layout: {
      prefix: 'transformer.',
      layers: 'h.',
      modules: {
        'model.embed_tokens': 'wte',
        'model.embed_positions': 'wpe',
        'model.norm': 'ln_f',
        input_layernorm: 'ln_1',
        'self_attn.o_proj': 'attn.c_proj',
        post_attention_layernorm: 'ln_2',
        'mlp.up_proj': 'mlp.c_fc',
        'mlp.down_proj': 'mlp.c_proj',
      },
      fused: { 'attn.c_attn': ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'] },
      transposed: true,
      ignored: /\.attn\.(bias|masked_bias)$/,
    },
  },
};
