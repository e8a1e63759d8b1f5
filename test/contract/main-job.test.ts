/** The main job over gRPC: upload, tune, evaluate, move the alias under a running generation, read the metrics. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { DatasetFormat, FinishReason, JobState, type LoricaClient, type TuningJobEvent } from '../../src/client/index.js';
import { collect, failure, jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
let client: LoricaClient;

const ROWS = Array.from({ length: 24 }, (_, i) => ({ text: i % 2 === 0 ? `good ${i}` : `bad ${i}`, label: i % 2 === 0 ? 'yes' : 'no' }));
const TEMPLATE = { promptTemplate: '{text} ->', labelTemplate: ' {label}' };

beforeAll(async () => {
  harness = await startHarness();
  client = harness.client({ tenant: 'acme' });
});
afterAll(() => harness.close());

const upload = (datasetId: string, rows: readonly unknown[]) =>
  client.datasets.uploadDataset({ parent: 'tenants/-', datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(rows));

const specification = (adapterId: string, steps = 6) => ({
  baseModel: 'models/m',
  adapterId,
  alias: 'production',
  seed: 7,
  stages: [{
    dataset: 'tenants/-/datasets/reviews',
    trainable: { selection: { $case: 'lora' as const, value: { rank: 4 } } },
    optimizer: { learningRate: 0.01 },
    length: { $case: 'steps' as const, value: steps },
    batchSize: 4,
    labelTemplate: TEMPLATE,
  }],
});

describe('the main job', () => {
  test('uploads, tunes, evaluates and serves', async () => {
    const dataset = await upload('reviews', ROWS);
    expect(dataset).toMatchObject({ name: 'tenants/acme/datasets/reviews', rows: 24, labelRows: { yes: 12, no: 12 } });

    const events: TuningJobEvent[] = await collect(client.tune.tune({ parent: 'tenants/-', specification: specification('sentiment'), tuningJobId: 'first' }));
    expect(events[0]?.event).toMatchObject({ $case: 'job', value: { name: 'tenants/acme/tuningJobs/first' } });
    const steps = events.flatMap(({ event }) => (event?.$case === 'step' ? [event.value] : []));
    expect(steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(steps.every(({ loss }) => Number.isFinite(loss) && loss > 0)).toBe(true);
    const last = events.at(-1)!.event!;
    if (last.$case !== 'result') throw new Error('the stream must end with the result');
    expect(last.value.state).toBe(JobState.JOB_STATE_SUCCEEDED);
    const { result } = last.value;
    expect(result).toMatchObject({ steps: 6, skippedRows: 0 });
    const sequences = events.map(({ sequence }) => sequence);
    expect([...sequences].sort((a, b) => a - b)).toEqual(sequences);

    const version = await client.adapters.getAdapterVersion({ name: result!.adapterVersion });
    expect(version).toMatchObject({ baseModel: 'models/m', tuningJob: 'tenants/acme/tuningJobs/first' });
    const alias = await client.adapters.getAdapterAlias({ name: 'tenants/-/adapters/sentiment/aliases/production' });
    expect(alias.version).toBe(version.name);

    const evaluation = await collect(client.evaluate.evaluate({
      parent: 'tenants/-',
      specification: {
        dataset: 'tenants/-/datasets/reviews',
        targets: ['models/m', 'tenants/-/adapters/sentiment@production'],
        task: { $case: 'classification', value: { template: TEMPLATE } },
        resamples: 2000,
      },
    }));
    const ended = evaluation.at(-1)!.event!;
    if (ended.$case !== 'result') throw new Error('the stream must end with the result');
    expect(ended.value.error).toBeUndefined();
    expect(ended.value.result).toMatchObject({ rows: 24, majorityAccuracy: 0.5 });
    expect(ended.value.result!.targets.map(({ servedBy }) => servedBy!.adapterDigest)).toEqual(['', version.digest]);
    expect(ended.value.result!.comparisons[0]).toMatchObject({ target: 'tenants/-/adapters/sentiment@production', baseline: 'majority' });

    const answer = await client.generate.generate({ target: 'tenants/-/adapters/sentiment@production', input: { $case: 'prompt', value: 'good' }, sampling: { temperature: 0, maxTokens: 5 } });
    expect(answer.servedBy).toMatchObject({ baseModel: 'models/m', adapterVersion: version.name, adapterDigest: version.digest });
    expect(answer.usage!.completionTokens).toBeLessThanOrEqual(5);
    expect([FinishReason.FINISH_REASON_LENGTH, FinishReason.FINISH_REASON_STOP]).toContain(answer.finishReason);
  });
});
