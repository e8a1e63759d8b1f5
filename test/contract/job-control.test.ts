/** Pausing, resuming and checkpoints of tuning jobs over gRPC. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { DatasetFormat, JobState, type LoricaClient, type TuningJobEvent } from '../../src/client/index.js';
import { call } from '../../src/cli/call.js';
import { failure, jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
let client: LoricaClient;

beforeAll(async () => {
  harness = await startHarness();
  client = harness.client({ tenant: 'acme' });
  const rows = Array.from({ length: 24 }, (_, i) => ({ prompt: `prompt ${i}`, completion: ` answer ${i % 3}` }));
  await client.datasets.uploadDataset({ parent: 'tenants/-', datasetId: 'rows', format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(rows));
});
afterAll(() => harness.close());

const create = (tuningJobId: string, steps: number) =>
  client.tune.createTuningJob({
    parent: 'tenants/-',
    tuningJobId,
    specification: {
      baseModel: 'models/m',
      adapterId: tuningJobId,
      stages: [
        {
          dataset: 'tenants/-/datasets/rows',
          trainable: { selection: { $case: 'lora', value: { rank: 2 } } },
          length: { $case: 'steps', value: steps },
          batchSize: 4,
        },
      ],
    },
  });

/** Events until the job is in `state`. */
async function until(name: string, state: JobState): Promise<TuningJobEvent[]> {
  const seen: TuningJobEvent[] = [];
  for await (const message of client.tune.watchTuningJob({ name })) {
    seen.push(message);
    const { event } = message;
    if ((event?.$case === 'job' || event?.$case === 'result') && event.value.state === state) return seen;
  }
  throw new Error(`${name} never was in state ${state}`);
}

test('a running job is paused, stays so over a restart, is resumed and ends', async () => {
  const { name } = await create('long', 60);
  await client.tune.watchTuningJob({ name })[Symbol.asyncIterator]().next();
  for await (const { event } of client.tune.watchTuningJob({ name })) if (event?.$case === 'step' && event.value.step === 2) break;
  const requestId = randomUUID();
  expect(await client.tune.pauseTuningJob({ name, requestId })).toMatchObject({ state: JobState.JOB_STATE_RUNNING, pauseRequested: true });
  await until(name, JobState.JOB_STATE_PAUSED);
  expect(await client.tune.pauseTuningJob({ name, requestId })).toMatchObject({ state: JobState.JOB_STATE_PAUSED, pauseRequested: false });
  const { checkpoints } = await client.tune.listCheckpoints({ parent: name });
  expect(checkpoints[0]).toMatchObject({ stage: 0, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) });
  for (const checkpoint of checkpoints) expect(checkpoint.name).toBe(`${name}/checkpoints/${checkpoint.step}`);

  await harness.restart();
  client = harness.client({ tenant: 'acme' });
  expect(await client.tune.getTuningJob({ name })).toMatchObject({ state: JobState.JOB_STATE_PAUSED });
  const other = await create('other', 1);
  await until(other.name, JobState.JOB_STATE_SUCCEEDED);

  const resume = { name, requestId: randomUUID() };
  await client.tune.resumeTuningJob(resume);
  const events = await until(name, JobState.JOB_STATE_SUCCEEDED);
  expect(await client.tune.resumeTuningJob(resume)).toMatchObject({ state: JobState.JOB_STATE_SUCCEEDED });
  const steps = events.flatMap(({ event }) => (event?.$case === 'step' ? [event.value.step] : []));
  expect(steps).toEqual(Array.from({ length: 60 }, (_, i) => i + 1));
  const states = events.flatMap(({ event, sequence }) => (event?.$case === 'job' && sequence > 0 ? [event.value] : []));
  expect(states.length).toBeGreaterThanOrEqual(5);
  const ended = events.at(-1)!.event;
  expect(ended).toMatchObject({ $case: 'result', value: { attempt: 2, result: { steps: 60 } } });
  expect((await client.tune.listCheckpoints({ parent: name })).checkpoints).toEqual([]);
});

test('states and names that do not fit are refused with their reason', async () => {
  const { name } = await create('short', 1);
  await until(name, JobState.JOB_STATE_SUCCEEDED);
  for (const call of [client.tune.pauseTuningJob({ name }), client.tune.resumeTuningJob({ name })]) {
    expect(await failure(call)).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'JOB_STATE' });
  }
  const absent = 'tenants/-/tuningJobs/absent';
  for (const call of [
    client.tune.pauseTuningJob({ name: absent }),
    client.tune.resumeTuningJob({ name: absent }),
    client.tune.listCheckpoints({ parent: absent }),
  ]) {
    expect(await failure(call)).toMatchObject({ code: 'NOT_FOUND', reason: 'JOB_NOT_FOUND' });
  }
  const stranger = harness.client({ tenant: 'stranger' });
  expect(await failure(stranger.tune.listCheckpoints({ parent: name }))).toMatchObject({ code: 'NOT_FOUND', reason: 'JOB_NOT_FOUND' });
  expect(await failure(client.tune.listCheckpoints({ parent: 'short' }))).toMatchObject({
    reason: 'INVALID_FIELD',
    violations: [{ field: 'parent' }],
  });
  expect(await failure(client.tune.listCheckpoints({ parent: name, pageSize: -1 }))).toMatchObject({
    violations: [{ field: 'page_size' }],
  });
});

test('lorica call fails as the job that it follows does, with its error', async () => {
  const follow = async (method: string, request: unknown): Promise<{ lines: string[]; error: Awaited<ReturnType<typeof failure>> }> => {
    const lines: string[] = [];
    const called = call(method, {
      address: harness.server.address,
      protoFolder: harness.config.protoFolder,
      key: undefined,
      tenant: 'acme',
      deadlineMs: undefined,
      json: JSON.stringify(request),
      input: (async function* () {})(),
      write: (line) => lines.push(line),
    });
    return { lines, error: await failure(called) };
  };
  const stage = {
    dataset: 'tenants/-/datasets/rows',
    trainable: { full: {} },
    optimizer: { learningRate: 1, weightDecay: 10 },
    steps: 200,
    batchSize: 4,
  };
  const specification = { baseModel: 'models/m', adapterId: 'diverging', stages: [stage] };
  const diverged = await follow('TuneService/Tune', { parent: 'tenants/-', tuningJobId: 'diverging', specification });
  expect(diverged.error).toMatchObject({ code: 'ABORTED', reason: 'TRAINING_DIVERGED' });
  expect(diverged.error.message).toMatch(/^tenants\/acme\/tuningJobs\/diverging: training diverged at step \d+/);
  expect(JSON.parse(diverged.lines.at(-1)!)).toMatchObject({ result: { state: 'JOB_STATE_FAILED' } });

  const { name } = await create('cancelled', 5000);
  await client.tune.cancelTuningJob({ name });
  expect((await follow('TuneService/WatchTuningJob', { name })).error).toMatchObject({
    code: 'CANCELLED',
    message: `${name}: it was cancelled`,
  });
});
