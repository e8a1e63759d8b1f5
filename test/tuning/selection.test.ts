import { describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import type { DecoderConfig } from '../../src/models/config.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import type { TrainableSelection } from '../../src/tuning/specification.js';

const CONFIG: DecoderConfig = {
  family: 'llama', vocabSize: 32, hiddenSize: 16, intermediateSize: 24, layers: 3, heads: 4, kvHeads: 2, headDim: 4, maxPositionTokens: 64,
  ropeTheta: 1e4, rmsNormEpsilon: 1e-5, tieWordEmbeddings: true, attentionBias: false, mlpBias: false, eosTokenIds: [2],
};
const UNTIED: DecoderConfig = { ...CONFIG, tieWordEmbeddings: false, attentionBias: true };
const tensors = (selection: TrainableSelection, config = CONFIG): string[] => [...selectTrainable(config, selection).tensors].sort();
const violations = (selection: TrainableSelection): Record<string, string> => {
  try {
    selectTrainable(CONFIG, selection);
  } catch (error) {
    if (error instanceof LoricaError) return Object.fromEntries(error.violations.map((v) => [v.field, v.description]));
    throw error;
  }
  throw new Error('the selection was accepted');
};

describe('whole tensors', () => {
  test('full is every tensor of the checkpoint', () => {
    expect(tensors({ kind: 'full' })).toHaveLength(3 * 9 + 2);
    expect(tensors({ kind: 'full' }, UNTIED)).toHaveLength(3 * 13 + 3);
  });

  test('the last layers come without final norm and head unless asked for', () => {
    expect(tensors({ kind: 'lastLayers', layers: 1 })).toEqual([
      'model.layers.2.input_layernorm.weight', 'model.layers.2.mlp.down_proj.weight', 'model.layers.2.mlp.gate_proj.weight', 'model.layers.2.mlp.up_proj.weight',
      'model.layers.2.post_attention_layernorm.weight', 'model.layers.2.self_attn.k_proj.weight', 'model.layers.2.self_attn.o_proj.weight',
      'model.layers.2.self_attn.q_proj.weight', 'model.layers.2.self_attn.v_proj.weight',
    ]);
    const withBoth = { kind: 'lastLayers', layers: 1, includeHead: true, includeNorm: true } as const;
    expect(tensors(withBoth)).toEqual(expect.arrayContaining(['model.norm.weight', 'model.embed_tokens.weight']));
    expect(tensors(withBoth, UNTIED)).toEqual(expect.arrayContaining(['model.norm.weight', 'lm_head.weight']));
    expect(tensors(withBoth, UNTIED)).not.toContain('model.embed_tokens.weight');
  });

  test('components may be restricted to layers, and biases go with their module', () => {
    expect(tensors({ kind: 'components', components: ['attention'], layers: [1] }, UNTIED)).toEqual(
      ['k', 'o', 'q', 'v'].flatMap((m) => ['bias', 'weight'].map((w) => `model.layers.1.self_attn.${m}_proj.${w}`)),
    );
    expect(tensors({ kind: 'components', components: ['norms'] })).toContain('model.norm.weight');
    expect(tensors({ kind: 'components', components: ['norms'], layers: [0] })).toEqual(['model.layers.0.input_layernorm.weight', 'model.layers.0.post_attention_layernorm.weight']);
    expect(tensors({ kind: 'components', components: ['feedForward'] })).toHaveLength(9);
  });

  test('patterns match whole names, and dots mean dots', () => {
    expect(tensors({ kind: 'names', patterns: ['model.layers.*.self_attn.q_proj.weight', 'model.norm.weight'] })).toHaveLength(4);
    expect(violations({ kind: 'names', patterns: ['layers.0', 'modelxnorm.weight'] })).toEqual({
      'trainable.patterns[0]': "no tensor of the model matches 'layers.0'",
      'trainable.patterns[1]': "no tensor of the model matches 'modelxnorm.weight'",
    });
  });
});

describe('ranges, exceptions and biases', () => {
  test('a range holds both its ends, and may stand beside indices', () => {
    expect(tensors({ kind: 'layers', indices: [{ first: 1, last: 2 }] })).toHaveLength(18);
    expect(tensors({ kind: 'layers', indices: [{ first: 0, last: 1 }, 1, 2] })).toEqual(tensors({ kind: 'layers', indices: [0, 1, 2] }));
    expect(violations({ kind: 'layers', indices: [{ first: 2, last: 1 }, { first: 1, last: 3 }] })).toEqual({
      'trainable.indices[0]': 'the first layer, 2, comes after the last, 1',
      'trainable.indices[1]': 'the model has layers 0 to 2, not 1 to 3',
    });
  });

  test('an exception freezes patterns and layers, and nothing that is selected beside it', () => {
    const except = { kind: 'except', of: { kind: 'full' }, patterns: ['*.mlp.*', 'model.embed_tokens.weight'], layers: [{ first: 0, last: 1 }] } as const;
    expect(tensors(except)).toEqual([
      'model.layers.2.input_layernorm.weight', 'model.layers.2.post_attention_layernorm.weight',
      ...['k', 'o', 'q', 'v'].map((m) => `model.layers.2.self_attn.${m}_proj.weight`), 'model.norm.weight',
    ]);
    expect(tensors({ kind: 'union', of: [except, { kind: 'names', patterns: ['model.embed_tokens.weight'] }] })).toContain('model.embed_tokens.weight');
    const { lora } = selectTrainable(CONFIG, { kind: 'except', of: { kind: 'lora', rank: 2 }, patterns: ['*.self_attn.*'], layers: [2] });
    expect([...lora.keys()]).toEqual([0, 1].flatMap((i) => ['gate', 'up', 'down'].map((m) => `model.layers.${i}.mlp.${m}_proj`)));
  });

  test('an exception that says nothing, matches nothing or leaves nothing is refused', () => {
    expect(violations({ kind: 'except', of: { kind: 'full' } })).toEqual({ trainable: 'excepts nothing: give patterns or layers' });
    expect(violations({ kind: 'except', of: { kind: 'lastLayers', layers: 1 }, patterns: ['model.layers.0.*'] })).toEqual({
      'trainable.patterns[0]': "nothing selected matches 'model.layers.0.*'",
    });
    expect(violations({ kind: 'except', of: { kind: 'lora', rank: 2 }, patterns: ['*'] })).toEqual({ trainable: 'leaves nothing to train' });
    expect(violations({ kind: 'except', of: { kind: 'layers', indices: [7] }, layers: [0] })).toEqual({ 'trainable.of.indices[0]': 'the model has layers 0 to 2, not 7' });
  });

  test('biases are those inside the chosen layers, and refused where there are none', () => {
    expect(tensors({ kind: 'components', components: ['biases'], layers: [2] }, UNTIED)).toEqual(['k', 'o', 'q', 'v'].map((m) => `model.layers.2.self_attn.${m}_proj.bias`));
    expect(violations({ kind: 'components', components: ['biases'] })).toEqual({ 'trainable.components': 'the model has no biases there' });
  });
});

describe('LoRA', () => {
  test('all linear layers by default, alpha twice the rank, scaling alpha / rank', () => {
    const { lora, tensors: whole } = selectTrainable(CONFIG, { kind: 'lora', rank: 4 });
    expect(lora.size).toBe(21);
    expect(whole.size).toBe(0);
    expect(lora.get('model.layers.1.mlp.down_proj')).toEqual({ rank: 4, alpha: 8, scaling: 2, dropout: 0, dora: false });
  });

  test('target modules by short or long name, layers, and rank-stabilized scaling', () => {
    const { lora } = selectTrainable(CONFIG, { kind: 'lora', rank: 16, alpha: 32, targetModules: ['q_proj', 'self_attn.v_proj'], layers: [2], rsLora: true });
    expect([...lora.keys()]).toEqual(['model.layers.2.self_attn.q_proj', 'model.layers.2.self_attn.v_proj']);
    expect(lora.get('model.layers.2.self_attn.q_proj')?.scaling).toBe(8);
  });

  test('patterns set ranks and alphas by the end of a name; the first that matches counts, the scaling follows', () => {
    const modulePatterns = [
      { pattern: 'layers.1.self_attn.q_proj', rank: 2 },
      { pattern: 'q_proj', rank: 6, alpha: 3 },
      { pattern: 'layers.2.*', alpha: 12 },
    ];
    const { lora } = selectTrainable(CONFIG, { kind: 'lora', rank: 4, alpha: 8, targetModules: ['q_proj', 'k_proj'], modulePatterns, dropout: 0.1, dora: true });
    const of = (layer: number, module: string): unknown => lora.get(`model.layers.${layer}.self_attn.${module}`);
    const common = { dropout: 0.1, dora: true };
    expect(of(0, 'q_proj')).toEqual({ rank: 6, alpha: 3, scaling: 0.5, ...common });
    expect(of(1, 'q_proj')).toEqual({ rank: 2, alpha: 3, scaling: 1.5, ...common });
    expect(of(1, 'k_proj')).toEqual({ rank: 4, alpha: 8, scaling: 2, ...common });
    expect(of(2, 'k_proj')).toEqual({ rank: 4, alpha: 12, scaling: 3, ...common });
    expect(violations({ kind: 'lora', rank: 4, targetModules: ['q_proj'], modulePatterns: [{ pattern: 'proj', rank: 1 }, { pattern: 'q_proj', rank: 0 }] })).toEqual({
      'trainable.modulePatterns[1].rank': 'must be an integer of at least 1, not 0',
      'trainable.modulePatterns[0].pattern': "no module with LoRA matches 'proj'",
    });
  });

  test('a union trains LoRA on one part and whole tensors of another', () => {
    const plan = selectTrainable(CONFIG, { kind: 'union', of: [{ kind: 'lora', rank: 2, targetModules: ['q_proj'] }, { kind: 'components', components: ['norms'] }] });
    expect(plan.lora.size).toBe(3);
    expect(plan.tensors.size).toBe(7);
  });
});

describe('every broken rule is named', () => {
  test('numbers, modules, layers, dropout', () => {
    expect(violations({ kind: 'lora', rank: 4, alpha: -1, targetModules: ['query'], layers: [3], dropout: 0.95 })).toEqual({
      'trainable.alpha': 'must be above 0, not -1',
      'trainable.dropout': 'must be 0 to 0.9, not 0.95',
      'trainable.targetModules[0]': "'query' is not one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
      'trainable.layers[0]': 'the model has layers 0 to 2, not 3',
    });
    expect(violations({ kind: 'lora', rank: 0 })).toEqual({ 'trainable.rank': 'must be an integer of at least 1, not 0' });
    expect(violations({ kind: 'lastLayers', layers: 4 })).toEqual({ 'trainable.layers': 'must be 1 to 3, not 4' });
  });

  test('one weight trained in two ways', () => {
    const both = violations({ kind: 'union', of: [{ kind: 'full' }, { kind: 'lora', rank: 2, targetModules: ['q_proj'], layers: [0] }] });
    expect(both).toEqual({ trainable: 'model.layers.0.self_attn.q_proj is selected both in full and for LoRA' });
    expect(violations({ kind: 'union', of: [{ kind: 'lora', rank: 2, targetModules: ['q_proj'], layers: [0] }, { kind: 'lora', rank: 4, targetModules: ['q_proj'], layers: [0] }] })).toEqual({
      'trainable.of[1]': 'model.layers.0.self_attn.q_proj is selected for LoRA twice',
    });
    expect(violations({ kind: 'union', of: [] })).toEqual({ 'trainable.of': 'is empty' });
  });
});
