import { describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import type { DecoderConfig } from '../../src/models/config.js';
import { learningRates } from '../../src/tuning/learning-rate.js';

const CONFIG = { hiddenSize: 144, layers: 4 } as DecoderConfig;
const FIXED = { learningRate: 0.1, layerDecay: 1, rateGroups: [] };
const parameters = (shapes: Record<string, number[]>): Map<string, readonly number[]> => new Map(Object.entries(shapes));
const WHOLE = parameters({
  'model.embed_tokens.weight': [8, 4],
  'model.layers.0.mlp.up_proj.weight': [4, 4],
  'model.layers.3.mlp.up_proj.weight': [4, 4],
  'model.layers.3.input_layernorm.weight': [4],
  'model.norm.weight': [4],
});

describe('factors', () => {
  test('are 1 unless asked for', () => {
    const { peak, factor } = learningRates(FIXED, CONFIG, WHOLE);
    expect([peak, ...[...WHOLE.keys()].map(factor)]).toEqual([0.1, 1, 1, 1, 1, 1]);
  });

  test('decay by layer from the top; the embedding lies below the lowest layer', () => {
    const { factor } = learningRates({ ...FIXED, layerDecay: 0.5 }, CONFIG, WHOLE);
    expect([...WHOLE.keys()].map(factor)).toEqual([1 / 16, 1 / 8, 1, 1, 1]);
  });

  test('the first group that matches multiplies the decayed rate', () => {
    const rateGroups = [
      { pattern: '*.3.*norm*', multiplier: 4 },
      { pattern: '*norm.weight', multiplier: 3 },
      { pattern: 'model.layers.0.*', multiplier: 2 },
    ];
    const { factor } = learningRates({ ...FIXED, layerDecay: 0.5, rateGroups }, CONFIG, WHOLE);
    expect([...WHOLE.keys()].map(factor)).toEqual([1 / 16, 1 / 4, 1, 4, 3]);
  });

  test('a group that matches nothing is refused by its path', () => {
    try {
      learningRates({ ...FIXED, rateGroups: [{ pattern: 'norm', multiplier: 3 }] }, CONFIG, WHOLE, 'stages[1]');
    } catch (error) {
      if (!(error instanceof LoricaError)) throw error;
      expect(error.violations).toEqual([
        { field: 'stages[1].rateGroups[0].pattern', description: "no parameter of this stage matches 'norm'" },
      ]);
      return;
    }
    throw new Error('the group was accepted');
  });
});

describe('auto', () => {
  const auto = { ...FIXED, learningRate: 'auto' as const };
  const LORA = { 'model.layers.0.mlp.up_proj.lora_A.weight': [2, 4], 'model.layers.0.mlp.up_proj.lora_magnitude_vector.weight': [4] };

  test('falls with the root of the width: 2e-5 at 576 for whole matrices', () => {
    expect(learningRates(auto, CONFIG, WHOLE).peak).toBeCloseTo(4e-5, 12);
    expect(learningRates(auto, { ...CONFIG, hiddenSize: 576 }, WHOLE).peak).toBe(2e-5);
  });

  test('is ten times that for LoRA, and for gains alone', () => {
    expect(learningRates(auto, CONFIG, parameters(LORA)).peak).toBeCloseTo(4e-4, 12);
    expect(learningRates(auto, CONFIG, parameters({ 'model.norm.weight': [4] })).peak).toBeCloseTo(4e-4, 12);
  });

  test('keeps whole tensors beside LoRA at a tenth', () => {
    const { peak, factor } = learningRates(auto, CONFIG, parameters({ ...LORA, 'model.norm.weight': [4] }));
    expect(peak).toBeCloseTo(4e-4, 12);
    expect([...Object.keys(LORA), 'model.norm.weight'].map(factor)).toEqual([1, 1, 0.1]);
  });
});
