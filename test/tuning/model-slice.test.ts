import { describe, expect, test } from '@jest/globals';
import { parseHfConfig, weightShapes } from '../../src/models/config.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import { sliceModel } from '../../src/tuning/model-slice.js';
import type { TrainableSelection } from '../../src/tuning/index.js';

const config = parseHfConfig({
  model_type: 'llama', architectures: ['LlamaForCausalLM'], vocab_size: 64, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 6, num_attention_heads: 2,
  tie_word_embeddings: true, eos_token_id: 0,
});
const slice = (selection: TrainableSelection, of = config) => sliceModel(of, selectTrainable(of, selection));

describe('a slice of a model has each kind of layer once', () => {
  test('all layers alike are two kinds: the lowest hands nothing down', () => {
    const { config: sliced, counts, plan } = slice({ kind: 'lora', rank: 4 });
    expect([sliced.layers, counts]).toEqual([2, [1, 5]]);
    expect([...plan.lora.keys()].filter((module) => module.endsWith('q_proj'))).toEqual(['model.layers.0.self_attn.q_proj', 'model.layers.1.self_attn.q_proj']);
  });

  test('a trained embedding makes them one kind', () => {
    expect(slice({ kind: 'full' }).counts).toEqual([6]);
  });

  test('layers below the lowest trained one, that one, and frozen ones above are kinds of their own', () => {
    const { counts, plan } = slice({ kind: 'layers', indices: [2, 4] });
    expect(counts).toEqual([2, 1, 2, 1]);
    expect(new Set([...plan.tensors].map((name) => name.split('.')[2]))).toEqual(new Set(['1', '3']));
  });

  test('nothing trained in any layer: all run forward only', () => {
    expect(slice({ kind: 'names', patterns: ['model.norm.weight'] }).counts).toEqual([6]);
  });

  test('ranks, dropouts and widths tell layers apart, and every tensor of the slice has a shape', () => {
    const patterns = slice({ kind: 'lora', rank: 4, modulePatterns: [{ pattern: 'layers.3.self_attn.q_proj', rank: 8 }] });
    expect(patterns.counts).toEqual([1, 4, 1]);
    const wide = slice({ kind: 'full' }, { ...config, intermediateSizes: [48, 48, 64, 48, 64, 48] });
    expect([wide.counts, wide.config.intermediateSizes]).toEqual([[4, 2], [48, 64]]);
    const shapes = weightShapes(wide.config);
    for (const name of wide.plan.tensors) expect(shapes.has(name)).toBe(true);
    expect(shapes.get('model.layers.1.mlp.up_proj.weight')).toEqual([64, 32]);
  });
});
