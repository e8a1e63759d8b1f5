// What the objectives beside the language model compute, train, leave alone and refuse. That they follow PyTorch is objectives.golden.test.ts.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { LoraInput, VariantInput } from '../../src/adapters/index.js';
import { type LoricaError } from '../../src/common/errors.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { PromptExample } from '../../src/models/prompt.js';
import { Runtime } from '../../src/runtime/index.js';
import { runTuning, TrainingHost, type ObjectiveSpecification, type StageSpecification, type StepEvent, type TuningResult } from '../../src/tuning/index.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { pairLoss } from '../../src/tuning/objective-preference.js';
import { beginStage } from '../../src/tuning/tuning-run.js';
import { resolveStage } from '../../src/tuning/specification.js';
import { stageObjective } from '../../src/tuning/stage-objective.js';
import { readStageRows } from '../../src/tuning/stage-rows.js';
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
const LABELLED: PromptExample[] = WORDS.map((word, i) => ({ kind: 'label', text: `The ${word} was ${'so '.repeat(i % 4)}fine`, label: ['no', 'maybe', 'yes'][i % 3]! }));
const PAIRS: PromptExample[] = WORDS.map((word, i) => ({ kind: 'preference', prompt: `The ${word} was`, chosen: ` ${WORDS[(i * 5) % 9]!}`, rejected: ` not ${WORDS[(i * 2 + 1) % 9]!}` }));
const CLASSIFICATION = { kind: 'classification' } as const;
const LORA = { kind: 'lora', rank: 4 } as const;
const HEAD_ALONE = { kind: 'components', components: ['head'] } as const;

async function run(examples: PromptExample[], ...stages: Partial<StageSpecification>[]): Promise<{ result: TuningResult; events: StepEvent[] }> {
  const events: StepEvent[] = [];
  const result = await runTuning({
    checkpoint, host: new TrainingHost(runtime), examples: () => examples, emit: (event) => { events.push(event); },
    specification: { baseModel: 'models/tiny', seed: 3, stages: stages.map((stage) => ({ dataset: 'd', trainable: LORA, steps: 3, batchSize: 4, ...stage })) },
  });
  return { result, events };
}

async function refusal(work: Promise<unknown>): Promise<LoricaError> {
  return work.then(() => { throw new Error('was not refused'); }, (error: unknown) => error as LoricaError);
}

const OPTIONS = [
  { beta: 0.1, labelSmoothing: 0, sftWeight: 0 },
  { beta: 2, labelSmoothing: 0.2, sftWeight: 0 },
  { beta: 0.7, labelSmoothing: 0.1, sftWeight: 1.5 },
];

describe('the loss of a pair', () => {
  test.each(OPTIONS)('has the derivatives of central differences: %j', (options) => {
    for (const [chosen, rejected] of [[3, 5], [8, 2.5], [4, 4]] as const) {
      const at = (c: number, r: number) => pairLoss([c, r], [4.2, 3.9], 7, options);
      const step = 1e-5;
      expect(at(chosen, rejected).chosen).toBeCloseTo((at(chosen + step, rejected).loss - at(chosen - step, rejected).loss) / (2 * step), 8);
      expect(at(chosen, rejected).rejected).toBeCloseTo((at(chosen, rejected + step).loss - at(chosen, rejected - step).loss) / (2 * step), 8);
    }
  });

  test('is log 2 where nothing has changed, and finite however far the answers are apart', () => {
    expect(pairLoss([5, 6], [5, 6], 3, OPTIONS[0]!)).toMatchObject({ loss: Math.log(2), margin: 0, chosen: 0.05, rejected: -0.05 });
    expect(pairLoss([5e4, 1], [1, 5e4], 3, OPTIONS[1]!).loss).toBeCloseTo(0.8 * 2 * 2 * 49_999, 3);
    expect(pairLoss([1, 5e4], [5e4, 1], 3, OPTIONS[0]!)).toMatchObject({ loss: expect.closeTo(0, 12), chosen: expect.closeTo(0, 12) });
  });
});

describe.each<[string, ObjectiveSpecification, PromptExample[]]>([
  ['classification', CLASSIFICATION, LABELLED],
  ['preference', { kind: 'preference', beta: 0.5, sftWeight: 0.3 }, PAIRS],
])('%s', (_name, objective, examples) => {
  test('the gradient of all parameters agrees with central differences along random directions', async () => {
    const lease = new TrainingHost(runtime).lease({ key: 'k', config: checkpoint.config, weights: checkpoint.weights });
    const stage = resolveStage({ dataset: 'd', trainable: { kind: 'full' }, objective }, 64);
    const rows = await readStageRows(examples, stage, checkpoint);
    const working = new WorkingModel(lease);
    if (rows.labels !== undefined) working.classify({ labels: rows.labels, template: '{text}' }, 1);
    const { model } = await beginStage(working, checkpoint.config, stage, 1);
    const made = await stageObjective(rows, stage, lease, model);
    const pass = await ModelPass.create(lease, model, { savedActivations: 'linear', maxLengthTokens: 64, head: made.head });
    const all = made.lengths.map((_, i) => i);
    const values = model.parameters.values.f32();
    // Away from where the reference is, so that a preference's slopes are not all alike.
    for (let i = 0; i < values.length; i++) values[i]! *= 1 + 0.05 * Math.sin(i);
    await made.gradients(pass, all, { scale: 1, adding: false, signal: undefined, randomOf: () => { throw new Error('no dropout'); } });
    const gradients = model.parameters.gradients.f32().slice();
    const initial = values.slice();
    for (const seed of [1, 2, 3]) {
      const direction = initial.map((_, i) => Math.sign(gradients[i]!) * (1 + Math.cos(i * seed)));
      const along = async (step: number): Promise<number> => {
        for (let i = 0; i < values.length; i++) values[i] = initial[i]! + step * direction[i]!;
        return (await made.measure(pass, all, undefined)).lossSum;
      };
      const step = 4e-5;
      const difference = ((await along(step)) - (await along(-step))) / (2 * step);
      const product = gradients.reduce((sum, gradient, i) => sum + gradient * direction[i]!, 0);
      expect(Math.abs(difference / product - 1)).toBeLessThan(1e-3);
    }
    pass.dispose();
    model.parameters.disposeGradients();
    await lease.release();
  });

  test('one batch overfits', async () => {
    const { events } = await run(examples, { objective, trainable: { kind: 'full' }, steps: 60, batchSize: 9, learningRate: 3e-3, schedule: { kind: 'constant' } });
    expect(events.at(-1)!.loss).toBeLessThan(0.25 * events[0]!.loss);
    expect(events[0]!.lossTokens).toBe(9);
  });

  test('is bit-reproducible by its seed', async () => {
    const [first, second] = [await run(examples, { objective }), await run(examples, { objective })];
    expect(first.events.map(({ loss }) => loss)).toEqual(second.events.map(({ loss }) => loss));
    expect((first.result.content as LoraInput).modules).toEqual((second.result.content as LoraInput).modules);
    expect((first.result.content as LoraInput).head).toEqual((second.result.content as LoraInput).head);
  });
});

describe('a classification', () => {
  const head = async (...stages: Partial<StageSpecification>[]): Promise<LoraInput | VariantInput> =>
    (await run(LABELLED, ...stages.map((stage) => ({ objective: CLASSIFICATION, ...stage })))).result.content;

  test('gives LoRA with a head over the sorted labels of the data', async () => {
    const content = await head({});
    expect([content.kind, content.head?.labels, content.head?.template, content.head?.weight.length]).toEqual(['lora', ['maybe', 'no', 'yes'], '{text}', 3 * 48]);
    expect((content as LoraInput).modules.size).toBe(14);
  });

  test('of the head alone changes nothing else: no module, no tensor', async () => {
    const content = await head({ trainable: HEAD_ALONE, steps: 20, learningRate: undefined as never });
    expect(content).toMatchObject({ kind: 'lora', modules: new Map() });
    const untouched = await head({ trainable: HEAD_ALONE, steps: 1, learningRate: 1e-30 });
    expect(content.head!.weight).not.toEqual(untouched.head!.weight);
    // A new head is N(0, 0.02).
    const { weight } = untouched.head!;
    expect(Math.abs(weight.reduce((sum, value) => sum + value, 0) / weight.length)).toBeLessThan(0.006);
    expect(Math.sqrt(weight.reduce((sum, value) => sum + value * value, 0) / weight.length)).toBeCloseTo(0.02, 2);
  });

  test('of some tensors gives those and the head, and leaves every tensor of the base byte-identical', async () => {
    const host = new TrainingHost(runtime);
    const lease = host.lease({ key: checkpoint.digest, config: checkpoint.config, weights: checkpoint.weights });
    const before = new Map<string, Float32Array>();
    for (const name of ['model.embed_tokens.weight', 'model.layers.0.mlp.up_proj.weight', 'model.layers.1.self_attn.q_proj.weight', 'model.norm.weight']) before.set(name, (await lease.weight(name)).f32().slice());
    const { content } = await runTuning({
      checkpoint, host, examples: () => LABELLED, emit: () => undefined,
      specification: { baseModel: 'models/tiny', seed: 3, stages: [{ dataset: 'd', trainable: { kind: 'lastLayers', layers: 1, includeNorm: true, includeHead: true }, steps: 3, objective: CLASSIFICATION }] },
    });
    expect(content.kind === 'variant' && [...content.tensors.keys()].every((name) => name.startsWith('model.layers.1.') || name === 'model.norm.weight')).toBe(true);
    expect(content.head?.labels).toHaveLength(3);
    for (const [name, values] of before) expect((await lease.weight(name)).f32()).toEqual(values);
    await lease.release();
  });

  test('in a later stage trains the same labels on, and begins anew with others', async () => {
    const once = await head({ trainable: HEAD_ALONE, steps: 4 });
    const still = { trainable: HEAD_ALONE, steps: 1, learningRate: 1e-30 };
    const kept = await head({ trainable: HEAD_ALONE, steps: 4 }, still);
    expect(kept.head!.weight).toEqual(once.head!.weight);
    const wider = await head({ trainable: HEAD_ALONE, steps: 4 }, { ...still, objective: { kind: 'classification', labels: ['yes', 'no', 'maybe', 'never'] } });
    expect([wider.head!.labels, wider.head!.weight.length]).toEqual([['yes', 'no', 'maybe', 'never'], 4 * 48]);
    expect(wider.head!.weight.every((value) => Math.abs(value) < 0.1)).toBe(true);
  });

  test('reads what its template says', async () => {
    const [plain, worded] = [await run(LABELLED, { objective: CLASSIFICATION }), await run(LABELLED, { objective: { kind: 'classification', template: 'Review: {text}' } })];
    expect(worded.events[0]!.tokens).toBeGreaterThan(plain.events[0]!.tokens);
    expect(worded.result.content.head?.template).toBe('Review: {text}');
  });

  test.each<[string, PromptExample[], ObjectiveSpecification, string, string]>([
    ['one label', LABELLED.slice(0, 1), CLASSIFICATION, 'specification.stages[0].dataset', 'must be 2 to 1000 labels, not 1'],
    ['1,001 labels', Array.from({ length: 1001 }, (_, i) => ({ kind: 'label', text: 'a', label: `l${i}` })), CLASSIFICATION, 'specification.stages[0].dataset', 'must be 2 to 1000 labels, not 1001'],
    ['an unknown label', LABELLED, { kind: 'classification', labels: ['yes', 'no'] }, 'specification.stages[0].dataset.rows[1].label', '"maybe" is not one of the objective\'s labels'],
    ['too few labels given', LABELLED, { kind: 'classification', labels: ['yes'] }, 'specification.stages[0].objective.labels', 'must be 2 to 1000 labels, not 1'],
    ['a label twice', LABELLED, { kind: 'classification', labels: ['yes', 'no', 'yes'] }, 'specification.stages[0].objective.labels[2]', 'repeats "yes"'],
    ['a template without {text}', LABELLED, { kind: 'classification', template: 'x' }, 'specification.stages[0].objective.template', 'must hold {text}'],
    ['rows of another kind', PAIRS, CLASSIFICATION, 'specification.stages[0].dataset', 'has rows of the kind preference; the objective classification takes label'],
    ['labels for preferences', LABELLED, { kind: 'preference' }, 'specification.stages[0].dataset', 'has rows of the kind label; the objective preference takes preference'],
    ['preferences for the language model', PAIRS, { kind: 'languageModel' }, 'specification.stages[0].dataset', 'has rows of the kind preference; the objective languageModel takes completion, messages, text, label'],
    ['no beta', PAIRS, { kind: 'preference', beta: 0 }, 'specification.stages[0].objective.beta', 'must be above 0 and at most 100, not 0'],
    ['half of the pairs swapped', PAIRS, { kind: 'preference', labelSmoothing: 0.5 }, 'specification.stages[0].objective.labelSmoothing', 'must be at least 0 and below 0.5, not 0.5'],
  ])('%s is refused by field', async (_what, examples, objective, field, description) => {
    const error = await refusal(run(examples, { objective }));
    expect([error.code, error.violations[0]]).toEqual(['INVALID_ARGUMENT', { field, description }]);
  });
});

describe('preferences', () => {
  test('report the share of pairs that the model prefers as told, and the margin, from 0 upwards', async () => {
    const { events } = await run(PAIRS, { objective: { kind: 'preference', beta: 0.5 }, steps: 30, batchSize: 9, learningRate: 5e-3 });
    expect(events[0]).toMatchObject({ loss: expect.closeTo(Math.log(2), 6), preferenceAccuracy: 0, preferenceMargin: 0 });
    expect(events.at(-1)).toMatchObject({ preferenceAccuracy: 1 });
    expect(events.at(-1)!.preferenceMargin).toBeGreaterThan(2);
  });

  test('measure each stage against the model that it begins with', async () => {
    const stage: Partial<StageSpecification> = { objective: { kind: 'preference' }, steps: 10, learningRate: 5e-3 };
    const { events } = await run(PAIRS, stage, stage);
    const [, second] = [0, 1].map((index) => events.filter((event) => event.stage === index));
    expect(second![0]).toMatchObject({ loss: expect.closeTo(Math.log(2), 6), preferenceMargin: 0 });
  });

  test('drop out inputs of LoRA in training, never in the reference', async () => {
    const { events } = await run(PAIRS, { objective: { kind: 'preference' }, trainable: { ...LORA, dropout: 0.3 }, batchSize: 9 });
    // B begins with 0, so that the first step's masks change nothing.
    expect(events[0]).toMatchObject({ loss: expect.closeTo(Math.log(2), 6), preferenceMargin: 0 });
    expect(Number.isFinite(events[2]!.loss)).toBe(true);
  });
});
