/** Gradients of a batch that is cut into micro-batches are those of the uncut batch, to 1e-6 of the largest one, for every objective and way of keeping activations. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { PromptExample } from '../../src/models/prompt.js';
import { Runtime } from '../../src/runtime/index.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { resolveStage, type SavedActivations, type StageSpecification, type TrainableSelection } from '../../src/tuning/specification.js';
import { stageObjective } from '../../src/tuning/stage-objective.js';
import { readStageRows } from '../../src/tuning/stage-rows.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { longestPadded } from '../../src/tuning/trainer.js';
import { beginStage } from '../../src/tuning/tuning-run.js';
import { WorkingModel } from '../../src/tuning/working-model.js';

const { abs, max, sin } = Math;
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
const ROWS: Readonly<Record<'languageModel' | 'classification' | 'preference', readonly PromptExample[]>> = {
  languageModel: WORDS.map((word, i) => ({ kind: 'completion', prompt: `The ${word} was ${'so '.repeat(i % 4)}`, completion: `${WORDS[(i * 5) % 9]!} ${'and '.repeat(i % 3)}` })),
  classification: WORDS.map((word, i) => ({ kind: 'label', text: `The ${word} was ${'so '.repeat(i % 4)}fine`, label: ['no', 'maybe', 'yes'][i % 3]! })),
  preference: WORDS.map((word, i) => ({ kind: 'preference', prompt: `The ${word} was`, chosen: ` ${WORDS[(i * 5) % 9]!}`, rejected: ` not ${WORDS[(i * 2 + 1) % 9]!}` })),
};
const FULL: TrainableSelection = { kind: 'full' };
const LORA: TrainableSelection = { kind: 'lora', rank: 4 };
const WHOLE = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const CUTS: readonly (readonly (readonly number[])[])[] = [[[3, 0, 8, 5], [1, 2], [4, 6, 7]], WHOLE.map((row) => [row])];

/** Gradients of the mean loss over all rows, cut as asked. */
type Gradients = (cut: readonly (readonly number[])[]) => Promise<Float32Array>;

async function withStage(more: Partial<StageSpecification>, savedActivations: SavedActivations, use: (gradients: Gradients) => Promise<void>): Promise<void> {
  const { config, weights, digest } = checkpoint;
  const stage = resolveStage({ dataset: 'd', trainable: FULL, ...more }, 64);
  const lease = new TrainingHost(runtime).lease({ key: digest, config, weights });
  const read = await readStageRows(ROWS[stage.objective.kind], stage, checkpoint);
  const working = new WorkingModel(lease);
  if (read.labels !== undefined) working.classify({ labels: read.labels, template: '{text}' }, 1);
  const { model } = await beginStage(working, config, stage, 1);
  const objective = await stageObjective(read, stage, lease, model);
  // Away from where a stage begins: B of LoRA is 0 there, and a preference's slopes are all alike.
  const values = model.parameters.values.f32();
  for (let i = 0; i < values.length; i++) values[i] = values[i]! * (1 + 0.05 * sin(i)) + 0.002 * sin(7 * i);
  const pass = await ModelPass.create(lease, model, { savedActivations, maxLengthTokens: longestPadded(objective), packed: stage.packing, head: objective.head });
  const scale = 1 / WHOLE.reduce((sum, row) => sum + objective.terms(row), 0);
  const randomOf = (): never => {
    throw new Error('there is no dropout here');
  };
  try {
    await use(async (cut) => {
      for (const [i, rows] of cut.entries()) await objective.gradients(pass, rows, { scale, adding: i > 0, signal: undefined, randomOf });
      return model.parameters.gradients.f32().slice();
    });
  } finally {
    pass.dispose();
    model.parameters.disposeGradients();
    await lease.release();
  }
}

const largest = (values: Float32Array): number => values.reduce((most, value) => max(most, abs(value)), 0);

describe.each<[string, TrainableSelection]>([['full', FULL], ['LoRA', LORA]])('%s', (_label, trainable) => {
  test.each<[string, Partial<StageSpecification>]>([
    ['the language model', {}],
    ['the language model, packed', { packing: true }],
    ['a classification', { objective: { kind: 'classification', template: '{text}' } }],
    ['preferences', { objective: { kind: 'preference', beta: 0.5, sftWeight: 0.3 } }],
  ])('%s: accumulated over micro-batches, every gradient is that of the full batch', async (_name, more) => {
    for (const savedActivations of ['linear', 'layer'] as const) {
      await withStage({ trainable, ...more }, savedActivations, async (gradients) => {
        const whole = await gradients([WHOLE]);
        const size = largest(whole);
        expect(size).toBeGreaterThan(1e-3);
        for (const cut of CUTS) {
          const accumulated = await gradients(cut);
          expect(largest(accumulated.map((value, i) => value - whole[i]!)) / size).toBeLessThanOrEqual(1e-6);
        }
        // Weighing micro-batches alike instead of by terms, or leaving one out, would be seen.
        expect(largest((await gradients(CUTS[0]!.slice(1))).map((value, i) => value - whole[i]!)) / size).toBeGreaterThan(1e-2);
      });
    }
  });
});
