/** EstimateTuningJob over gRPC: its counts are the job's, nothing is created, and what can't be asked for is refused as when creating. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { DatasetFormat, JobState, type LoricaClient } from '../../src/client/index.js';
import { collect, failure, jsonl, startHarness, type Harness } from './harness.js';

type Specification = NonNullable<Parameters<LoricaClient['tune']['estimateTuningJob']>[0]['specification']>;

let harness: Harness;
let client: LoricaClient;
let dataset: string;
let pairs: string;
const upload = async (datasetId: string, rows: readonly unknown[]): Promise<string> =>
  (await client.datasets.uploadDataset({ parent: 'tenants/-', datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(rows))).name;
const lora = { selection: { $case: 'lora' as const, value: { rank: 2 } } };
const full = { selection: { $case: 'full' as const, value: {} } };
const specification = (stages: Specification['stages']): Specification => ({ baseModel: 'models/m', adapterId: 'a', stages: stages! });

beforeAll(async () => {
  harness = await startHarness();
  client = harness.client({ tenant: 'acme' });
  dataset = await upload('rows', Array.from({ length: 21 }, (_, i) => ({ text: 'word '.repeat(1 + (i % 5)), label: i % 2 === 0 ? 'yes' : 'no' })));
  pairs = await upload('pairs', Array.from({ length: 6 }, (_, i) => ({ prompt: `p${i}`, chosen: ' good', rejected: ' bad' })));
});
afterAll(() => harness.close());

const parent = 'tenants/-';

describe('an estimate', () => {
  test('counts the steps, tokens and parameters of the job that then runs', async () => {
    const asked = specification([
      { dataset, trainable: lora, batchSize: 4, length: { $case: 'epochs', value: 2 } },
      { dataset, trainable: full, batchSize: 4, accumulationSteps: 2, length: { $case: 'steps', value: 3 } },
    ]);
    const estimate = await client.tune.estimateTuningJob({ parent, specification: asked });
    const last = (await collect(client.tune.tune({ parent, specification: asked }))).at(-1)!.event;
    if (last?.$case !== 'result') throw new Error('no result');
    expect(last.value.state).toBe(JobState.JOB_STATE_SUCCEEDED);
    expect(estimate.steps).toBe(last.value.result!.steps);
    expect(estimate.stages.map(({ rows, steps }) => [rows, steps])).toEqual([[21, 12], [21, 3]]);
    expect(estimate.stages[0]!.tokens + estimate.stages[1]!.tokens).toBeGreaterThan(0.9 * last.value.result!.tokens);
    expect(estimate.seconds).toBeGreaterThan(0);
    expect(estimate.stages[1]!.trainableParameters).toBeGreaterThan(estimate.stages[0]!.trainableParameters);
    expect(estimate.memoryBytes).toBe(Math.max(...estimate.stages.map(({ memory }) => memory.reduce((sum, { bytes }) => sum + bytes, 0))));
    expect(estimate.fits).toBe(estimate.peakMemoryBytes <= estimate.memoryLimitBytes);
  });

  test('knows the other objectives, and creates nothing', async () => {
    const before = (await client.tune.listTuningJobs({ parent })).tuningJobs.length;
    const classification = await client.tune.estimateTuningJob({ parent, specification: specification([{ dataset, trainable: lora, classification: {} }]) });
    const preference = await client.tune.estimateTuningJob({ parent, specification: specification([{ dataset: pairs, trainable: lora, preference: {} }]) });
    expect([classification.stages[0]!.rows, preference.stages[0]!.rows]).toEqual([21, 6]);
    expect((await client.tune.listTuningJobs({ parent })).tuningJobs).toHaveLength(before);
  });

  test('of a job that can not be created is refused with the same violations', async () => {
    const wrong = specification([{ dataset, trainable: { selection: { $case: 'lastLayers', value: { layers: 99 } } } }]);
    const [estimated, created] = [await failure(client.tune.estimateTuningJob({ parent, specification: wrong })), await failure(client.tune.createTuningJob({ parent, specification: wrong }))];
    expect(estimated.violations).toEqual(created.violations);
    expect(await failure(client.tune.estimateTuningJob({ parent, specification: specification([{ dataset: 'tenants/-/datasets/none', trainable: lora }]) }))).toMatchObject({ reason: 'DATASET_NOT_FOUND' });
  });
});
