/** EstimateTuningJob over gRPC: its counts are the job's, nothing is created, and what can't be asked for is refused as when creating. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { DatasetFormat, JobState, SavedActivations, type LoricaClient } from '../../src/client/index.js';
import { ErrorReason } from '../../src/gen/lorica/v1/errors.js';
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

describe('the memory that a job may take', () => {
  const limited = (memoryLimitBytes: number): Specification => ({ ...specification([{ dataset, trainable: lora, batchSize: 8, length: { $case: 'steps', value: 2 } }]), memoryLimitBytes });
  const estimated = (memoryLimitBytes: number) => client.tune.estimateTuningJob({ parent, specification: limited(memoryLimitBytes) });

  test('decides what is kept and how micro-batches are cut, and the estimate says so', async () => {
    const free = await estimated(0);
    expect(free.stages[0]).toMatchObject({ savedActivations: SavedActivations.SAVED_ACTIVATIONS_LINEAR });
    expect(free.jobLimitBytes).toBeGreaterThan(2 ** 20);
    const { metadata } = await failure(estimated(1));
    const tight = await estimated(Number(metadata['leastBytes']));
    expect(tight.stages[0]).toMatchObject({ savedActivations: SavedActivations.SAVED_ACTIVATIONS_LAYER });
    expect(tight.stages[0]!.microBatchTokens).toBeLessThan(free.stages[0]!.microBatchTokens);
    expect(tight).toMatchObject({ jobLimitBytes: Number(metadata['leastBytes']) });
    expect(tight.memoryBytes).toBeLessThanOrEqual(tight.jobLimitBytes);
    const asked = await client.tune.estimateTuningJob({ parent, specification: specification([{ dataset, trainable: lora, savedActivations: SavedActivations.SAVED_ACTIVATIONS_LAYER }]) });
    expect(asked.stages[0]).toMatchObject({ savedActivations: SavedActivations.SAVED_ACTIVATIONS_LAYER });
  });

  test('a job that can not fit is refused where that is known: created, when its rows have no part in it, else when it starts', async () => {
    const { metadata } = await failure(estimated(1));
    const created = await failure(client.tune.createTuningJob({ parent, specification: limited(1000) }));
    expect(created).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'MEMORY_INSUFFICIENT', metadata: { limitBytes: '1000', stage: '0' } });
    expect(created.hint).toContain('MiB');
    expect(Number(created.metadata['leastBytes'])).toBeLessThan(Number(metadata['leastBytes']));
    const last = (await collect(client.tune.tune({ parent, specification: limited(Number(metadata['leastBytes']) - 1) }))).at(-1)!.event;
    if (last?.$case !== 'result') throw new Error('no result');
    expect(last.value).toMatchObject({ state: JobState.JOB_STATE_FAILED, error: { reason: ErrorReason.ERROR_REASON_MEMORY_INSUFFICIENT } });
    expect(await failure(client.tune.createTuningJob({ parent, specification: limited(-1) }))).toMatchObject({ violations: [{ field: 'specification.memory_limit_bytes' }] });
  });

  test('is the server\'s in equal parts for the jobs that may run at once, whatever a job asks for', async () => {
    const small = await startHarness({ tuningMemoryBytes: '6000000', tuningConcurrency: '2' });
    try {
      const { tune, datasets } = small.client({ tenant: 'acme' });
      const { name } = await datasets.uploadDataset({ parent, datasetId: 'rows', format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl([{ text: 'word', label: 'yes' }]));
      const asked = { ...specification([{ dataset: name, trainable: lora }]), memoryLimitBytes: 5_000_000 };
      expect(await tune.estimateTuningJob({ parent, specification: asked })).toMatchObject({ jobLimitBytes: 3_000_000 });
    } finally {
      await small.close();
    }
  });
});
