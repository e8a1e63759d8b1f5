/** Two servers on one PostgreSQL and one blob folder: what is done through one holds at the other. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { DatasetFormat, JobState, type LoricaClient } from '../../src/client/index.js';
import { jsonl, startHarness, type Harness } from './harness.js';
import { temporaryPostgresUrl } from './temporary-postgres.js';
import type { Temporary } from '../storage/temporary.js';

let url: Temporary<string>;
let first: Harness;
let second: Harness;
const clients: LoricaClient[] = [];

beforeAll(async () => {
  url = await temporaryPostgresUrl();
  first = await startHarness({ databaseUrl: url.value });
  second = await startHarness({ databaseUrl: url.value, dataDir: first.folder });
  for (const harness of [first, second]) clients.push(harness.client({ tenant: 'acme' }));
  const rows = Array.from({ length: 12 }, (_, i) => ({ prompt: `prompt ${i}`, completion: ` answer ${i % 3}` }));
  await clients[0]!.datasets.uploadDataset({ parent: 'tenants/-', datasetId: 'rows', format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(rows));
});
afterAll(async () => {
  await second.close();
  await first.close();
  await url.dispose();
});

async function tune(client: LoricaClient, seed: number): Promise<string> {
  const stage = {
    dataset: 'tenants/-/datasets/rows',
    trainable: { selection: { $case: 'lora' as const, value: { rank: 2 } } },
    length: { $case: 'steps' as const, value: 2 },
    batchSize: 4,
  };
  const specification = { baseModel: 'models/m', adapterId: 'shared', alias: 'production', seed, stages: [stage] };
  for await (const { event } of client.tune.tune({ parent: 'tenants/-', specification })) {
    if (event?.$case !== 'result') continue;
    expect(event.value.state).toBe(JobState.JOB_STATE_SUCCEEDED);
    return event.value.result!.adapterVersion;
  }
  throw new Error('the stream must end with the result');
}

const servedBy = async (client: LoricaClient): Promise<string> => {
  const target = 'tenants/-/adapters/shared@production';
  const answer = await client.generate.generate({ target, input: { $case: 'prompt', value: 'once' }, sampling: { maxTokens: 2, temperature: 0 } });
  return answer.servedBy!.adapterVersion;
};

test('an alias that moves at one server moves at the other with the next request', async () => {
  const [one, two] = clients as [LoricaClient, LoricaClient];
  const versions = [await tune(one, 1), await tune(two, 2)];
  expect(new Set(versions).size).toBe(2);
  const name = 'tenants/acme/adapters/shared/aliases/production';
  for (const version of [versions[0]!, versions[1]!, versions[0]!]) {
    await one.adapters.setAdapterAlias({ name, version });
    expect([await servedBy(one), await servedBy(two)]).toEqual([version, version]);
  }
});
