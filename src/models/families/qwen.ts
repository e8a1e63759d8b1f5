/** Qwen2 and Qwen2.5: biases on q, k and v. Qwen3: norms of q and k over each head instead. A window, where used, is on the upper layers. */
import { writtenLayerTypes, type ConfigFields } from '../config-fields.js';
import type { DecoderConfig } from '../config-decoder.js';
import type { Family } from '../family.js';
import { LLAMA } from './llama.js';

const WINDOW = ['sliding_window', 'use_sliding_window', 'max_window_layers', 'layer_types'];

/** Layers from `max_window_layers` on have the window, unless `layer_types` says which. */
function upperWindow(fields: ConfigFields): Partial<DecoderConfig> {
  if (!fields.boolean('use_sliding_window', false)) return {};
  const first = fields.whole('max_window_layers', 28);
  return fields.window(fields.layerTypes((layer) => layer >= first));
}

const writeWindow = (config: DecoderConfig): Record<string, unknown> => ({
  use_sliding_window: config.slidingWindowTokens !== undefined,
  sliding_window: config.slidingWindowTokens ?? null,
  layer_types: writtenLayerTypes(config),
});

export const QWEN2: Family = {
  ...LLAMA,
  name: 'qwen2',
  title: 'Qwen2',
  outputBias: false,
  hf: {
    modelType: 'qwen2',
    className: 'Qwen2ForCausalLM',
    classifierName: 'Qwen2ForSequenceClassification',
    defaults: { max_position_embeddings: 32768, sliding_window: 4096 },
    features: WINDOW,
    read: (fields) => ({ attentionBias: true, ...upperWindow(fields) }),
    write: writeWindow,
  },
};

export const QWEN3: Family = {
  ...LLAMA,
  name: 'qwen3',
  title: 'Qwen3',
  queryKeyNorm: 'head',
  hf: {
    modelType: 'qwen3',
    className: 'Qwen3ForCausalLM',
    classifierName: 'Qwen3ForSequenceClassification',
    defaults: { head_dim: 128, max_position_embeddings: 32768, sliding_window: 4096 },
    features: ['attention_bias', ...WINDOW],
    read: upperWindow,
    write: writeWindow,
  },
};
