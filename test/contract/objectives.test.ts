/** Classification heads and preferences over gRPC, on the embedded base and real review sentences, and what is refused of them. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { resolve } from 'node:path';
import { readReviews, splitReviews, type Review } from '../../src/cli/quickstart/reviews.js';
import { DatasetFormat, EvaluationMetric, ExampleKind, JobState, type LoricaClient, type TuningJobEvent } from '../../src/client/index.js';
import { collect, failure, jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
let client: LoricaClient;
let train: readonly Review[];
let heldOut: readonly Review[];

const BASE = 'models/tiny';
const PROMPT = (text: string): string => `Review: ${text}\nSentiment:`;
const TEMPLATE = { promptTemplate: PROMPT('{text}'), labelTemplate: ' {label}' };
const other = ({ label }: Review): string => (label === 'positive' ? 'negative' : 'positive');

beforeAll(async () => {
  harness = await startHarness({ models: `tiny=${resolve('models/tiny')}`, maxContext: '256', threads: '2' });
  client = harness.client({ tenant: 'acme' });
  const split = splitReviews(await readReviews(), 320, 5);
  [train, heldOut] = [split.train, split.heldOut.slice(0, 160)];
  await upload('train', train.map(({ text, label }) => ({ text, label })));
  await upload('held-out', heldOut.map(({ text, label }) => ({ text, label })));
  const pairs = (reviews: readonly Review[]) => reviews.map((review) => ({ prompt: PROMPT(review.text), chosen: ` ${review.label}`, rejected: ` ${other(review)}` }));
  await upload('pairs', pairs(train.slice(0, 160)));
  await upload('held-out-pairs', pairs(heldOut.slice(0, 60)));
});
afterAll(() => harness.close());

const upload = (datasetId: string, rows: readonly unknown[]) =>
  client.datasets.uploadDataset({ parent: 'tenants/-', datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(rows));

type Stage = NonNullable<NonNullable<Parameters<LoricaClient['tune']['tune']>[0]['specification']>['stages']>[number];

const request = (adapterId: string, stage: Stage) => ({ parent: 'tenants/-', specification: { baseModel: BASE, adapterId, alias: 'production', seed: 3, stages: [stage] } });

/** Tunes, and gives the steps and the version. */
async function tune(adapterId: string, stage: Stage) {
  const events: TuningJobEvent[] = await collect(client.tune.tune(request(adapterId, stage)));
  const last = events.at(-1)!.event!;
  if (last.$case !== 'result') throw new Error('the stream must end with the result');
  expect(last.value.error).toBeUndefined();
  expect(last.value.state).toBe(JobState.JOB_STATE_SUCCEEDED);
  return {
    steps: events.flatMap(({ event }) => (event?.$case === 'step' ? [event.value] : [])),
    evaluations: events.flatMap(({ event }) => (event?.$case === 'evaluation' ? [event.value] : [])),
    result: last.value.result!,
    version: last.value.result!.adapterVersion,
  };
}

const lora = { selection: { $case: 'lora' as const, value: { rank: 8 } } };

describe('a classification', () => {
  test('beats the base on held-out sentences, evaluates by its head and answers Classify with it', async () => {
    const { steps } = await tune('reviews', {
      dataset: 'tenants/-/datasets/train', trainable: lora, optimizer: { learningRate: 2e-3 }, length: { $case: 'epochs', value: 3 }, batchSize: 16,
      classification: { promptTemplate: 'Review: {text}' },
    });
    expect(steps.every(({ lossTokens, preferenceMargin }) => lossTokens === 16 && preferenceMargin === undefined)).toBe(true);
    const target = 'tenants/-/adapters/reviews@production';
    const events = await collect(
      client.evaluate.evaluate({
        parent: 'tenants/-',
        specification: { dataset: 'tenants/-/datasets/held-out', targets: [BASE, target], task: { $case: 'classification', value: { template: TEMPLATE } }, resamples: 2000 },
      }),
    );
    const ended = events.at(-1)!.event!;
    if (ended.$case !== 'result') throw new Error('the stream must end with the result');
    const [base, tuned] = ended.value.result!.targets.map(({ accuracy }) => accuracy!);
    expect(tuned! - base!).toBeGreaterThan(0.05);

    const texts = heldOut.map(({ text }) => text);
    const { classifications } = await client.generate.classify({ target, texts });
    const right = classifications.filter(({ label }, i) => label === heldOut[i]!.label).length;
    expect(right / texts.length).toBeCloseTo(tuned!, 6);
    const [first] = classifications;
    expect(first!.scores.map(({ label }) => label)).toEqual(['negative', 'positive']);
    expect(first!.scores.reduce((sum, { logProbability }) => sum + Math.exp(logProbability), 0)).toBeCloseTo(1, 5);

    // Labels of the request are the head's, in any order; the template is the head's own.
    const swapped = await client.generate.classify({ target, texts: texts.slice(0, 1), labels: ['positive', 'negative'], template: TEMPLATE });
    const again = new Map(swapped.classifications[0]!.scores.map(({ label, logProbability }) => [label, logProbability]));
    expect([...again.keys()]).toEqual(['positive', 'negative']);
    for (const { label, logProbability } of first!.scores) expect(again.get(label)).toBeCloseTo(logProbability, 4);
    expect(await failure(client.generate.classify({ target, texts: ['x'], labels: ['positive', 'mixed'] }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      violations: [{ field: 'labels[1]', description: expect.stringContaining('negative, positive') }],
    });
    expect(await failure(client.generate.classify({ target: BASE, texts: ['x'] }))).toMatchObject({ code: 'INVALID_ARGUMENT', violations: [{ field: 'labels' }] });
    const answer = await client.generate.generate({ target, input: { $case: 'prompt', value: 'The food' }, sampling: { temperature: 0, maxTokens: 4 } });
    expect(answer.usage!.completionTokens).toBeGreaterThan(0);
  });

  test('of the head alone is an adapter of nothing but the head, which travels', async () => {
    const { version } = await tune('probe', {
      dataset: 'tenants/-/datasets/train', trainable: { selection: { $case: 'components', value: { components: ['COMPONENT_HEAD' as never] } } },
      length: { $case: 'steps', value: 5 }, classification: {},
    });
    expect(await client.adapters.getAdapterVersion({ name: version })).toMatchObject({ parameters: 2 * 128 });
    const files: Record<string, Buffer> = {};
    for (const { payload } of await collect(client.adapters.exportAdapter({ name: version })))
      if (payload?.$case === 'chunk') files[payload.value.file] = Buffer.concat([files[payload.value.file] ?? Buffer.alloc(0), payload.value.chunk!.data]);
    expect(Object.keys(files).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors', 'classification_head.json']);
    const imported = await client.adapters.importAdapter({ parent: 'tenants/-', adapterId: 'probe-copy', baseModel: BASE }, files);
    expect(imported.digest).toBe((await client.adapters.getAdapterVersion({ name: version })).digest);
  });
});

describe('preferences', () => {
  test('raise the margin on held-out pairs', async () => {
    const { steps, evaluations, result } = await tune('preferred', {
      dataset: 'tenants/-/datasets/pairs', trainable: lora, optimizer: { learningRate: 2e-3 }, length: { $case: 'epochs', value: 2 }, batchSize: 8,
      preference: { beta: 0.3 },
      evaluation: {
        dataset: 'tenants/-/datasets/held-out-pairs', metrics: [EvaluationMetric.EVALUATION_METRIC_LOSS, EvaluationMetric.EVALUATION_METRIC_REWARD_ACCURACY],
        keepBest: EvaluationMetric.EVALUATION_METRIC_REWARD_MARGIN,
      },
    });
    expect(evaluations.map(({ step }) => step)).toEqual([20, 40]);
    for (const { values } of evaluations) expect(Object.keys(values).sort()).toEqual(['loss', 'reward_accuracy', 'reward_margin']);
    const best = evaluations.findLast((evaluation) => evaluation.best)!;
    expect(best.values['reward_margin']).toBe(Math.max(...evaluations.map(({ values }) => values['reward_margin']!)));
    expect(best.values['loss']).toBeLessThan(Math.log(2));
    expect(result).toMatchObject({ bestStep: best.step, evaluation: best.values });
    expect(steps[0]).toMatchObject({ loss: expect.closeTo(Math.log(2), 4), preferenceMargin: 0, preferenceAccuracy: 0, lossTokens: 8 });
    expect(steps.slice(-5).reduce((sum, { preferenceMargin }) => sum + preferenceMargin!, 0)).toBeGreaterThan(0);
    const margin = async (target: string): Promise<number> => {
      const items = heldOut.slice(0, 100).flatMap((review) => [review.label, other(review)].map((label) => ({ prompt: PROMPT(review.text), completion: ` ${label}` })));
      const { scores } = await client.generate.score({ target, items });
      return scores.reduce((sum, { logProbability }, i) => sum + (i % 2 === 0 ? logProbability : -logProbability), 0) / 100;
    };
    expect((await margin('tenants/-/adapters/preferred@production')) - (await margin(BASE))).toBeGreaterThan(0.1);
  });
});

describe('refused before a job exists', () => {
  const refused = async (stage: Partial<Stage>) => failure(client.tune.createTuningJob(request('a', { dataset: 'tenants/-/datasets/train', trainable: lora, ...stage })));
  const at = (field: string, description: string) => ({ code: 'INVALID_ARGUMENT', violations: [{ field: `specification.stages[0]${field}`, description: expect.stringContaining(description) }] });

  test('data that the objective does not take, with the objective that would', async () => {
    expect((await client.datasets.getDataset({ name: 'tenants/-/datasets/pairs' })).kind).toBe(ExampleKind.EXAMPLE_KIND_PREFERENCE);
    expect(await refused({ preference: {} })).toMatchObject(at('.dataset', 'use the objective classification or objective'));
    expect(await refused({ dataset: 'tenants/-/datasets/pairs', classification: {} })).toMatchObject(at('.dataset', 'use the objective preference'));
    expect(await refused({ dataset: 'tenants/-/datasets/pairs' })).toMatchObject(at('.dataset', 'holds rows of the kind preference'));
    expect(await refused({ evaluation: { dataset: 'tenants/-/datasets/pairs' } })).toMatchObject(at('.evaluation.dataset', 'holds rows of the kind preference'));
  });

  test('labels and numbers outside their rules, and two objectives at once', async () => {
    expect(await refused({ classification: { labels: ['positive', 'mixed'] } })).toMatchObject(at('.classification.labels', 'missing: "negative"'));
    expect(await refused({ classification: { labels: ['positive'] } })).toMatchObject(at('.classification.labels', 'must be 2 to 1000 labels, not 1'));
    expect(await refused({ classification: { labels: Array.from({ length: 1001 }, (_, i) => `l${i}`) } })).toMatchObject(at('.classification.labels', 'not 1001'));
    expect(await refused({ classification: { labels: ['a', 'a'] } })).toMatchObject(at('.classification.labels[1]', 'repeats "a"'));
    expect(await refused({ classification: { promptTemplate: 'x' } })).toMatchObject(at('.classification.prompt_template', 'must hold {text}'));
    expect(await refused({ preference: { beta: 0, labelSmoothing: 0.5, sftWeight: -1 } })).toMatchObject({
      violations: ['beta', 'label_smoothing', 'sft_weight'].map((field) => ({ field: `specification.stages[0].preference.${field}` })),
    });
    expect(await refused({ classification: {}, preference: {} })).toMatchObject(at('', 'takes one of objective, classification and preference'));
  });

  test('one label, and pairs of equal answers', async () => {
    await upload('one', [{ text: 'a', label: 'x' }, { text: 'b', label: 'x' }]);
    expect(await refused({ dataset: 'tenants/-/datasets/one', classification: {} })).toMatchObject(at('.dataset', 'has 1 label'));
    expect(await failure(upload('equal', [{ prompt: 'a', chosen: 'b', rejected: 'b' }]))).toMatchObject({ reason: 'DATASET_INVALID', violations: [{ description: expect.stringContaining('is the chosen answer') }] });
  });
});
