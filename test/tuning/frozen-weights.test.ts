// Frozen weights in integers: LoRA on them is LoRA on the float32 weights that they stand for, and products of eight-bit integers stay close.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { LINEAR_MODULES } from '../../src/models/decoder.js';
import { dequantizedFrozen, integerWeight } from '../../src/models/frozen-weights.js';
import { dequantizeInt8, quantizeInt8 } from '../../src/models/quantize.js';
import { Runtime } from '../../src/runtime/index.js';
import { layOut, tokenRow } from '../../src/tuning/batches.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { beginStage } from '../../src/tuning/tuning-run.js';
import { checkSpecification, resolveStage, type SavedActivations, type TrainableSelection } from '../../src/tuning/specification.js';
import { TrainingHost, type BaseModel, type BaseUse } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';

const { sin, abs, sqrt, max } = Math;
const LORA: TrainableSelection = { kind: 'lora', rank: 4 };
const LENGTHS = [24, 17, 24];
const ROWS = LENGTHS.map((length, row) => tokenRow({ tokens: Array.from({ length }, (_, i) => 3 + ((i * 37 + row * 101) % 2900)), lossMask: Array.from({ length }, (_, i) => i > 2) })!);
const isLinear = (name: string): boolean => LINEAR_MODULES.some((module) => name.endsWith(`${module}.weight`));

let runtime: Runtime;
let checkpoint: Checkpoint;

beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openCheckpoint('models/tiny');
});

afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
});

const baseOf = (weights: BaseModel['weights'] = checkpoint.weights): BaseModel => ({ key: 'tiny', config: checkpoint.config, weights });

interface Step {
  readonly loss: number;
  readonly gradients: Float32Array;
  readonly evaluated: number;
}

/** Loss and all gradients of one micro-batch, with LoRA's B away from zero; and the loss of a pass without gradients. */
async function step(base: BaseModel, use: BaseUse, trainable: TrainableSelection = LORA, savedActivations: SavedActivations = 'linear'): Promise<Step> {
  const lease = new TrainingHost(runtime).lease(base, use);
  const working = new WorkingModel(lease);
  const stage = resolveStage({ dataset: 'd', trainable, savedActivations }, checkpoint.config.maxPositionTokens);
  const { model } = await beginStage(working, checkpoint.config, stage, 1);
  for (const name of model.parameters.names.filter((parameter) => parameter.includes('lora_B'))) {
    const values = model.parameters.value(name).f32();
    for (let i = 0; i < values.length; i++) values[i] = 0.02 * sin(i + name.length);
  }
  const pass = await ModelPass.create(lease, model, { savedActivations, maxLengthTokens: 32 });
  const evaluation = await ModelPass.create(lease, working.frozen(), { savedActivations: 'layer', maxLengthTokens: 32 });
  const batch = layOut(ROWS);
  const losses = await pass.gradients(batch, 1 / 10, false, undefined);
  const result = { loss: sum(losses), gradients: model.parameters.gradients.f32().slice(), evaluated: sum(await evaluation.losses(batch, undefined)) };
  for (const one of [pass, evaluation]) one.dispose();
  model.parameters.disposeGradients();
  await lease.release();
  return result;
}

const sum = (values: Float32Array): number => values.reduce((total, value) => total + value, 0);
const largestDifference = (a: Float32Array, b: Float32Array): number => a.reduce((most, value, i) => max(most, abs(value - b[i]!)), 0);

function cosine(a: Float32Array, b: Float32Array): number {
  let [product, left, right] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    product += a[i]! * b[i]!;
    left += a[i]! ** 2;
    right += b[i]! ** 2;
  }
  return product / sqrt(left * right);
}

/** The base with its linear weights replaced by what their integers stand for, in float32. */
const dequantizedBase = (form: 'int8' | 'int4'): BaseModel => {
  const { weights } = checkpoint;
  const float32 = async (name: string): Promise<Float32Array> => {
    const data = await weights.float32(name);
    const [out, input] = weights.shape(name) as readonly [number, number];
    return isLinear(name) ? dequantizedFrozen(form, await integerWeight(form, data, out, input)) : data;
  };
  return baseOf({ shape: (name) => weights.shape(name), float32 });
};

describe.each(['int8', 'int4'] as const)('a base held in %s', (form) => {
  test.each([
    ['LoRA', LORA, 'linear'],
    ['LoRA, recomputed', LORA, 'layer'],
    ['DoRA', { ...LORA, dora: true }, 'linear'],
    ['LoRA beside a layer that is trained whole', { kind: 'union', of: [{ ...LORA, layers: [0, 1] }, { kind: 'layers', indices: [3] }] }, 'linear'],
  ] as const)('%s: loss and gradients are those on the weights that the integers stand for', async (_, trainable, saved) => {
    const held = await step(baseOf(), { weights: form }, trainable, saved);
    // A tensor that is trained whole starts from the file's values, never from rounded ones.
    const plain = dequantizedBase(form);
    const whole = (name: string): boolean => trainable.kind === 'union' && name.startsWith('model.layers.3.');
    const float32 = (name: string): Promise<Float32Array> => (whole(name) ? checkpoint.weights : plain.weights).float32(name);
    const wanted = await step({ ...plain, weights: { ...plain.weights, float32 } }, {}, trainable, saved);
    expect(abs(held.loss - wanted.loss)).toBeLessThanOrEqual(1e-4);
    expect(largestDifference(held.gradients, wanted.gradients)).toBeLessThanOrEqual(1e-5);
    expect(abs(held.evaluated - wanted.evaluated)).toBeLessThanOrEqual(1e-4);
    const exact = await step(baseOf(), {}, trainable, saved);
    expect(largestDifference(held.gradients, exact.gradients)).toBeGreaterThan(1e-4);
  });

  test('an element is rounded by at most one step of its block', async () => {
    const weight = Float32Array.from({ length: 6 * 64 }, (_, i) => sin(i * i) * (1 + (i % 7)));
    const integers = await integerWeight(form, weight, 6, 64);
    const back = dequantizedFrozen(form, integers);
    back.forEach((value, i) => expect(abs(value - weight[i]!)).toBeLessThanOrEqual(abs(integers.scales[(i / 32) | 0]!) * 1.0001));
    expect(integers.values.byteLength).toBe(form === 'int8' ? 6 * 64 : 3 * 64);
  });

  test('two jobs share one copy; a third that reads float32 does not disturb them', async () => {
    const host = new TrainingHost(runtime);
    const leases = [host.lease(baseOf(), { weights: form }), host.lease(baseOf(), { weights: form }), host.lease(baseOf())] as const;
    const name = 'model.layers.0.mlp.up_proj.weight';
    expect(await leases[0].integers(name, form)).toBe(await leases[1].integers(name, form));
    expect((await leases[2].weight(name)).f32()).toEqual(await checkpoint.weights.float32(name));
    for (const lease of leases) await lease.release();
  });
});

test('int8 holds the numbers that serving in eight bits uses', async () => {
  const name = 'model.layers.1.mlp.down_proj.weight';
  const [out, input] = checkpoint.weights.shape(name) as readonly [number, number];
  const weight = await checkpoint.weights.float32(name);
  expect(dequantizedFrozen('int8', await integerWeight('int8', weight, out, input))).toEqual(dequantizeInt8(await quantizeInt8(weight, out, input)));
});

describe('products of eight-bit integers', () => {
  test.each(['linear', 'layer'] as const)('gradients (%s) point where the exact ones do; evaluation is exact', async (saved) => {
    const exact = await step(baseOf(), {}, LORA, saved);
    const approximate = await step(baseOf(), { int8Products: true }, LORA, saved);
    expect(cosine(exact.gradients, approximate.gradients)).toBeGreaterThanOrEqual(0.997);
    expect(largestDifference(exact.gradients, approximate.gradients)).toBeGreaterThan(1e-5);
    expect(abs(approximate.loss / exact.loss - 1)).toBeLessThanOrEqual(0.005);
    expect(approximate.evaluated).toBe(exact.evaluated);
  });

  test('the same inputs give the same bytes', async () => {
    const [one, other] = [await step(baseOf(), { int8Products: true }), await step(baseOf(), { int8Products: true })];
    expect(one.gradients).toEqual(other.gradients);
  });

  test('are refused on a base that is held in integers', () => {
    const specification = { baseModel: 'tiny', seed: 0, stages: [{ dataset: 'd', trainable: LORA }], baseWeights: 'int8', int8Products: true } as const;
    expect(() => checkSpecification(specification)).toThrow(expect.objectContaining({ violations: [expect.objectContaining({ field: 'specification.int8Products' })] }));
  });
});
