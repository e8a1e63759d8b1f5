// Classification heads and DPO against PyTorch, transformers and PEFT (scripts/golden/objectives.py): first gradients and the losses of
// 100 AdamW steps, unpacked and packed, in whole and cut micro-batches.
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime } from '../../src/runtime/index.js';
import { parseSafetensors } from '../../src/tensor/safetensors.js';
import { tokenRow, type TokenRow } from '../../src/tuning/batches.js';
import type { StepEvent } from '../../src/tuning/index.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { beginStage } from '../../src/tuning/tuning-run.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import { resolveStage, type ResolvedStage, type StageSpecification, type TrainableSelection } from '../../src/tuning/specification.js';
import { stageObjective } from '../../src/tuning/stage-objective.js';
import { labelRow, type StageRows } from '../../src/tuning/stage-rows.js';
import { trainStage } from '../../src/tuning/trainer.js';
import type { StageMemory } from '../../src/tuning/memory-budget.js';
import { TrainingHost, type BaseLease } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';

interface Row {
  readonly tokens: number[];
  readonly lossMask: boolean[];
}

interface Golden {
  readonly labelled: { tokens: number[]; label: number }[];
  readonly pairs: { chosen: Row; rejected: Row }[];
  readonly settings: {
    steps: number; warmupSteps: number; learningRate: number; weightDecay: number; maxGradientNorm: number; rank: number; alpha: number; labels: number;
    preferences: Record<'plain' | 'mixed', { beta: number; labelSmoothing: number; sftWeight: number }>;
  };
  readonly cases: Record<string, { losses: number[]; gradientNorms: number[]; parameters: string[] }>;
}

const GOLDEN = JSON.parse(readFileSync('test/golden/objectives.json', 'utf8')) as Golden;
const TENSORS = parseSafetensors(readFileSync('test/golden/objectives.safetensors'));
const { settings } = GOLDEN;
const LABELS = ['a', 'b', 'c'];
const LORA = { kind: 'lora', rank: settings.rank, alpha: settings.alpha } as const;
const HEAD = 'score.weight';
const SELECTIONS: Record<string, TrainableSelection> = {
  'classification/full': { kind: 'full' },
  'classification/lora': LORA,
  'classification/head': { kind: 'components', components: ['head'] },
  'preference/full': { kind: 'full' },
  'preference/lora': LORA,
  'preference/mixed': LORA,
};

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

const isClassification = (label: string): boolean => label.startsWith('classification');

function rowsOf(label: string): StageRows {
  const rows: TokenRow[] = isClassification(label)
    ? GOLDEN.labelled.map(({ tokens, label: index }) => labelRow(tokens, index))
    : GOLDEN.pairs.flatMap(({ chosen, rejected }) => [tokenRow(chosen)!, tokenRow(rejected)!]);
  return { rows, skipped: 0, ...(isClassification(label) ? { labels: LABELS } : {}) };
}

function stageOf(label: string, more: Partial<StageSpecification> = {}): ResolvedStage {
  return resolveStage({
    dataset: 'golden', trainable: SELECTIONS[label]!, steps: settings.steps, learningRate: settings.learningRate, weightDecay: settings.weightDecay,
    maxGradientNorm: settings.maxGradientNorm, schedule: { kind: 'cosine', warmupSteps: settings.warmupSteps }, batchSize: 2, accumulationSteps: 3, maxLengthTokens: 64,
    objective: isClassification(label) ? { kind: 'classification' } : { kind: 'preference', ...settings.preferences[label.endsWith('mixed') ? 'mixed' : 'plain'] },
    ...more,
  }, 64);
}

const initial = (label: string, name: string): Float32Array => TENSORS.get(`${label}/initial/${name}`)!.data as Float32Array;

/** The model at the start of a case, with the golden head and LoRA matrices. */
async function begin(label: string, lease: BaseLease, stage: ResolvedStage): ReturnType<typeof beginStage> {
  const working = new WorkingModel(lease);
  const plan = selectTrainable(checkpoint.config, stage.trainable, 'trainable', isClassification(label));
  const modules = [...plan.lora].map(([module, { rank, scaling }]) =>
    [module, { module, rank, scaling, a: initial(label, `${module}.lora_A.weight`), b: initial(label, `${module}.lora_B.weight`) }] as const);
  working.load({ modules: new Map(modules) });
  if (isClassification(label)) working.classify({ labels: LABELS, template: '{text}' }, 1, initial(label, HEAD));
  return beginStage(working, checkpoint.config, stage, 1);
}

function largestDifference(got: ArrayLike<number>, want: ArrayLike<number>): number {
  expect(got.length).toBe(want.length);
  let most = 0;
  for (let i = 0; i < got.length; i++) most = Math.max(most, Math.abs(got[i]! - want[i]!));
  return most;
}

const lease = (): BaseLease => new TrainingHost(runtime).lease({ key: 'tiny-llama', config: checkpoint.config, weights: checkpoint.weights });

/** How micro-batches are made changes no step. */
const FORMS: Record<string, { readonly stage: Partial<StageSpecification>; readonly memory: StageMemory }> = {
  unpacked: { stage: {}, memory: { savedActivations: 'linear', microBatchTokens: 4096 } },
  packed: { stage: { packing: true }, memory: { savedActivations: 'linear', microBatchTokens: 4096 } },
  'cut to single rows, from layer inputs alone': { stage: {}, memory: { savedActivations: 'layer', microBatchTokens: 1 } },
};

test.each([
  ...Object.keys(SELECTIONS).map((label) => [label, 'unpacked']),
  ...['classification/lora', 'preference/mixed'].flatMap((label) => Object.keys(FORMS).slice(1).map((form) => [label, form])),
])('%s: 100 AdamW steps follow PyTorch, %s', async (label, form) => {
  const golden = GOLDEN.cases[label]!;
  const { stage: more, memory } = FORMS[form]!;
  const held = lease();
  const stage = stageOf(label, more);
  const begun = await begin(label, held, stage);
  const objective = await stageObjective(rowsOf(label), stage, held, begun.model);
  const events: StepEvent[] = [];
  await trainStage({ ...begun, memory, lease: held, stage, stageIndex: 0, objective, seed: 1, signal: undefined, emit: (event) => { events.push(event); } });
  expect(events).toHaveLength(100);
  expect(largestDifference(events.map(({ loss }) => loss), golden.losses)).toBeLessThanOrEqual(1e-5);
  expect(largestDifference(events.map(({ gradientNorm }) => gradientNorm), golden.gradientNorms)).toBeLessThanOrEqual(1e-3);
  const terms = isClassification(label) ? GOLDEN.labelled.length : GOLDEN.pairs.length;
  expect(events.every(({ lossTokens, preferenceMargin }) => lossTokens === terms && (preferenceMargin !== undefined) !== isClassification(label))).toBe(true);
  await held.release();
});

test.each(['classification/lora', 'classification/head', 'preference/mixed'])('%s: every first gradient, added up over two micro-batches, is that of PyTorch', async (label) => {
  const golden = GOLDEN.cases[label]!;
  const held = lease();
  const stage = stageOf(label);
  const { model } = await begin(label, held, stage);
  expect([...model.parameters.names].sort()).toEqual(golden.parameters);
  const objective = await stageObjective(rowsOf(label), stage, held, model);
  const pass = await ModelPass.create(held, model, { savedActivations: 'linear', maxLengthTokens: 64, head: objective.head });
  const indices = objective.lengths.map((_, i) => i);
  const randomOf = (): never => {
    throw new Error('there is no dropout here');
  };
  for (const [i, part] of [indices.slice(0, 2), indices.slice(2)].entries()) {
    await objective.gradients(pass, part, { scale: 1 / indices.length, adding: i > 0, signal: undefined, randomOf });
  }
  for (const name of golden.parameters) {
    const difference = largestDifference(model.parameters.gradient(name).f32(), TENSORS.get(`${label}/gradient/${name}`)!.data as Float32Array);
    expect({ name, close: difference <= 1e-5 }).toEqual({ name, close: true });
  }
  pass.dispose();
  model.parameters.disposeGradients();
  await held.release();
});
