import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { LoraInput, VariantInput } from '../../src/adapters/adapter.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { weightShapes } from '../../src/models/config.js';
import type { PromptExample } from '../../src/models/prompt.js';
import { Runtime } from '../../src/runtime/index.js';
import type { StepEvent, StageSpecification, TuningResult, TuningSpecification } from '../../src/tuning/index.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { tokenObjective } from '../../src/tuning/objective-tokens.js';
import { checkTuning, runTuning, trainOnTokens } from '../../src/tuning/run.js';
import { beginStage } from '../../src/tuning/tuning-run.js';
import { tokenRow } from '../../src/tuning/batches.js';
import { trainStage } from '../../src/tuning/trainer.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';

let runtime: Runtime;
let checkpoint: Checkpoint;

beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openCheckpoint('test/golden/tiny-llama');
});

afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
});

const WORDS = ['good', 'bad', 'price', 'battery', 'delivery', 'recommend', 'lazy dog', 'quick fox', 'an hour'];
const EXAMPLES: PromptExample[] = Array.from({ length: 14 }, (_, i) => ({ kind: 'completion', prompt: `The ${WORDS[i % 9]!} was ${'so '.repeat(i % 4)}`, completion: WORDS[(i * 5) % 9]! }));

const LORA: StageSpecification = { dataset: 'd', trainable: { kind: 'lora', rank: 2, alpha: 8, targetModules: ['q_proj', 'down_proj'] }, steps: 5, batchSize: 4, learningRate: 5e-3 };
const specification = (...stages: StageSpecification[]): TuningSpecification => ({ baseModel: 'models/tiny', stages, seed: 3 });

async function run(spec: TuningSpecification, extra: Partial<Parameters<typeof runTuning>[0]> = {}): Promise<{ result: TuningResult; events: StepEvent[] }> {
  const events: StepEvent[] = [];
  const result = await runTuning({
    checkpoint, host: new TrainingHost(runtime), specification: spec, examples: () => EXAMPLES, emit: (event) => { events.push(event); }, ...extra,
  });
  return { result, events };
}

const bytes = (content: LoraInput | VariantInput): string =>
  (content.kind === 'lora'
    ? [...content.modules.values()].flatMap(({ module, a, b }) => [module, Buffer.from(a.buffer, a.byteOffset, a.byteLength).toString('base64'), Buffer.from(b.buffer, b.byteOffset, b.byteLength).toString('base64')])
    : [...content.tensors].flatMap(([name, { data }]) => [name, Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64')])).join('\n');

/** Logits of the base with this content applied. */
async function logits(content: LoraInput | VariantInput): Promise<Float32Array> {
  const { config, weights } = checkpoint;
  const changed = content.kind === 'variant' ? content.tensors : new Map<string, { data: unknown }>();
  const source = { shape: (name: string) => weights.shape(name), float32: (name: string) => { const tensor = changed.get(name); return tensor === undefined ? weights.float32(name) : Promise.resolve((tensor.data as Float32Array).slice()); } };
  const lease = new TrainingHost(runtime).lease({ key: 'applied', config, weights: source });
  const working = new WorkingModel(lease);
  if (content.kind === 'lora') working.load(content);
  const pass = await ModelPass.create(lease, working.frozen(), { savedActivations: 'layer', maxLengthTokens: 16 });
  const result = (await pass.logits([5, 9, 33, 70, 12], [1, 4])).slice();
  pass.dispose();
  await lease.release();
  return result;
}

/** Cutting changes rounding alone: nothing to see in the first step, little in those that follow from it. */
function followsCut(whole: readonly StepEvent[], cut: readonly StepEvent[]): void {
  for (const figure of ['loss', 'gradientNorm'] as const) {
    expect(Math.abs(cut[0]![figure] / whole[0]![figure] - 1)).toBeLessThanOrEqual(1e-6);
    whole.forEach((event, i) => expect(Math.abs(cut[i]![figure] / event[figure] - 1)).toBeLessThanOrEqual(1e-5));
  }
}

const largestDifference = (a: Float32Array, b: Float32Array): number => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);

describe('a job', () => {
  test('is bit-reproducible: the same seed gives the same bytes, another seed others', async () => {
    const first = await run(specification(LORA));
    const second = await run(specification(LORA));
    const other = await run({ ...specification(LORA), seed: 4 });
    expect(bytes(first.result.content)).toBe(bytes(second.result.content));
    expect(first.events.map((e) => e.loss)).toEqual(second.events.map((e) => e.loss));
    expect(bytes(first.result.content)).not.toBe(bytes(other.result.content));
  });

  test('reports every step', async () => {
    const { steps: _steps, ...epochs } = { ...LORA, epochs: 2 };
    const { events, result } = await run(specification(epochs));
    expect(events.map((e) => e.step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(events.every((e) => e.totalSteps === 8 && e.lossTokens > 0 && e.tokens >= e.lossTokens && e.gradientNorm > 0 && e.tokensPerSecond > 0)).toBe(true);
    expect(events.at(-1)).toMatchObject({ epoch: 2, etaMs: 0 });
    expect(events[0]!.learningRate).toBeGreaterThan(events[7]!.learningRate);
    expect(result).toMatchObject({ steps: 8, skippedRows: 0, finalLoss: events.at(-1)!.loss, tokens: events.reduce((sum, e) => sum + e.tokens, 0) });
    expect(result.peakMemoryBytes).toBeGreaterThan(2 ** 20);
  });

  test('learns: the loss of rows seen again falls', async () => {
    const { events } = await run(specification({ ...LORA, trainable: { kind: 'full' }, steps: 30, batchSize: 14, learningRate: 3e-3 }));
    expect(events.at(-1)!.loss).toBeLessThan(0.5 * events[0]!.loss);
  });

  test('does not depend on how micro-batches are cut', async () => {
    const whole = await run(specification({ ...LORA, batchSize: 14 }));
    const cut = await run(specification({ ...LORA, batchSize: 14 }), { activationBudgetBytes: 1 });
    followsCut(whole.events, cut.events);
  });

  test('does not depend on packing, with dropout or without', async () => {
    for (const dropout of [0, 0.3]) {
      const stage: StageSpecification = { ...LORA, trainable: { kind: 'lora', rank: 2, alpha: 8, dropout }, batchSize: 7 };
      const unpacked = await run(specification(stage));
      const packed = await run(specification({ ...stage, packing: true }));
      packed.events.forEach((event, i) => expect(Math.abs(event.loss - unpacked.events[i]!.loss)).toBeLessThanOrEqual(1e-5));
      expect(packed.events.map((event) => [event.tokens, event.lossTokens])).toEqual(unpacked.events.map((event) => [event.tokens, event.lossTokens]));
    }
  });

  test('gives only what it trained: LoRA modules, or changed tensors', async () => {
    const lora = (await run(specification(LORA))).result.content;
    expect(lora.kind === 'lora' && [...lora.modules.keys()]).toEqual([0, 1].flatMap((i) => [`model.layers.${i}.self_attn.q_proj`, `model.layers.${i}.mlp.down_proj`]));
    const variant = (await run(specification({ ...LORA, trainable: { kind: 'components', components: ['norms'] } }))).result.content;
    expect(variant.kind === 'variant' && [...variant.tensors.keys()].sort()).toEqual(
      ['model.layers.0.input_layernorm.weight', 'model.layers.0.post_attention_layernorm.weight', 'model.layers.1.input_layernorm.weight', 'model.layers.1.post_attention_layernorm.weight', 'model.norm.weight'],
    );
  });
});

describe('LoRA with dropout', () => {
  const dropping: StageSpecification = { ...LORA, trainable: { kind: 'lora', rank: 2, alpha: 8, dropout: 0.3 }, batchSize: 14 };

  test('is bit-reproducible, and does not depend on how micro-batches are cut', async () => {
    const first = await run(specification(dropping));
    expect(bytes((await run(specification(dropping))).result.content)).toBe(bytes(first.result.content));
    const cut = await run(specification(dropping), { activationBudgetBytes: 1 });
    followsCut(first.events, cut.events);
    const without = await run(specification({ ...dropping, trainable: { kind: 'lora', rank: 2, alpha: 8 } }));
    expect(Math.abs(without.events[4]!.loss - first.events[4]!.loss)).toBeGreaterThan(1e-4);
    // B is zero at first, so that dropping inputs of A changes nothing yet.
    expect(without.events[0]!.loss).toBeCloseTo(first.events[0]!.loss, 5);
  });
});

describe('DoRA', () => {
  const dora: StageSpecification = { ...LORA, trainable: { kind: 'lora', rank: 2, alpha: 8, targetModules: ['q_proj', 'down_proj'], dora: true } };

  test('begins as no change, and gives the changed weights merged', async () => {
    const { config, weights } = checkpoint;
    const lease = new TrainingHost(runtime).lease({ key: 'dora', config, weights });
    const working = new WorkingModel(lease);
    const logitsNow = async (): Promise<Float32Array> => {
      const pass = await ModelPass.create(lease, working.frozen(), { savedActivations: 'layer', maxLengthTokens: 16 });
      const result = (await pass.logits([5, 9, 33, 70, 12], [1, 4])).slice();
      pass.dispose();
      return result;
    };
    const before = await logitsNow();
    const stage = checkTuning(specification(dora), config)[0]!;
    const begun = await beginStage(working, config, stage, 3);
    expect(largestDifference(await logitsNow(), before)).toBeLessThanOrEqual(1e-5);
    const rows = [[5, 9, 33, 70], [12, 9, 8, 7]].map((tokens) => tokenRow({ tokens, lossMask: [true, true, true, true] })!);
    await trainStage({ ...begun, lease, stage, stageIndex: 0, memory: { savedActivations: 'linear', microBatchTokens: 4096 }, objective: tokenObjective(rows, stage), seed: 3, emit: () => undefined, signal: undefined });
    const unmerged = await logitsNow();
    expect(largestDifference(unmerged, before)).toBeGreaterThan(1e-2);
    const content = (await working.content()) as VariantInput;
    expect(content.kind).toBe('variant');
    expect([...content.tensors.keys()].sort()).toEqual([0, 1].flatMap((i) => [`model.layers.${i}.mlp.down_proj.weight`, `model.layers.${i}.self_attn.q_proj.weight`]));
    expect(largestDifference(await logits(content), unmerged)).toBeLessThanOrEqual(1e-5);
    await lease.release();
  });

  test('is trained on by a later stage that selects it again, and merged before plain LoRA', async () => {
    const still = { steps: 1, learningRate: 1e-12 };
    const once = (await run(specification(dora))).result.content;
    const again = (await run(specification(dora, { ...dora, ...still }))).result.content;
    expect(largestDifference(await logits(again), await logits(once))).toBeLessThanOrEqual(1e-5);
    const plain = (await run(specification(dora, { ...LORA, ...still }))).result.content;
    expect(largestDifference(await logits(plain), await logits(once))).toBeLessThanOrEqual(1e-5);
  });
});

test('a least rate, decay by layer and groups reach the optimizer', async () => {
  const stage: StageSpecification = {
    ...LORA, trainable: { kind: 'full' }, steps: 1, learningRate: 1e-3, weightDecay: 0, maxGradientNorm: 0, layerDecay: 0.25, rateGroups: [{ pattern: 'model.norm.weight', multiplier: 8 }],
    schedule: { kind: 'constant' },
  };
  const { result } = await run(specification(stage));
  const moved = async (name: string): Promise<number> => {
    const before = await checkpoint.weights.float32(name);
    return largestDifference((result.content as VariantInput).tensors.get(name)!.data as Float32Array, before);
  };
  // The first step of AdamW moves an element by the rate, unless its gradient is tiny.
  expect(await moved('model.layers.1.mlp.up_proj.weight')).toBeCloseTo(1e-3, 6);
  expect(await moved('model.layers.0.mlp.up_proj.weight')).toBeCloseTo(0.25e-3, 6);
  expect(await moved('model.norm.weight')).toBeCloseTo(8e-3, 6);
});

describe('stages', () => {
  const still = 1e-12;

  test('a later stage trains on with LoRA of the same shape, and keeps other LoRA as it was', async () => {
    const one = (await run(specification(LORA))).result.content as LoraInput;
    const two = (await run(specification(LORA, { ...LORA, trainable: { kind: 'lora', rank: 2, alpha: 8, targetModules: ['q_proj', 'v_proj'] }, steps: 1, learningRate: still }))).result.content as LoraInput;
    expect(two.kind).toBe('lora');
    expect(two.modules.size).toBe(6);
    for (const module of ['model.layers.0.self_attn.q_proj', 'model.layers.0.mlp.down_proj']) {
      expect(largestDifference(two.modules.get(module)!.b, one.modules.get(module)!.b)).toBeLessThan(1e-7);
    }
  });

  test('LoRA is merged where a later stage trains the weight whole, or where anything else changed', async () => {
    const one = (await run(specification(LORA))).result.content;
    const merged = (await run(specification(LORA, { ...LORA, trainable: { kind: 'lastLayers', layers: 1 }, steps: 1, learningRate: still }))).result.content as VariantInput;
    expect(merged.kind).toBe('variant');
    expect([...merged.tensors.keys()]).toEqual(expect.arrayContaining(['model.layers.0.self_attn.q_proj.weight', 'model.layers.0.mlp.down_proj.weight', 'model.layers.1.self_attn.q_proj.weight']));
    expect(merged.tensors.has('model.layers.0.self_attn.k_proj.weight')).toBe(false);
    expect(largestDifference(await logits(merged), await logits(one))).toBeLessThan(1e-4);
    expect(largestDifference(await logits(merged), await logits({ kind: 'lora', modules: new Map() }))).toBeGreaterThan(1e-2);
  });
});

describe('endings', () => {
  test('an abort stops within a run and frees the base for the next job', async () => {
    const host = new TrainingHost(runtime);
    const abort = new AbortController();
    const steps: number[] = [];
    const job = run(specification({ ...LORA, steps: 1000 }), { host, signal: abort.signal, emit: ({ step }) => { steps.push(step); if (step === 2) abort.abort(); } });
    await expect(job).rejects.toMatchObject({ code: 'CANCELLED', reason: 'CANCELLED' });
    expect(steps).toEqual([1, 2]);
    await expect(run(specification({ ...LORA, steps: 1 }), { host })).resolves.toBeDefined();
  });

  test('a loss that is not a number stops the job', async () => {
    const initialTensors = new Map<string, Float32Array>();
    for (const name of weightShapes(checkpoint.config).keys()) initialTensors.set(name, await checkpoint.weights.float32(name));
    initialTensors.get('model.norm.weight')![3] = Number.NaN;
    const training = trainOnTokens({ runtime, config: checkpoint.config, initialTensors, rows: [{ tokens: [1, 2, 3], lossMask: [false, true, true] }], stage: { steps: 3 }, seed: 1, emit: () => undefined });
    await expect(training).rejects.toMatchObject({ reason: 'TRAINING_DIVERGED', message: 'training diverged at step 1: the loss is NaN' });
  });

  test('a token that the model does not have is refused', async () => {
    const initialTensors = new Map<string, Float32Array>();
    for (const name of weightShapes(checkpoint.config).keys()) initialTensors.set(name, await checkpoint.weights.float32(name));
    const training = trainOnTokens({ runtime, config: checkpoint.config, initialTensors, rows: [{ tokens: [1, 160], lossMask: [false, true] }], stage: { steps: 1 }, seed: 1, emit: () => undefined });
    await expect(training).rejects.toThrow("rows[0]: token 160 is not below the vocabulary's 160");
  });

  test('rows without anything to learn are counted, and refused when there are no others', async () => {
    const empty: PromptExample = { kind: 'messages', messages: [{ role: 'user', content: 'hello' }] };
    expect((await run(specification({ ...LORA, steps: 1 }), { examples: () => [...EXAMPLES, empty] })).result.skippedRows).toBe(1);
    await expect(run(specification(LORA), { examples: () => [empty] })).rejects.toMatchObject({ reason: 'DATASET_INVALID' });
  });

  test('a broken specification is refused before any work, with every broken rule', () => {
    const check = (stage: Partial<StageSpecification>): unknown => checkTuning(specification({ ...LORA, ...stage }), checkpoint.config);
    expect(() => check({ batchSize: 0, epochs: 1, betas: [0.9, 1], maxLengthTokens: 129 })).toThrow(
      expect.objectContaining({
        violations: [
          { field: 'specification.stages[0].steps', description: 'give epochs or steps, not both' },
          { field: 'specification.stages[0].batchSize', description: 'must be an integer of at least 1, not 0' },
          { field: 'specification.stages[0].maxLengthTokens', description: 'the model takes at most 128 tokens' },
          { field: 'specification.stages[0].betas[1]', description: 'must be at least 0 and below 1, not 1' },
        ],
      }),
    );
    expect(() => check({ trainable: { kind: 'lastLayers', layers: 3 } })).toThrow('specification.stages[0].trainable.layers: must be 1 to 2, not 3');
    expect(() => checkTuning({ baseModel: '', stages: [], seed: -1 }, checkpoint.config)).toThrow('specification.stages: must have at least one stage');
  });
});

test('training on plain tokens: all tensors come back, the given ones are untouched, held-out loss is reported', async () => {
  const initialTensors = new Map<string, Float32Array>();
  for (const name of weightShapes(checkpoint.config).keys()) initialTensors.set(name, await checkpoint.weights.float32(name));
  const before = initialTensors.get('model.embed_tokens.weight')!.slice();
  const rows = Array.from({ length: 6 }, (_, i) => ({ tokens: Array.from({ length: 12 }, (_, t) => 3 + ((i + t) % 7)), lossMask: Array.from({ length: 12 }, () => true) }));
  const heldOut: [number, number][] = [];
  const { tensors, outcome } = await trainOnTokens({
    runtime, config: checkpoint.config, initialTensors, rows, stage: { steps: 40, learningRate: 5e-3, batchSize: 6, objective: { kind: 'languageModel', loss: 'all' } }, seed: 1, emit: () => undefined,
    validation: { rows: rows.slice(0, 2), everySteps: 20, report: (step, loss) => heldOut.push([step, loss]) },
  });
  expect(heldOut.map(([step]) => step)).toEqual([20, 40]);
  expect(heldOut[1]![1]).toBeLessThan(heldOut[0]![1]);
  expect(outcome.finalLoss).toBeLessThan(0.6);
  expect([...tensors.keys()].sort()).toEqual([...weightShapes(checkpoint.config).keys()].sort());
  expect(initialTensors.get('model.embed_tokens.weight')).toEqual(before);
  expect(tensors.get('model.embed_tokens.weight')).not.toEqual(before);
});
