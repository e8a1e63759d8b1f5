// Evaluation while a stage trains: what is measured, when the stage ends, and which weights it ends with.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { LoraInput } from '../../src/adapters/adapter.js';
import { evaluateLabels } from '../../src/main/label-evaluator.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { PromptExample } from '../../src/models/prompt.js';
import { Runtime } from '../../src/runtime/index.js';
import { runTuning, TrainingHost, type EvaluationEvent, type StageSpecification, type StepEvent, type TuningResult } from '../../src/tuning/index.js';

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

const WORDS = ['good', 'bad', 'price', 'battery', 'delivery', 'recommend'];
const DATA: Readonly<Record<string, readonly PromptExample[]>> = {
  rows: WORDS.map((word, i) => ({ kind: 'completion', prompt: `The ${word} was`, completion: WORDS[(i + 1) % 6]! })),
  // The same prompts with other answers: learning the rows makes these worse.
  opposed: WORDS.map((word, i) => ({ kind: 'completion', prompt: `The ${word} was`, completion: WORDS[(i + 4) % 6]! })),
  labels: WORDS.map((word, i) => ({ kind: 'label', text: `The ${word}`, label: i % 2 === 0 ? 'good' : 'bad' })),
};

const STAGE: StageSpecification = { dataset: 'rows', trainable: { kind: 'lora', rank: 4 }, steps: 8, batchSize: 6, learningRate: 2e-2, schedule: { kind: 'constant' } };

async function run(stage: StageSpecification): Promise<{ result: TuningResult; steps: StepEvent[]; evaluations: EvaluationEvent[] }> {
  const steps: StepEvent[] = [];
  const evaluations: EvaluationEvent[] = [];
  const result = await runTuning({
    checkpoint, host: new TrainingHost(runtime), specification: { baseModel: 'models/tiny', stages: [stage], seed: 3 }, examples: (dataset) => DATA[dataset]!,
    emit: (event) => { steps.push(event); }, report: (event) => { if (event.kind === 'evaluation') evaluations.push(event); }, evaluateLabels,
  });
  return { result, steps, evaluations };
}

const matrices = ({ content }: TuningResult): readonly (readonly number[])[] => [...(content as LoraInput).modules.values()].map(({ b }) => [...b]);

test('loss and perplexity are measured every so many steps and at the end, and training goes as without', async () => {
  const { steps, evaluations, result } = await run({ ...STAGE, evaluation: { dataset: 'rows', everySteps: 3, metrics: ['loss', 'perplexity'] } });
  const without = await run(STAGE);
  expect(steps.map(({ loss }) => loss)).toEqual(without.steps.map(({ loss }) => loss));
  expect(evaluations.map(({ step }) => step)).toEqual([3, 6, 8]);
  // All rows are one step's: the loss of the weights after step 3 is what step 4 begins with.
  expect(evaluations[0]!.values.loss).toBeCloseTo(steps[3]!.loss, 4);
  expect(evaluations[0]!.values.perplexity).toBeCloseTo(Math.exp(evaluations[0]!.values.loss!), 6);
  expect(result.evaluation).toEqual({ step: 8, values: evaluations[2]!.values, stoppedEarly: false });
  expect(matrices(result)).toEqual(matrices(without.result));
});

test('a stage ends when held-out rows no longer get better, with its best weights', async () => {
  const evaluation = { dataset: 'opposed', everySteps: 1, earlyStopping: { metric: 'loss', patience: 2 }, keepBest: 'loss' } as const;
  const { steps, evaluations, result } = await run({ ...STAGE, steps: 40, evaluation });
  const losses = evaluations.map(({ values }) => values.loss!);
  const best = losses.indexOf(Math.min(...losses)) + 1;
  expect(steps.length).toBe(best + 2);
  expect(steps.length).toBeLessThan(40);
  expect(result.evaluation).toEqual({ step: best, values: { loss: Math.min(...losses) }, stoppedEarly: true });
  expect(evaluations.filter((event) => event.best).at(-1)!.step).toBe(best);
  // The weights after so many steps and no more.
  const upToBest = await run({ ...STAGE, steps: best });
  expect(matrices(result)).toEqual(matrices(upToBest.result));
});

describe('labels', () => {
  test.each<[string, Partial<StageSpecification>]>([
    ['by likelihood', {}],
    ['by the classification head', { objective: { kind: 'classification' } }],
  ])('are learned %s, and accuracy and macro-F1 say so', async (_name, own) => {
    const evaluation = { dataset: 'labels', everySteps: 20, metrics: ['accuracy', 'macroF1'], keepBest: 'accuracy' } as const;
    const { evaluations, result } = await run({ ...STAGE, ...own, dataset: 'labels', steps: 40, evaluation });
    expect(evaluations.map(({ step }) => step)).toEqual([20, 40]);
    expect(evaluations[1]!.values).toEqual({ accuracy: 1, macroF1: 1 });
    expect(result.evaluation!.values.accuracy).toBe(1);
  });

  test('need rows that have them', async () => {
    await expect(run({ ...STAGE, evaluation: { dataset: 'rows', metrics: ['accuracy'] } })).rejects.toMatchObject({
      violations: [{ field: 'specification.stages[0].evaluation.dataset', description: 'accuracy and macro-F1 need rows of text and label' }],
    });
  });
});

test('what can not be measured is refused before any work', async () => {
  const preference = run({ ...STAGE, objective: { kind: 'preference' }, evaluation: { dataset: 'rows' } });
  await expect(preference).rejects.toThrow('specification.stages[0].evaluation: is not there for an objective on preferences');
  const broken = run({ ...STAGE, evaluation: { dataset: '', everySteps: 0, earlyStopping: { metric: 'loss', patience: 0, minDelta: -1 } } });
  await expect(broken).rejects.toMatchObject({ violations: ['dataset', 'everySteps', 'earlyStopping.patience', 'earlyStopping.minDelta'].map((field) => expect.objectContaining({ field: `specification.stages[0].evaluation.${field}` }) as unknown) });
});
