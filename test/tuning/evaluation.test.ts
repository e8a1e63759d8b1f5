// Evaluation while a stage trains: what is measured, when the stage ends, and which weights it ends with.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { LoraInput } from '../../src/adapters/adapter.js';
import { evaluateLabels } from '../../src/main/label-evaluator.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { renderExample, type PromptExample } from '../../src/models/prompt.js';
import { Runtime } from '../../src/runtime/index.js';
import { runTuning, TrainingHost, type EvaluationEvent, type EvaluationMetric, type StageSpecification, type StepEvent, type TuningResult } from '../../src/tuning/index.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
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

const WORDS = ['good', 'bad', 'price', 'battery', 'delivery', 'recommend'];
const DATA: Readonly<Record<string, readonly PromptExample[]>> = {
  rows: WORDS.map((word, i) => ({ kind: 'completion', prompt: `The ${word} was`, completion: WORDS[(i + 1) % 6]! })),
  // The same prompts with other answers: learning the rows makes these worse.
  opposed: WORDS.map((word, i) => ({ kind: 'completion', prompt: `The ${word} was`, completion: WORDS[(i + 4) % 6]! })),
  pairs: WORDS.map((word, i) => ({ kind: 'preference', prompt: `The ${word} was`, chosen: WORDS[(i + 1) % 6]!, rejected: WORDS[(i + 3) % 6]! })),
  // Of lengths that differ, in part those that are trained on and in part their opposites.
  heldOutPairs: WORDS.map((word, i) => ({ kind: 'preference', prompt: `The ${word} was ${'so '.repeat(i)}`, chosen: WORDS[(i + (i < 4 ? 1 : 3)) % 6]!, rejected: `${WORDS[(i + (i < 4 ? 3 : 1)) % 6]!} not` })),
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

describe('preferences', () => {
  const OBJECTIVE = { kind: 'preference', beta: 0.4, labelSmoothing: 0.1, sftWeight: 0.2 } as const;
  const ALL = ['loss', 'rewardAccuracy', 'rewardMargin'] as const;

  /** Log-probability of an answer by hand: logits at every position of one sequence at a time, by a pass over the base with LoRA merged in. */
  async function logProbabilities(content: LoraInput | undefined): Promise<(readonly [number, number, number])[]> {
    const { config, weights, tokenizer } = checkpoint;
    const float32 = async (name: string): Promise<Float32Array> => {
      const merged = (await weights.float32(name)).slice();
      const update = content?.modules.get(name.replace('.weight', ''));
      if (update === undefined) return merged;
      const columns = update.a.length / update.rank;
      for (let i = 0; i < merged.length; i++) {
        let sum = 0;
        for (let r = 0; r < update.rank; r++) sum += update.b[Math.floor(i / columns) * update.rank + r]! * update.a[r * columns + (i % columns)]!;
        merged[i]! += update.scaling * sum;
      }
      return merged;
    };
    const lease = new TrainingHost(runtime).lease({ key: 'merged', config, weights: { shape: (name) => weights.shape(name), float32 } });
    const pass = await ModelPass.create(lease, new WorkingModel(lease).frozen(), { savedActivations: 'layer', maxLengthTokens: 64 });
    const answer = async (prompt: string, completion: string): Promise<readonly [number, number]> => {
      const { tokens, lossMask } = renderExample({ kind: 'completion', prompt, completion }, tokenizer, undefined);
      const logits = await pass.logits(tokens, tokens.map((_, i) => i), undefined);
      let sum = 0;
      for (const [i, counts] of lossMask.entries()) {
        if (!counts) continue;
        const row = logits.subarray((i - 1) * config.vocabSize, i * config.vocabSize);
        sum += row[tokens[i]!]! - Math.log(row.reduce((total, logit) => total + Math.exp(logit), 0));
      }
      return [sum, lossMask.filter(Boolean).length];
    };
    const found: (readonly [number, number, number])[] = [];
    for (const example of DATA['heldOutPairs']!) {
      if (example.kind !== 'preference') throw new Error('not a pair');
      const [chosen, tokens] = await answer(example.prompt, example.chosen);
      found.push([chosen, (await answer(example.prompt, example.rejected))[0], tokens]);
    }
    pass.dispose();
    await lease.release();
    return found;
  }

  test('loss, reward accuracy and reward margin are those of log-probabilities computed one answer at a time, against the model before the stage', async () => {
    const { evaluations, result } = await run({ ...STAGE, dataset: 'pairs', objective: OBJECTIVE, evaluation: { dataset: 'heldOutPairs', everySteps: 4, metrics: ALL } });
    expect(evaluations.map(({ step }) => step)).toEqual([4, 8]);
    const [before, after] = [await logProbabilities(undefined), await logProbabilities(result.content as LoraInput)];
    const { beta, labelSmoothing, sftWeight } = OBJECTIVE;
    const margins = after.map(([chosen, rejected], i) => beta * (chosen - before[i]![0] - (rejected - before[i]![1])));
    const losses = after.map(([chosen, , tokens], i) => (1 - labelSmoothing) * Math.log(1 + Math.exp(-margins[i]!)) + labelSmoothing * Math.log(1 + Math.exp(margins[i]!)) - (sftWeight * chosen) / tokens);
    const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
    const accuracy = mean(margins.map((margin) => (margin > 0 ? 1 : 0)));
    // Neither all nor none: the opposites of what is trained on get worse.
    expect(accuracy).toBeGreaterThan(0);
    expect(accuracy).toBeLessThan(1);
    expect(result.evaluation!.values.rewardAccuracy).toBe(accuracy);
    expect(Math.abs(result.evaluation!.values.rewardMargin! - mean(margins))).toBeLessThan(1e-4);
    expect(Math.abs(result.evaluation!.values.loss! - mean(losses))).toBeLessThan(1e-4);
  });

  test('on the rows trained on are those of the next step, and training goes as without', async () => {
    const { evaluations, steps } = await run({ ...STAGE, dataset: 'pairs', objective: OBJECTIVE, evaluation: { dataset: 'pairs', everySteps: 2, metrics: ALL } });
    const without = await run({ ...STAGE, dataset: 'pairs', objective: OBJECTIVE });
    expect(steps.map(({ loss }) => loss)).toEqual(without.steps.map(({ loss }) => loss));
    for (const { step, values } of evaluations.filter((event) => event.step < steps.length)) {
      const { loss, preferenceAccuracy, preferenceMargin } = steps[step]!;
      expect(values.loss).toBeCloseTo(loss, 5);
      expect(values.rewardAccuracy).toBe(preferenceAccuracy);
      expect(values.rewardMargin).toBeCloseTo(preferenceMargin!, 4);
    }
  });

  test('a second stage measures rewards against the model that the first one left', async () => {
    const second = { ...STAGE, dataset: 'pairs', steps: 1, learningRate: 1e-12, objective: OBJECTIVE, evaluation: { dataset: 'heldOutPairs', metrics: ALL } };
    const evaluations: EvaluationEvent[] = [];
    await runTuning({
      checkpoint, host: new TrainingHost(runtime), specification: { baseModel: 'models/tiny', stages: [STAGE, second], seed: 3 }, examples: (dataset) => DATA[dataset]!,
      emit: () => undefined, report: (event) => { if (event.kind === 'evaluation') evaluations.push(event); },
    });
    expect(Math.abs(evaluations[0]!.values.rewardMargin!)).toBeLessThan(1e-5);
  });

  test('the stage ends when the margin no longer rises, with its best weights', async () => {
    const evaluation = { dataset: 'heldOutPairs', everySteps: 1, earlyStopping: { metric: 'rewardMargin', patience: 3 }, keepBest: 'rewardMargin' } as const;
    const stage = { ...STAGE, dataset: 'pairs', objective: OBJECTIVE, learningRate: 0.1 };
    const { steps, evaluations, result } = await run({ ...stage, steps: 60, evaluation });
    const margins = evaluations.map(({ values }) => values.rewardMargin!);
    const best = margins.indexOf(Math.max(...margins)) + 1;
    expect(steps.length).toBe(best + 3);
    expect(steps.length).toBeLessThan(60);
    expect(result.evaluation).toMatchObject({ step: best, stoppedEarly: true, values: { rewardMargin: Math.max(...margins) } });
    expect(matrices(result)).toEqual(matrices((await run({ ...stage, steps: best })).result));
  });
});

test('what can not be measured is refused before any work', async () => {
  const refused = (own: Partial<StageSpecification>, metric: EvaluationMetric) => expect(run({ ...STAGE, ...own, evaluation: { dataset: 'rows', metrics: [metric] } })).rejects;
  const metrics = 'specification.stages[0].evaluation.metrics: ';
  for (const metric of ['perplexity', 'accuracy', 'macroF1'] as const) {
    await refused({ objective: { kind: 'preference' } }, metric).toThrow(`${metrics}of preferences the loss, the reward accuracy and the reward margin are measured`);
  }
  for (const kind of ['languageModel', 'classification'] as const) await refused({ objective: { kind } }, 'rewardMargin').toThrow(`${metrics}reward accuracy and reward margin need an objective on preferences`);
  const keeps = run({ ...STAGE, evaluation: { dataset: 'rows', keepBest: 'rewardAccuracy' } });
  await expect(keeps).rejects.toThrow(metrics);
  const broken = run({ ...STAGE, evaluation: { dataset: '', everySteps: 0, earlyStopping: { metric: 'loss', patience: 0, minDelta: -1 } } });
  await expect(broken).rejects.toMatchObject({ violations: ['dataset', 'everySteps', 'earlyStopping.patience', 'earlyStopping.minDelta'].map((field) => expect.objectContaining({ field: `specification.stages[0].evaluation.${field}` }) as unknown) });
});
