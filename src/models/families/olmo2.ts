/** OLMo 2: norms after attention and after the feed-forward unit, none before; norms of q and k over all heads at once. */
import type { Family } from '../family.js';
import { LLAMA } from './llama.js';

export const OLMO2: Family = {
  ...LLAMA,
  name: 'olmo2',
  title: 'OLMo 2',
  norms: { afterAttention: 'post_attention_layernorm', afterFeedForward: 'post_feedforward_layernorm' },
  queryKeyNorm: 'projection',
  hf: { modelType: 'olmo2', className: 'Olmo2ForCausalLM', classifierName: 'Olmo2ForSequenceClassification', defaults: { max_position_embeddings: 2048, rms_norm_eps: 1e-5 }, features: ['attention_bias'] },
};
