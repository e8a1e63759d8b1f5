/** Several jobs of several tenants at a time on one copy of the base: each makes byte for byte what it makes alone. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { DatasetFormat, JobState, type LoricaClient, type TuningJob } from '../../src/client/index.js';
import { jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
const clients = new Map<string, LoricaClient>();

beforeAll(async () => {
  harness = await startHarness({ tuningConcurrency: '3', maxContext: '96' });
  for (const tenant of ['acme', 'globex']) {
    const client = harness.client({ tenant });
    clients.set(tenant, client);
    const rows = Array.from({ length: 30 }, (_, i) => ({
      prompt: `${tenant} asks ${i}`,
      completion: ` answer ${(i * 7) % 5} of ${tenant}`,
    }));
    await client.datasets.uploadDataset(
      { parent: 'tenants/-', datasetId: 'rows', format: DatasetFormat.DATASET_FORMAT_JSONL },
      jsonl(rows),
    );
  }
});
afterAll(() => harness.close());

const JOBS = [
  { tenant: 'acme', id: 'lora', selection: { $case: 'lora' as const, value: { rank: 4, dropout: 0.1 } }, seed: 1 },
  { tenant: 'globex', id: 'last-layer', selection: { $case: 'lastLayers' as const, value: { layers: 1 } }, seed: 2 },
  { tenant: 'globex', id: 'other-lora', selection: { $case: 'lora' as const, value: { rank: 8 } }, seed: 3 },
];
type Case = (typeof JOBS)[number];

/** Runs a case to its end as job `{id}-{run}`. */
async function tune({ tenant, id, selection, seed }: Case, run: string): Promise<TuningJob> {
  const specification = {
    baseModel: 'models/m',
    adapterId: `${id}-${run}`,
    seed,
    stages: [
      {
        dataset: 'tenants/-/datasets/rows',
        trainable: { selection },
        optimizer: { learningRate: 0.01 },
        length: { $case: 'steps' as const, value: 12 },
        batchSize: 4,
      },
    ],
  };
  for await (const { event } of clients.get(tenant)!.tune.tune({ parent: 'tenants/-', tuningJobId: `${id}-${run}`, specification })) {
    if (event?.$case !== 'result') continue;
    expect(event.value.state).toBe(JobState.JOB_STATE_SUCCEEDED);
    return event.value;
  }
  throw new Error('the stream must end with the result');
}

test('three jobs of two tenants beside a stream make what each makes alone', async () => {
  const client = clients.get('acme')!;
  let streaming = true;
  const stream = (async () => {
    let tokens = 0;
    while (streaming) {
      const events = client.generate.streamGenerate({
        target: 'models/m',
        input: { $case: 'prompt', value: 'once upon' },
        sampling: { maxTokens: 32 },
      });
      for await (const { event } of events) tokens += event?.$case === 'token' ? 1 : 0;
    }
    return tokens;
  })();
  const together = await Promise.all(JOBS.map((job) => tune(job, 'together')));
  streaming = false;
  expect(await stream).toBeGreaterThan(0);

  const alone: TuningJob[] = [];
  for (const job of JOBS) alone.push(await tune(job, 'alone'));
  const digests = (jobs: readonly TuningJob[]): string[] => jobs.map(({ result }) => result!.adapterVersion.split('/').at(-1)!);
  expect(digests(together)).toEqual(digests(alone));
  expect(new Set(digests(together)).size).toBe(3);
  expect(together.map(({ result }) => result!.finalLoss)).toEqual(alone.map(({ result }) => result!.finalLoss));

  const began = Math.max(...together.map(({ startTime }) => startTime!.getTime()));
  const firstEnd = Math.min(...together.map(({ endTime }) => endTime!.getTime()));
  expect(began).toBeLessThan(firstEnd);
});
