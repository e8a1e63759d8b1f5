// The trainer against PyTorch, transformers and PEFT (scripts/golden/tiny_llama_training.py): logits, every gradient, and the losses of
// 100 AdamW steps with warm-up, cosine decay, weight decay and clipping, rows of different lengths and partial loss masks.
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { DecoderConfig } from '../../src/models/config.js';
import { Runtime } from '../../src/runtime/index.js';
import { parseSafetensors } from '../../src/tensor/safetensors.js';
import { layOut, pack, tokenRow, type TokenRow } from '../../src/tuning/batches.js';
import { dropoutStream, type RandomOfRow } from '../../src/tuning/dropout.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { tokenObjective } from '../../src/tuning/objective-tokens.js';
import { beginStage } from '../../src/tuning/tuning-run.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import { resolveStage, type ResolvedStage, type SavedActivations, type StageSpecification, type TrainableSelection } from '../../src/tuning/specification.js';
import { trainStage } from '../../src/tuning/trainer.js';
import { TrainingHost, type BaseLease } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';

interface Golden {
  readonly rows: { tokens: number[]; lossMask: boolean[] }[];
  readonly settings: {
    steps: number; warmupSteps: number; learningRate: number; weightDecay: number; maxGradientNorm: number; rank: number; alpha: number; ranks: Record<string, number>;
    alphas: Record<string, number>; dropout: number; seed: number; layerDecay: number; groups: Record<string, number>; leastRatio: number;
  };
  readonly cases: Record<string, { losses: number[]; gradientNorms: number[]; parameters: string[] }>;
}

const GOLDEN = JSON.parse(readFileSync('test/golden/tiny-llama-training.json', 'utf8')) as Golden;
const TENSORS = parseSafetensors(readFileSync('test/golden/tiny-llama-training.safetensors'));
const { settings } = GOLDEN;
const ROWS: readonly TokenRow[] = GOLDEN.rows.map((row) => tokenRow(row)!);
const LORA = { kind: 'lora', rank: settings.rank, alpha: settings.alpha } as const;
const SELECTIONS: Record<string, TrainableSelection> = {
  lora: LORA,
  patterns: { ...LORA, rsLora: true, modulePatterns: [...Object.entries(settings.ranks).map(([pattern, rank]) => ({ pattern, rank })), ...Object.entries(settings.alphas).map(([pattern, alpha]) => ({ pattern, alpha }))] },
  dora: { ...LORA, dora: true },
  dropout: { ...LORA, dropout: settings.dropout },
  full: { kind: 'full' },
  lastLayer: { kind: 'lastLayers', layers: 1, includeNorm: true },
  attention: { kind: 'components', components: ['attention'] },
  feedForward: { kind: 'components', components: ['feedForward'] },
  rates: { kind: 'full' },
  // Other checkpoints, trained whole: a head of its own and biases; attention over a sliding window.
  'tiny-llama-float16': { kind: 'full' },
  'tiny-serving-window': { kind: 'full' },
};

let runtime: Runtime;

beforeAll(() => {
  runtime = Runtime.open();
});

afterAll(() => runtime.close());

async function leaseOf(name: string): Promise<{ checkpoint: Checkpoint; lease: BaseLease; release: () => Promise<void> }> {
  const checkpoint = await openCheckpoint(`test/golden/${name}`);
  const lease = new TrainingHost(runtime).lease({ key: name, config: checkpoint.config, weights: checkpoint.weights });
  return { checkpoint, lease, release: () => lease.release().then(() => checkpoint.close()) };
}

/** The model at the start of a case; LoRA begins with the golden matrices. */
async function begin(label: string, { config }: Checkpoint, lease: BaseLease, stage = stageOf(label, config)): ReturnType<typeof beginStage> {
  const working = new WorkingModel(lease);
  const plan = selectTrainable(config, stage.trainable);
  if (plan.lora.size > 0) {
    const initial = (name: string): Float32Array | undefined => TENSORS.get(`${label === 'dropout' ? 'lora' : label}/initial/${name}`)?.data as Float32Array | undefined;
    const modules = [...plan.lora].map(([module, { rank, scaling }]) => {
      const magnitude = initial(`${module}.lora_magnitude_vector.weight`);
      const matrices = { module, rank, scaling, a: initial(`${module}.lora_A.weight`)!, b: initial(`${module}.lora_B.weight`)! };
      return [module, magnitude === undefined ? matrices : { ...matrices, magnitude }] as const;
    });
    working.load({ modules: new Map(modules) });
  }
  return beginStage(working, config, stage, 1);
}

const STAGE: Omit<StageSpecification, 'trainable'> = {
  dataset: 'golden', steps: settings.steps, learningRate: settings.learningRate, weightDecay: settings.weightDecay, maxGradientNorm: settings.maxGradientNorm,
  schedule: { kind: 'cosine', warmupSteps: settings.warmupSteps }, batchSize: 2, accumulationSteps: 3, maxLengthTokens: 64,
};

function stageOf(label: string, config: DecoderConfig): ResolvedStage {
  const own: Partial<StageSpecification> = label === 'rates' ? {
    layerDecay: settings.layerDecay, rateGroups: Object.entries(settings.groups).map(([part, multiplier]) => ({ pattern: `*${part}*`, multiplier })),
    schedule: { ...STAGE.schedule!, leastRatio: settings.leastRatio },
  } : {};
  return resolveStage({ ...STAGE, ...own, steps: GOLDEN.cases[label]!.losses.length, trainable: SELECTIONS[label]! }, config.maxPositionTokens);
}

/** Where the gradients of a case were written: those of a part of tiny-llama are the whole model's. */
const gradientsOf = (label: string): string => (TENSORS.has(`${label}/gradient/${GOLDEN.cases[label]!.parameters[0]!}`) ? label : 'full');

function largestDifference(got: ArrayLike<number>, want: ArrayLike<number>): number {
  expect(got.length).toBe(want.length);
  let most = 0;
  for (let i = 0; i < got.length; i++) most = Math.max(most, Math.abs(got[i]! - want[i]!));
  return most;
}

test.each(['tiny-llama', 'tiny-llama-float16', 'tiny-llama-sharded'])('logits of %s are those of transformers', async (name) => {
  const { lease, release } = await leaseOf(name);
  const { tokens, logits } = (JSON.parse(readFileSync('test/golden/tiny-llama-logits.json', 'utf8')) as Record<string, { tokens: number[]; logits: number[][] }>)[name]!;
  const pass = await ModelPass.create(lease, new WorkingModel(lease).frozen(), { savedActivations: 'linear', maxLengthTokens: 64 });
  const positions = tokens.map((_, i) => i).slice(-logits.length);
  expect(largestDifference(await pass.logits(tokens, positions), logits.flat())).toBeLessThanOrEqual(1e-5);
  pass.dispose();
  await release();
});

describe.each(Object.keys(SELECTIONS))('%s', (label) => {
  const folder = label.startsWith('tiny-') ? label : 'tiny-llama';
  const golden = GOLDEN.cases[label]!;

  // Rows of 64 tokens at most are one block of attention; made for 512 a pass takes them in eight.
  test.each<[SavedActivations, 'packed' | 'unpacked', number]>([
    ['linear', 'unpacked', 64],
    ['layer', 'unpacked', 64],
    ['linear', 'packed', 64],
    ['linear', 'unpacked', 512],
    ['layer', 'packed', 512],
  ])('every gradient, keeping %s inputs of %s rows, made for %i tokens, is that of PyTorch', async (savedActivations, form, maxLengthTokens) => {
    const { checkpoint, lease, release } = await leaseOf(folder);
    const { model } = await begin(label, checkpoint, lease);
    const pass = await ModelPass.create(lease, model, { savedActivations, maxLengthTokens, packed: form === 'packed' });
    const scale = 1 / ROWS.reduce((sum, row) => sum + row.lossTokens, 0);
    const masks = (first: number): RandomOfRow => (row, module) => dropoutStream(settings.seed, 0, 1, first + row, module);
    const lay = form === 'packed' ? pack : layOut;
    // Two micro-batches: the second adds to the first's gradients.
    await pass.gradients(lay(ROWS.slice(0, 4)), scale, false, undefined, masks(0));
    await pass.gradients(lay(ROWS.slice(4)), scale, true, undefined, masks(4));
    expect([...model.parameters.names].sort()).toEqual(golden.parameters);
    for (const name of golden.parameters) {
      const want = TENSORS.get(`${gradientsOf(label)}/gradient/${name}`)!.data as Float32Array;
      const difference = largestDifference(model.parameters.gradient(name).f32(), want);
      expect({ name, close: difference <= 1e-5 }).toEqual({ name, close: true });
    }
    pass.dispose();
    model.parameters.disposeGradients();
    await release();
  });

  test(`${golden.losses.length} AdamW steps follow PyTorch`, async () => {
    const { checkpoint, lease, release } = await leaseOf(folder);
    const { losses, norms } = await train(lease, await begin(label, checkpoint, lease), stageOf(label, checkpoint.config), ROWS);
    follows({ losses, norms }, golden);
    await release();
  });
});

describe('Adafactor follows PyTorch, but for gains over 100 steps', () => {
  type Case = 'full' | 'lora' | 'gains' | 'tuned';
  const golden = JSON.parse(readFileSync('test/golden/tiny-llama-adafactor.json', 'utf8')) as {
    readonly settings: { clipThreshold: number; beta2Decay: number; weightDecay: number; epsilons: [number, number] };
    readonly cases: Record<Case, { peak: number; losses: number[]; gradientNorms: number[] }>;
  };
  const { weightDecay, ...adafactor } = golden.settings;

  test.each<[Case, string, Partial<StageSpecification>]>([
    ['full', 'full', { adafactor: {} }],
    ['lora', 'lora', { adafactor: {} }],
    ['gains', 'gains', { adafactor: {} }],
    ['tuned', 'rates', { adafactor, weightDecay }],
  ])('%s', async (name, label, options) => {
    const { checkpoint, lease, release } = await leaseOf('tiny-llama');
    const trainable = SELECTIONS[label] ?? ({ kind: 'components', components: ['norms'] } as const);
    const rates = label === 'rates' ? { layerDecay: settings.layerDecay, rateGroups: Object.entries(settings.groups).map(([part, multiplier]) => ({ pattern: `*${part}*`, multiplier })) } : {};
    const stage = resolveStage({ ...STAGE, weightDecay: 0, ...rates, ...options, learningRate: golden.cases[name].peak, trainable }, 64);
    const { losses, norms } = await train(lease, await begin(label, checkpoint, lease, stage), stage, ROWS);
    const compared = golden.cases[name].losses.length;
    follows({ losses: losses.slice(0, compared), norms: norms.slice(0, compared) }, golden.cases[name]);
    await release();
  });
});

test('two stages, the last layer on some rows and then attention on others, follow PyTorch', async () => {
  const { checkpoint, lease, release } = await leaseOf('tiny-llama');
  const working = new WorkingModel(lease);
  const run = { losses: [] as number[], norms: [] as number[] };
  for (const [trainable, rows] of [[SELECTIONS.lastLayer!, ROWS.slice(0, 3)], [SELECTIONS.attention!, ROWS.slice(3)]] as const) {
    const stage = resolveStage({ ...STAGE, steps: settings.steps / 2, accumulationSteps: 2, trainable }, 64);
    const { losses, norms } = await train(lease, await beginStage(working, checkpoint.config, stage, 1), stage, rows);
    run.losses.push(...losses);
    run.norms.push(...norms);
  }
  follows(run, GOLDEN.cases.staged!);
  await release();
});

async function train(lease: BaseLease, begun: Awaited<ReturnType<typeof beginStage>>, stage: ResolvedStage, rows: readonly TokenRow[]): Promise<{ losses: number[]; norms: number[] }> {
  const losses: number[] = [];
  const norms: number[] = [];
  await trainStage({
    ...begun, lease, stage, stageIndex: 0, memory: { savedActivations: 'linear', microBatchTokens: 4096 }, objective: tokenObjective(rows, stage), seed: settings.seed, signal: undefined,
    emit: (event) => {
      losses.push(event.loss);
      norms.push(event.gradientNorm);
    },
  });
  return { losses, norms };
}

function follows({ losses, norms }: { losses: number[]; norms: number[] }, golden: Pick<Golden['cases'][string], 'losses' | 'gradientNorms'>): void {
  expect(largestDifference(losses, golden.losses)).toBeLessThanOrEqual(1e-5);
  expect(largestDifference(norms, golden.gradientNorms) / Math.max(...golden.gradientNorms)).toBeLessThanOrEqual(1e-3);
}
