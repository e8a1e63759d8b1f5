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
      learningRates({ ...FIXED, rateGroups: [{ pattern: 'norm', multiplier: 3 }] }, CONFIG, WHOLE, { path: 'stages[1]' });
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
  const SMOLLM2 = { hiddenSize: 576, layers: 30 } as DecoderConfig;
  const LARGE = { hiddenSize: 4096, layers: 32 } as DecoderConfig;
  const MATRICES = ['self_attn.q_proj', 'self_attn.o_proj', 'mlp.up_proj', 'mlp.down_proj'];
  const TENSORS = { weight: [4, 4], lora: [2, 4] };
  /** The matrices of some layers, or LoRA on them. */
  const matrices = (layers: number, kind: keyof typeof TENSORS = 'weight', names = MATRICES): Record<string, number[]> =>
    Object.fromEntries(
      Array.from({ length: layers }, (_, i) => names.map((name): [string, number[]] => [`model.layers.${i}.${name}${kind === 'lora' ? '.lora_A' : ''}.weight`, TENSORS[kind]])).flat(),
    );
  const peak = (config: DecoderConfig, shapes: Record<string, number[]>, duration?: { epochs: number; steps: number }, more: object = {}): number =>
    learningRates({ ...auto, ...more }, config, parameters(shapes), duration === undefined ? {} : { duration }).peak;

  test('is 2e-5 for all of 30 layers of 576, more below that width, and no less above', () => {
    expect(peak(SMOLLM2, matrices(30))).toBeCloseTo(2e-5, 12);
    expect(peak({ ...SMOLLM2, hiddenSize: 144 }, matrices(30))).toBeCloseTo(8e-5, 12);
    expect(peak({ ...SMOLLM2, hiddenSize: 4096 }, matrices(30))).toBeCloseTo(2e-5, 12);
  });

  test('is ten times that for LoRA from this width on, and does not grow below it', () => {
    for (const config of [SMOLLM2, LARGE]) expect(peak(config, matrices(config.layers, 'lora')) / peak(config, matrices(config.layers))).toBeCloseTo(10, 9);
    expect(peak({ ...SMOLLM2, hiddenSize: 144 }, matrices(30, 'lora'))).toBeCloseTo(2e-4, 12);
  });

  test('grows as fewer branches of layers are trained, up to 1e-2', () => {
    expect(peak(SMOLLM2, matrices(2))).toBeCloseTo(3e-4, 12);
    expect(peak(SMOLLM2, matrices(30, 'weight', MATRICES.slice(0, 2)))).toBeCloseTo(4e-5, 12);
    expect(peak(SMOLLM2, matrices(30, 'lora', MATRICES.slice(2)))).toBeCloseTo(4e-4, 12);
    expect(peak({ hiddenSize: 16, layers: 1 } as DecoderConfig, matrices(1))).toBe(1e-2);
    expect(peak(SMOLLM2, { 'model.embed_tokens.weight': [8, 4] })).toBeCloseTo(2e-5, 12);
  });

  test('falls with epochs beyond two, as far as steps beyond forty allow', () => {
    const of = (epochs: number, steps: number, more: object = {}): number => peak(SMOLLM2, matrices(30), { epochs, steps }, more) / peak(SMOLLM2, matrices(30), undefined, more);
    expect([of(2, 1000), of(1, 10), of(10, 40), of(8, 160), of(8, 1000), of(20, 80)]).toEqual([1, 1, 1, 0.25, 0.25, 0.5].map((share) => expect.closeTo(share, 9)));
    expect(of(8, 160, { adafactor: {} })).toBe(1);
    expect(peak(SMOLLM2, matrices(30), { epochs: 8, steps: 160 }, { learningRate: 3e-4 })).toBe(3e-4);
  });

  test('is that of LoRA for gains and a classification head alone', () => {
    expect(peak(SMOLLM2, { 'model.norm.weight': [4] })).toBeCloseTo(2e-4, 12);
    expect(peak(SMOLLM2, { 'score.weight': [2, 4] })).toBeCloseTo(2e-4, 12);
  });

  test('keeps whole tensors beside LoRA at their own rate, and gives a head beside them its own', () => {
    const beside = learningRates(auto, SMOLLM2, parameters({ ...matrices(30, 'lora'), 'model.norm.weight': [4] }));
    expect([beside.peak, beside.factor('model.layers.0.mlp.up_proj.lora_A.weight'), beside.factor('model.norm.weight')]).toEqual([2e-4, 1, 0.1].map((rate) => expect.closeTo(rate, 12)));
    const headed = learningRates(auto, SMOLLM2, parameters({ ...matrices(30), 'score.weight': [2, 4] }));
    expect([headed.peak, headed.factor('model.layers.0.mlp.up_proj.weight'), headed.factor('score.weight')]).toEqual([2e-5, 1, 10].map((rate) => expect.closeTo(rate, 9)));
  });

  test('is relative with Adafactor, whatever the model', () => {
    for (const config of [CONFIG, LARGE]) {
      expect(peak(config, matrices(2), undefined, { adafactor: {} })).toBe(1e-3);
      expect(peak(config, matrices(2, 'lora'), undefined, { adafactor: {} })).toBe(1e-2);
    }
  });
});
