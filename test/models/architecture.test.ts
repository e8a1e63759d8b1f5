import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Xoshiro128 } from '../../src/common/random.js';
import { gaussian } from '../../src/common/random-streams.js';
import {
  activationImportance, BlockInfluence, checkArchitecture, editArchitecture, editedWeights, leastImportant, magnitudeImportance,
  NeuronActivity, planArchitecture, type ArchitectureEdits, type ArchitectureMeasurements, type EditedModel,
} from '../../src/models/architecture.js';
import { openCheckpoint } from '../../src/models/checkpoint.js';
import { weightShapes, type DecoderConfig } from '../../src/models/config.js';
import { GOLDEN } from '../golden/smollm2.js';
import { float64Decoder, type Float64Decoder } from './float64-decoder.js';

const CONFIG: DecoderConfig = {
  family: 'llama', vocabSize: 11, hiddenSize: 8, intermediateSize: 6, layers: 3, heads: 2, kvHeads: 1, headDim: 4, maxPositionTokens: 32, ropeTheta: 10000,
  rmsNormEpsilon: 1e-5, tieWordEmbeddings: true, attentionBias: true, mlpBias: true, eosTokenIds: [0],
};
const TOKENS = [3, 7, 1, 10, 7];

const normal = gaussian(new Xoshiro128(9));
const BASE = new Map([...weightShapes(CONFIG)].map(([name, shape]) => [name, Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => 0.5 * normal())]));
const weights = { float32: async (name: string): Promise<Float32Array> => BASE.get(name)!.slice() };

async function edit(edits: ArchitectureEdits, measured: ArchitectureMeasurements = {}, seed = 1): Promise<{ model: EditedModel; decoder: Float64Decoder; tensors: Map<string, Float32Array> }> {
  const model = await editArchitecture({ config: CONFIG, edits, weights, measured, seed });
  const source = editedWeights(weights, model);
  const tensors = new Map<string, Float32Array>();
  for (const name of source.names()) {
    tensors.set(name, await source.float32(name));
    expect(tensors.get(name)).toHaveLength(source.shape(name).reduce((n, d) => n * d, 1));
  }
  return { model, tensors, decoder: float64Decoder(model.config, (name) => tensors.get(name)) };
}

const baseLogits = float64Decoder(CONFIG, (name) => BASE.get(name)).logits(TOKENS);

/** BASE without the layers, for comparison. */
function without(...layers: number[]): Float64Decoder {
  const kept = [0, 1, 2].filter((layer) => !layers.includes(layer));
  const name = (of: string): string => of.replace(/layers\.(\d+)/, (_, i: string) => `layers.${kept[Number(i)]!}`);
  return float64Decoder({ ...CONFIG, layers: kept.length }, (of) => BASE.get(name(of)));
}

test('the decoder of these tests computes what transformers computes', async () => {
  const { config, weights: stored } = await openCheckpoint(join(GOLDEN, 'tiny-llama'));
  const golden = (JSON.parse(readFileSync(join(GOLDEN, 'tiny-llama-logits.json'), 'utf8')) as Record<string, { tokens: number[]; logits: number[][] }>)['tiny-llama']!;
  const tensors = new Map<string, Float32Array>();
  for (const name of stored.names()) tensors.set(name, await stored.float32(name));
  const logits = float64Decoder(config, (name) => tensors.get(name)).logits(golden.tokens);
  golden.logits.forEach((row, t) => row.forEach((value, i) => expect(Math.abs(logits[t]![i]! - value)).toBeLessThan(2e-5)));
});

describe('inserted layers', () => {
  test.each<[string, ArchitectureEdits]>([
    ['a copy in the middle', { insert: [{ at: 1 }] }],
    ['copies at both ends, two of them', { insert: [{ at: 0, count: 2 }, { at: 3 }] }],
    ['a fresh one', { insert: [{ at: 2, initialize: 'fresh' }] }],
    ['a copy of another, with its unit grown', { insert: [{ at: 1, copyOf: 2 }], growFeedForward: [{ neurons: 3, layers: [2] }] }],
  ])('%s: logits are exactly the base\'s', async (_name, edits) => {
    const { model, decoder } = await edit(edits);
    expect(model.config.layers).toBe(3 + edits.insert!.reduce((sum, { count = 1 }) => sum + count, 0));
    expect(decoder.logits(TOKENS)).toEqual(baseLogits);
  });

  test('a copy shares all but the zeros; layers behind move up; nothing else is made', async () => {
    const { model } = await edit({ insert: [{ at: 1 }] });
    expect(model.layers.map(({ base, inserted }) => [base, inserted])).toEqual([[0, false], [0, 'copy'], [1, false], [2, false]]);
    const at = (local: string): string => `model.layers.1.${local}`;
    expect([...model.made.keys()].sort()).toEqual(['mlp.down_proj.bias', 'mlp.down_proj.weight', 'self_attn.o_proj.bias', 'self_attn.o_proj.weight'].map(at));
    for (const data of model.made.values()) expect(data.every((value) => value === 0)).toBe(true);
    expect(model.unchanged.get(at('mlp.gate_proj.weight'))).toBe('model.layers.0.mlp.gate_proj.weight');
    expect(model.unchanged.get('model.layers.3.input_layernorm.weight')).toBe('model.layers.2.input_layernorm.weight');
    expect(model.unchanged.get('model.embed_tokens.weight')).toBe('model.embed_tokens.weight');
    expect(model.unchanged.size + model.made.size).toBe(model.shapes.size);
  });

  test('a fresh layer: gains 1, biases 0, weights of the neighbour\'s size, by seed', async () => {
    const edits: ArchitectureEdits = { insert: [{ at: 2, initialize: 'fresh', count: 2 }] };
    const [first, again, other] = [await edit(edits), await edit(edits), await edit(edits, {}, 2)];
    const get = ({ tensors }: typeof first, local: string, layer = 2): Float32Array => tensors.get(`model.layers.${layer}.${local}`)!;
    expect(get(first, 'input_layernorm.weight')).toEqual(new Float32Array(8).fill(1));
    expect(get(first, 'self_attn.q_proj.bias')).toEqual(new Float32Array(8));
    const [drawn, neighbour] = [get(first, 'mlp.gate_proj.weight'), BASE.get('model.layers.1.mlp.gate_proj.weight')!];
    const rms = (x: Float32Array): number => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);
    expect(rms(drawn) / rms(neighbour)).toBeGreaterThan(0.6);
    expect(rms(drawn) / rms(neighbour)).toBeLessThan(1.6);
    expect(get(again, 'mlp.gate_proj.weight')).toEqual(drawn);
    expect(get(other, 'mlp.gate_proj.weight')).not.toEqual(drawn);
    expect(get(first, 'mlp.gate_proj.weight', 3)).not.toEqual(drawn);
  });
});

describe('removed layers', () => {
  test('by index: the model without them', async () => {
    const { model, decoder } = await edit({ remove: [1] });
    expect(model.config.layers).toBe(2);
    expect(model.made.size).toBe(0);
    expect(decoder.logits(TOKENS)).toEqual(without(1).logits(TOKENS));
  });

  test('by block influence: the layer that turns the stream least goes', async () => {
    const base = float64Decoder(CONFIG, (name) => (name.startsWith('model.layers.2.') && name.includes('o_proj') ? BASE.get(name)!.map((x) => x / 1000) : BASE.get(name)!.map((x) => (name.startsWith('model.layers.2.mlp.down') ? x / 1000 : x))));
    base.logits(TOKENS);
    const influence = new BlockInfluence(3, 8);
    for (let layer = 0; layer < 3; layer++) influence.add(layer, flat(base.streams[layer]!), flat(base.streams[layer + 1]!));
    const scores = influence.scores();
    expect(scores[2]).toBeLessThan(1e-4);
    const { model, decoder } = await edit({ removeLeastImportant: 1 }, { layerImportance: scores });
    expect(model.layers.map(({ base: layer }) => layer)).toEqual([0, 1]);
    expect(decoder.logits(TOKENS)).toEqual(without(2).logits(TOKENS));
  });

  test('together with an insertion, indices are the base\'s', async () => {
    const { model, decoder } = await edit({ remove: [0], insert: [{ at: 1, copyOf: 0 }, { at: 3 }] });
    expect(model.layers.map(({ base, inserted }) => [base, inserted])).toEqual([[0, 'copy'], [1, false], [2, false], [2, 'copy']]);
    expect(decoder.logits(TOKENS)).toEqual(without(0).logits(TOKENS));
  });
});

describe('feed-forward units', () => {
  test('grown everywhere: exactly the base\'s logits, one width, seeded rows', async () => {
    const { model, decoder, tensors } = await edit({ growFeedForward: [{ neurons: 5 }] });
    expect(model.config).toEqual({ ...CONFIG, intermediateSize: 11 });
    expect(model.config).not.toHaveProperty('intermediateSizes');
    expect(decoder.logits(TOKENS)).toEqual(baseLogits);
    const gate = tensors.get('model.layers.1.mlp.gate_proj.weight')!;
    expect(gate.slice(0, 48)).toEqual(BASE.get('model.layers.1.mlp.gate_proj.weight'));
    expect(gate.slice(48).every((value) => value !== 0)).toBe(true);
    expect(tensors.get('model.layers.1.mlp.up_proj.weight')!.slice(48)).not.toEqual(gate.slice(48));
    expect((await edit({ growFeedForward: [{ neurons: 5 }] })).tensors).toEqual(tensors);
    expect(model.unchanged.get('model.layers.1.mlp.down_proj.bias')).toBe('model.layers.1.mlp.down_proj.bias');
  });

  test('widths that differ by layer', async () => {
    const { model, decoder } = await edit({ growFeedForward: [{ neurons: 2, layers: [0] }, { neurons: 4, layers: [2] }], insert: [{ at: 1 }] });
    expect(model.config).toMatchObject({ intermediateSize: 10, intermediateSizes: [8, 8, 6, 10], layers: 4 });
    expect(model.shapes.get('model.layers.3.mlp.down_proj.weight')).toEqual([8, 10]);
    expect(model.shapes.get('model.layers.2.mlp.gate_proj.bias')).toEqual([6]);
    expect(decoder.logits(TOKENS)).toEqual(baseLogits);
    // An edited model can be edited again, from its own widths.
    expect(planArchitecture(model.config, { pruneFeedForward: [{ neurons: 3, layers: [0] }] }).config.intermediateSizes).toEqual([5, 8, 6, 10]);
  });

  test('pruned neurons that add nothing leave the logits as they are, by magnitude and by activity', async () => {
    const dead = [1, 4];
    const withDead = new Map(BASE);
    for (let layer = 0; layer < 3; layer++) {
      const name = `model.layers.${layer}.mlp.down_proj.weight`;
      withDead.set(name, BASE.get(name)!.map((value, i) => (dead.includes(i % 6) ? 0 : value)));
    }
    const reference = float64Decoder(CONFIG, (name) => withDead.get(name));
    const logits = reference.logits(TOKENS);
    const activity = new NeuronActivity();
    reference.activations.forEach((rows, layer) => activity.add(layer, flat(rows), 6));
    for (const importance of ['magnitude', 'activation'] as const) {
      const model = await editArchitecture({
        config: CONFIG, edits: { pruneFeedForward: [{ neurons: 2, importance }] }, weights: { float32: async (name) => withDead.get(name)! },
        measured: { neuronActivity: activity.means() }, seed: 1,
      });
      expect(model.config.intermediateSize).toBe(4);
      const pruned = float64Decoder(model.config, (name) => model.made.get(name) ?? withDead.get(name));
      pruned.logits(TOKENS).forEach((row, t) => row.forEach((value, i) => expect(value).toBeCloseTo(logits[t]![i]!, 12)));
      expect(model.made.get('model.layers.0.mlp.up_proj.bias')).toEqual(Float32Array.from([0, 2, 3, 5], (neuron) => BASE.get('model.layers.0.mlp.up_proj.bias')![neuron]!));
    }
  });
});

describe('importance', () => {
  test('block influence is 1 − mean cosine over counted tokens', () => {
    const influence = new BlockInfluence(2, 2);
    influence.add(0, Float32Array.of(1, 0, 1, 0, 3, 4), Float32Array.of(2, 0, 0, 5, -3, -4), [true, true, false]);
    influence.add(0, Float32Array.of(1, 1), Float32Array.of(1, 0));
    expect(() => influence.scores()).toThrow(/no token of layer 1/);
    influence.add(1, Float32Array.of(1, 0), Float32Array.of(-1, 0), [1]);
    expect(influence.scores()[0]).toBeCloseTo(1 - (1 + 0 + Math.SQRT1_2) / 3, 6);
    expect(influence.scores()[1]).toBe(2);
    expect(() => influence.add(0, new Float32Array(3), new Float32Array(3))).toThrow(RangeError);
  });

  test('neurons: products of norms', () => {
    const [gate, up, down] = [Float32Array.of(3, 4, 1, 0), Float32Array.of(1, 0, 0, 2), Float32Array.of(2, 0, 0, 5)];
    expect([...magnitudeImportance(gate, up, down, 2)]).toEqual([10, 10]);
    expect([...activationImportance([0.5, 3], down, 2)]).toEqual([1, 15]);
    const activity = new NeuronActivity();
    activity.add(4, Float32Array.of(1, -2, -3, 2), 2);
    activity.add(4, Float32Array.of(5, 2), 2);
    expect([...activity.means()]).toEqual([[4, Float64Array.of(3, 2)]]);
  });

  test('of equal scores the later index goes', () => {
    expect(leastImportant([1, 0, 2, 0, 0], 2)).toEqual([3, 4]);
  });
});

describe('checks', () => {
  test('every broken rule by its path', () => {
    const edits: ArchitectureEdits = {
      insert: [{ at: 4 }, { at: 0, count: 0, copyOf: 3 }],
      remove: [3, 1, 1],
      removeLeastImportant: 3,
      growFeedForward: [{ neurons: 0 }],
      pruneFeedForward: [{ neurons: 6, layers: [0] }, { neurons: 1, layers: [] }],
      dropout: { attention: 1, residual: -0.1, embedding: NaN },
    };
    const error = (): unknown => {
      try {
        return checkArchitecture(CONFIG, edits);
      } catch (thrown) {
        return thrown;
      }
    };
    expect((error() as { violations: { field: string }[] }).violations.map(({ field }) => field).sort()).toEqual([
      'architecture.dropout.attention', 'architecture.dropout.embedding', 'architecture.dropout.residual', 'architecture.growFeedForward[0].neurons',
      'architecture.insert[0].at', 'architecture.insert[1].copyOf', 'architecture.insert[1].count', 'architecture.pruneFeedForward[0].layers',
      'architecture.pruneFeedForward[0].neurons', 'architecture.pruneFeedForward[1].layers', 'architecture.removeLeastImportant',
      'architecture.removeLeastImportant', 'architecture.remove[0]', 'architecture.remove[2]',
    ]);
  });

  test('counts layers without measurements, and asks for those it needs when planning', () => {
    expect(checkArchitecture(CONFIG, { removeLeastImportant: 2, insert: [{ at: 0, count: 4 }] })).toEqual({ layers: 5 });
    expect(() => planArchitecture(CONFIG, { removeLeastImportant: 2 })).toThrow(/architecture.removeLeastImportant: the importance of the layers has not been measured/);
    expect(() => planArchitecture(CONFIG, { removeLeastImportant: 1 }, { layerImportance: [1, NaN, 1] })).toThrow(/has not been measured/);
    expect(() => planArchitecture(CONFIG, { pruneFeedForward: [{ neurons: 1, importance: 'activation', layers: [2] }] })).toThrow(/layer 2's neurons/);
  });

  test('dropout is carried along; no edits give the base', async () => {
    const { model } = await edit({ dropout: { residual: 0.1 } });
    expect(model.dropout).toEqual({ attention: 0, residual: 0.1, embedding: 0 });
    expect(model.config).toEqual(CONFIG);
    expect(model.made.size).toBe(0);
    expect(model.shapes).toEqual(weightShapes(CONFIG));
  });

  test('stops when aborted', async () => {
    await expect(editArchitecture({ config: CONFIG, edits: { insert: [{ at: 0 }] }, weights, seed: 1, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

function flat(rows: readonly Float64Array[]): Float32Array {
  return Float32Array.from(rows.flatMap((row) => [...row]));
}
