/** RecommendTuning over gRPC: what it recommends is created as it is and succeeds. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { DatasetFormat, ExampleKind, JobState, RecommendedTask, type LoricaClient, type RecommendTuningResponse } from '../../src/client/index.js';
import { failure, jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
let client: LoricaClient;

beforeAll(async () => {
  harness = await startHarness();
  client = harness.client({ tenant: 'acme' });
  const upload = (datasetId: string, rows: readonly unknown[]) =>
    client.datasets.uploadDataset({ parent: 'tenants/-', datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(rows));
  const count = (row: (i: number) => unknown) => Array.from({ length: 24 }, (_, i) => row(i));
  await upload('labels', count((i) => ({ text: `text ${i}`, label: i % 2 === 0 ? 'good' : 'bad' })));
  await upload('codes', count((i) => ({ text: `text ${i}`, label: `code ${i}` })));
  await upload('pairs', count((i) => ({ prompt: `p ${i}`, chosen: ` yes ${i}`, rejected: ` no ${i}` })));
  await upload('text', count((i) => ({ text: `some text ${i}` })));
});
afterAll(() => harness.close());

const ask = (more: Parameters<LoricaClient['tune']['recommendTuning']>[0]): Promise<RecommendTuningResponse> =>
  client.tune.recommendTuning({ parent: 'tenants/-', baseModel: 'models/m', memoryLimitBytes: 2 ** 32, ...more });
const TASKS = [
  ['labels', RecommendedTask.RECOMMENDED_TASK_CLASSIFICATION],
  ['codes', RecommendedTask.RECOMMENDED_TASK_CLASSIFICATION],
  ['pairs', RecommendedTask.RECOMMENDED_TASK_PREFERENCE_ALIGNMENT],
  ['text', RecommendedTask.RECOMMENDED_TASK_DOMAIN_ADAPTATION],
] as const;

test.each(TASKS)('what is recommended for %s is created as it is and succeeds', async (id, task) => {
  const answer = await ask({ task, dataset: `tenants/-/datasets/${id}`, adapterId: `for-${id}`, domainVocabulary: true });
  expect(answer).toMatchObject({ data: { rows: 24 }, memoryLimitBytes: 2 ** 32 });
  expect(answer.data!.longestTokens).toBeGreaterThanOrEqual(answer.data!.meanTokens);
  expect(answer.reasons.length).toBeGreaterThan(2);
  expect(answer.warnings.map(({ rule }) => rule)).toContain('little-data');
  const { name } = await client.tune.createTuningJob({ parent: 'tenants/-', specification: answer.specification! });
  let state: JobState | undefined;
  for await (const { event } of client.tune.watchTuningJob({ name })) if (event?.$case === 'result') state = event.value.state;
  expect(state).toBe(JobState.JOB_STATE_SUCCEEDED);
});

test('rows can be described instead; the stages then name no dataset', async () => {
  const answer = await ask({ task: RecommendedTask.RECOMMENDED_TASK_TRANSLATION, rows: 5000, meanTokens: 40, timeLimit: { seconds: 1 } });
  expect(answer.specification!.stages.map(({ dataset }) => dataset)).toEqual(['']);
  expect(answer.specification!.adapterId).toBe('translation');
  expect(answer.data).toEqual({ rows: 5000, meanTokens: 40, longestTokens: 160, kind: ExampleKind.EXAMPLE_KIND_COMPLETION });
  expect(answer.warnings.map(({ rule }) => rule)).toContain('no-dataset');
});

test('what can not be meant is refused by field, and too little memory with what would do', async () => {
  const task = RecommendedTask.RECOMMENDED_TASK_TRANSLATION;
  expect(await failure(ask({ baseModel: 'm', adapterId: 'A b', meanTokens: 0 }))).toMatchObject({
    reason: 'INVALID_FIELD',
    violations: ['base_model', 'task', 'mean_tokens', 'rows', 'mean_tokens', 'adapter_id'].map((field) => ({ field })),
  });
  expect(await failure(ask({ task, dataset: 'tenants/-/datasets/text', rows: 5 }))).toMatchObject({ violations: [{ field: 'rows' }] });
  expect(await failure(ask({ task, dataset: 'tenants/-/datasets/text' }))).toMatchObject({ code: 'INVALID_ARGUMENT', violations: [{ field: 'dataset' }] });
  expect(await failure(ask({ task, dataset: 'tenants/-/datasets/absent' }))).toMatchObject({ code: 'NOT_FOUND', reason: 'DATASET_NOT_FOUND' });
  expect(await failure(ask({ task, rows: 5, baseModel: 'models/absent' }))).toMatchObject({ code: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND' });
  expect(await failure(ask({ task, rows: 5, memoryLimitBytes: 1000 }))).toMatchObject({
    code: 'RESOURCE_EXHAUSTED',
    reason: 'MEMORY_INSUFFICIENT',
    message: expect.stringMatching(/the least that would do is \d+/),
  });
});
