/** Granite 3: a Llama whose embedding, attention scores, additions to the residual stream and logits are multiplied by numbers of its config. */
import type { Family } from '../family.js';
import { LLAMA } from './llama.js';

export const GRANITE: Family = {
  ...LLAMA,
  name: 'granite',
  title: 'Granite',
  hf: {
    modelType: 'granite',
    className: 'GraniteForCausalLM',
    defaults: { max_position_embeddings: 2048, embedding_multiplier: 1, residual_multiplier: 1, attention_multiplier: 1, logits_scaling: 1 },
    features: ['attention_bias', 'mlp_bias', 'embedding_multiplier', 'residual_multiplier', 'attention_multiplier', 'logits_scaling'],
    read: (fields) => ({
      embeddingMultiplier: fields.number('embedding_multiplier'),
      residualMultiplier: fields.number('residual_multiplier'),
      attentionScale: fields.number('attention_multiplier'),
      logitDivisor: fields.number('logits_scaling'),
    }),
    write: (config) => ({
      embedding_multiplier: config.embeddingMultiplier ?? 1,
      residual_multiplier: config.residualMultiplier ?? 1,
      attention_multiplier: config.attentionScale ?? config.headDim ** -0.5,
      logits_scaling: config.logitDivisor ?? 1,
    }),
  },
};
