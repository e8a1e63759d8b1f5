// Training of every family against PyTorch (scripts/golden/family_training.py): gradients of the whole model in one step, and for
// Qwen2 and GPT-2 the losses of 100 AdamW steps, all weights and LoRA.
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { parseHfConfig } from '../../src/models/config.js';
import { Runtime } from '../../src/runtime/index.js';
import { parseSafetensors } from '../../src/tensor/safetensors.js';
import { layOut, tokenRow, type TokenRow } from '../../src/tuning/batches.js';
import { tokenObjective } from '../../src/tuning/objective-tokens.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { beginStage } from '../../src/tuning/tuning-run.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import { resolveStage, type SavedActivations, type TrainableSelection } from '../../src/tuning/specification.js';
import { trainStage } from '../../src/tuning/trainer.js';
import { TrainingHost, type BaseLease } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';
import { goldenPath, openTiny } from '../engine/support.js';

interface Golden {
  readonly rows: { tokens: number[]; lossMask: boolean[] }[];
  readonly settings: { steps: number; warmupSteps: number; learningRate: number; weightDecay: number; maxGradientNorm: number; rank: number; alpha: number; stride: number };
  readonly variants: Record<string, string>;
  readonly losses: Record<string, number>;
  readonly curves: Record<string, Record<'full' | 'lora', { losses: number[]; gradientNorms: number[] }>>;
}

const { abs, max, sqrt } = Math;
const GOLDEN = JSON.parse(readFileSync(goldenPath('family-training/training.json'), 'utf8')) as Golden;
const GRADIENTS = parseSafetensors(readFileSync(goldenPath('family-training/gradients.safetensors')));
const INITIAL = parseSafetensors(readFileSync(goldenPath('family-training/lora.safetensors')));
const { settings } = GOLDEN;
const ROWS: readonly TokenRow[] = GOLDEN.rows.map((row) => tokenRow(row)!);
const families = Object.keys(GOLDEN.losses);

let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open();
});
afterAll(() => runtime.close());

/** The family's weights with the config of the variant that its gradients were taken of. */
async function leaseOf(family: string, variant = 'plain'): Promise<{ checkpoint: Checkpoint; lease: BaseLease; release: () => Promise<void> }> {
  const checkpoint = await openTiny(`families/${family}`);
  const { configs } = JSON.parse(readFileSync(goldenPath(`families/${family}.json`), 'utf8')) as { configs: Record<string, unknown> };
  const config = { ...parseHfConfig(configs[variant]), eosTokenIds: checkpoint.config.eosTokenIds };
  const lease = new TrainingHost(runtime).lease({ key: family, config, weights: checkpoint.weights });
  return { checkpoint, lease, release: () => lease.release().then(() => checkpoint.close()) };
}

const stageOf = (trainable: TrainableSelection, maxPositionTokens: number): ReturnType<typeof resolveStage> => resolveStage({
  dataset: 'golden', steps: settings.steps, learningRate: settings.learningRate, weightDecay: settings.weightDecay, maxGradientNorm: settings.maxGradientNorm,
  schedule: { kind: 'cosine', warmupSteps: settings.warmupSteps }, batchSize: 2, accumulationSteps: 3, maxLengthTokens: 64, trainable,
}, maxPositionTokens);

describe.each(families)('%s', (family) => {
  // Made for 128 tokens a pass takes the same rows in two blocks of attention.
  test.each<[SavedActivations, number]>([['linear', 64], ['layer', 64], ['linear', 128]])('every gradient, keeping %s inputs, made for %i tokens, is that of PyTorch', async (savedActivations, maxLengthTokens) => {
    const { lease, release } = await leaseOf(family, GOLDEN.variants[family]);
    const { model } = await beginStage(new WorkingModel(lease), lease.config, stageOf({ kind: 'full' }, lease.config.maxPositionTokens), 1);
    const pass = await ModelPass.create(lease, model, { savedActivations, maxLengthTokens });
    const scale = 1 / ROWS.reduce((sum, row) => sum + row.lossTokens, 0);
    // Two micro-batches: the second adds to the first's gradients.
    const losses = [...(await pass.gradients(layOut(ROWS.slice(0, 4)), scale, false, undefined)), ...(await pass.gradients(layOut(ROWS.slice(4)), scale, true, undefined))];
    expect(abs(losses.reduce((sum, loss) => sum + loss, 0) * scale - GOLDEN.losses[family]!)).toBeLessThanOrEqual(1e-5);
    const names = [...GRADIENTS.keys()].filter((name) => name.startsWith(`${family}/`) && !name.endsWith('/norm')).map((name) => name.slice(family.length + 1));
    expect([...model.parameters.names].sort()).toEqual(names.sort());
    const wrong: (readonly [string, number])[] = [];
    for (const name of names) {
      const want = GRADIENTS.get(`${family}/${name}`)!.data as Float32Array;
      const [norm] = GRADIENTS.get(`${family}/${name}/norm`)!.data as Float32Array;
      const got = model.parameters.gradient(name).f32();
      let square = 0;
      for (const value of got) square += value * value;
      let most = abs(sqrt(square) - norm!);
      for (let i = 0; i < want.length; i++) most = max(most, abs(got[i * settings.stride]! - want[i]!));
      // The bias of k moves all of a query's scores alike where nothing is rotated: its gradient is rounding alone.
      if (!(most <= 1e-5 * max(norm!, 1e-3))) wrong.push([name, most / norm!]);
    }
    expect(wrong).toEqual([]);
    pass.dispose();
    model.parameters.disposeGradients();
    await release();
  });
});

describe.each(Object.keys(GOLDEN.curves))('%s', (family) => {
  test.each(['full', 'lora'] as const)('100 AdamW steps follow PyTorch: %s', async (label) => {
    const { lease, release } = await leaseOf(family);
    const trainable: TrainableSelection = label === 'full' ? { kind: 'full' } : { kind: 'lora', rank: settings.rank, alpha: settings.alpha };
    const working = new WorkingModel(lease);
    const { lora } = selectTrainable(lease.config, trainable);
    const matrix = (name: string): Float32Array => INITIAL.get(`${family}/${name}`)!.data as Float32Array;
    working.load({
      modules: new Map([...lora].map(([module, { rank, scaling }]) => [module, { module, rank, scaling, a: matrix(`${module}.lora_A.weight`), b: matrix(`${module}.lora_B.weight`) }])),
    });
    const stage = stageOf(trainable, lease.config.maxPositionTokens);
    const losses: number[] = [];
    const norms: number[] = [];
    await trainStage({
      ...(await beginStage(working, lease.config, stage, 1)), lease, stage, stageIndex: 0, memory: { savedActivations: 'linear', microBatchTokens: 4096 }, objective: tokenObjective(ROWS, stage), seed: 1, signal: undefined,
      emit: (event) => {
        losses.push(event.loss);
        norms.push(event.gradientNorm);
      },
    });
    const golden = GOLDEN.curves[family]![label];
    const largest = (got: readonly number[], want: readonly number[]): number => got.reduce((most, value, i) => max(most, abs(value - want[i]!)), abs(got.length - want.length));
    expect(largest(losses, golden.losses)).toBeLessThanOrEqual(1e-5);
    expect(largest(norms, golden.gradientNorms)).toBeLessThanOrEqual(1e-3);
    await release();
  });
});
