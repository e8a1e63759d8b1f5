// The trainer against PyTorch, transformers and PEFT (scripts/golden/tiny_llama_training.py): logits, every gradient, and the losses of
// 20 AdamW steps with warm-up, cosine decay, weight decay and clipping, rows of different lengths and partial loss masks.
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { LoraModule } from '../../src/adapters/adapter.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime } from '../../src/runtime/index.js';
import { parseSafetensors } from '../../src/tensor/safetensors.js';
import { layOut, tokenRow, type TokenRow } from '../../src/tuning/batches.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import { resolveStage, type SavedActivations, type StageSpecification, type TrainableSelection } from '../../src/tuning/specification.js';
import { trainStage } from '../../src/tuning/trainer.js';
import { TrainingHost, type BaseLease } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';

interface Golden {
  readonly rows: { tokens: number[]; lossMask: boolean[] }[];
  readonly settings: { steps: number; warmupSteps: number; learningRate: number; weightDecay: number; maxGradientNorm: number; rank: number; alpha: number };
  readonly cases: Record<string, { losses: number[]; gradientNorms: number[]; parameters: string[] }>;
}

const GOLDEN = JSON.parse(readFileSync('test/golden/tiny-llama-training.json', 'utf8')) as Golden;
const TENSORS = parseSafetensors(readFileSync('test/golden/tiny-llama-training.safetensors'));
const { settings } = GOLDEN;
const ROWS: readonly TokenRow[] = GOLDEN.rows.map((row) => tokenRow(row)!);
const SELECTIONS: Record<string, TrainableSelection> = {
  lora: { kind: 'lora', rank: settings.rank, alpha: settings.alpha },
  full: { kind: 'full' },
  lastLayer: { kind: 'lastLayers', layers: 1, includeNorm: true },
  attention: { kind: 'components', components: ['attention'] },
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
async function begin(label: string, { config }: Checkpoint, lease: BaseLease): Promise<Awaited<ReturnType<WorkingModel['begin']>>> {
  const working = new WorkingModel(lease);
  if (label === 'lora') {
    const initial = (name: string): Float32Array => TENSORS.get(`lora/initial/${name}`)!.data as Float32Array;
    const names = GOLDEN.cases.lora!.parameters.filter((name) => name.endsWith('.lora_A.weight')).map((name) => name.slice(0, -'.lora_A.weight'.length));
    const modules = names.map((module): [string, LoraModule] => [
      module,
      { module, rank: settings.rank, scaling: settings.alpha / settings.rank, a: initial(`${module}.lora_A.weight`), b: initial(`${module}.lora_B.weight`) },
    ]);
    working.load({ kind: 'lora', modules: new Map(modules) });
  }
  return working.begin(selectTrainable(config, SELECTIONS[label]!), 1, true);
}

const STAGE: Omit<StageSpecification, 'trainable'> = {
  dataset: 'golden', steps: settings.steps, learningRate: settings.learningRate, weightDecay: settings.weightDecay, maxGradientNorm: settings.maxGradientNorm,
  schedule: { kind: 'cosine', warmupSteps: settings.warmupSteps }, batchSize: 2, accumulationSteps: 3, maxLengthTokens: 64,
};

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

  test.each(['linear', 'layer'] as SavedActivations[])('every gradient, keeping %s inputs, is that of PyTorch', async (savedActivations) => {
    const { checkpoint, lease, release } = await leaseOf(folder);
    const model = await begin(label, checkpoint, lease);
    const pass = await ModelPass.create(lease, model, { savedActivations, maxLengthTokens: 64 });
    const scale = 1 / ROWS.reduce((sum, row) => sum + row.lossTokens, 0);
    // Two micro-batches: the second adds to the first's gradients.
    await pass.gradients(layOut(ROWS.slice(0, 4)), scale, false, undefined);
    await pass.gradients(layOut(ROWS.slice(4)), scale, true, undefined);
    expect([...model.parameters.names].sort()).toEqual(golden.parameters);
    for (const name of golden.parameters) {
      const want = TENSORS.get(`${label}/gradient/${name}`)!.data as Float32Array;
      const difference = largestDifference(model.parameters.gradient(name).f32(), want);
      expect({ name, close: difference <= 1e-5 }).toEqual({ name, close: true });
    }
    pass.dispose();
    model.parameters.disposeState();
    await release();
  });

  test('20 AdamW steps follow PyTorch', async () => {
    const { checkpoint, lease, release } = await leaseOf(folder);
    const model = await begin(label, checkpoint, lease);
    const losses: number[] = [];
    const norms: number[] = [];
    await trainStage({
      lease, model, stage: resolveStage({ ...STAGE, trainable: SELECTIONS[label]! }, checkpoint.config.maxPositionTokens), stageIndex: 0, rows: ROWS, seed: 5, signal: undefined,
      emit: (event) => {
        losses.push(event.loss);
        norms.push(event.gradientNorm);
      },
    });
    expect(largestDifference(losses, golden.losses)).toBeLessThanOrEqual(1e-5);
    expect(largestDifference(norms, golden.gradientNorms)).toBeLessThanOrEqual(1e-3);
    await release();
  });
});
