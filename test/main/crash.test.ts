// A server that is killed in the middle of a tuning job, and a job that is paused: it goes on from its newest checkpoint and publishes what a job
// publishes that nothing happened to.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { connect, DatasetFormat, JobState, type LoricaClient, type TuningJobEvent } from '../../src/client/index.js';
import { jsonl } from '../contract/harness.js';
import { temporaryFolder, type Temporary } from '../storage/temporary.js';

const LOADER = fileURLToPath(new URL('../runtime/typescript-loader.mjs', import.meta.url));
const SERVER = fileURLToPath(new URL('./serve-until-killed.ts', import.meta.url));
const STEPS = 40;

let folder: Temporary<string>;
let server: ChildProcess | undefined;
let client: LoricaClient;

async function start(): Promise<void> {
  server = spawn(process.execPath, ['--import', LOADER, SERVER, folder.value], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [address] = (await once(server.stdout!, 'data')) as [Buffer];
  client = connect({ address: address.toString().trim(), tenant: 'acme' });
}

async function end(signal: NodeJS.Signals): Promise<void> {
  client.close();
  const ended = once(server!, 'close');
  server!.kill(signal);
  await ended;
}

beforeAll(async () => {
  folder = await temporaryFolder();
  await start();
  const rows = Array.from({ length: 24 }, (_, i) => ({ prompt: `prompt ${i}`, completion: ` answer ${i % 3}` }));
  await client.datasets.uploadDataset({ parent: 'tenants/-', datasetId: 'rows', format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(rows));
});
afterAll(async () => {
  await end('SIGKILL');
  await folder.dispose();
});

const create = (tuningJobId: string) =>
  client.tune.createTuningJob({
    parent: 'tenants/-',
    tuningJobId,
    specification: {
      baseModel: 'models/m',
      adapterId: 'reviews',
      seed: 7,
      checkpoints: { everySteps: 5, keep: 3 },
      stages: [
        {
          dataset: 'tenants/-/datasets/rows',
          trainable: { selection: { $case: 'lora', value: { rank: 2, dropout: 0.1 } } },
          length: { $case: 'steps', value: STEPS },
          batchSize: 4,
        },
      ],
    },
  });

async function watchUntil(name: string, reached: (event: TuningJobEvent) => boolean): Promise<TuningJobEvent[]> {
  const seen: TuningJobEvent[] = [];
  for await (const event of client.tune.watchTuningJob({ name })) {
    seen.push(event);
    if (reached(event)) break;
  }
  return seen;
}

const isStep =
  (step: number) =>
  ({ event }: TuningJobEvent): boolean =>
    event?.$case === 'step' && event.value.step === step;

/** Every step with what it must give again. */
const stepsOf = (events: readonly TuningJobEvent[]) =>
  events.flatMap(({ event }) => (event?.$case === 'step' ? [[event.value.step, event.value.loss, event.value.learningRate]] : []));

describe('a tuning job', () => {
  let undisturbed: readonly TuningJobEvent[];
  const versionOf = (events: readonly TuningJobEvent[]): string => {
    const last = events.at(-1)!.event;
    expect(last).toMatchObject({ $case: 'result', value: { state: JobState.JOB_STATE_SUCCEEDED, result: { steps: STEPS } } });
    return last?.$case === 'result' ? last.value.result!.adapterVersion : '';
  };

  test('keeps checkpoints while it runs', async () => {
    const { name } = await create('undisturbed');
    undisturbed = await watchUntil(name, () => false);
    const kept = undisturbed.flatMap(({ event }) => (event?.$case === 'checkpoint' ? [event.value] : []));
    expect(kept.map(({ stage, step }) => [stage, step])).toEqual([5, 10, 15, 20, 25, 30, 35, 40].map((step) => [0, step]));
    expect(kept[0]).toMatchObject({ name: `${name}/checkpoints/5` });
    expect(kept.every(({ bytes }) => bytes > 1000)).toBe(true);
  });

  test('killed with its server goes on from its newest checkpoint, to the same bytes, and no step is reported twice', async () => {
    const { name } = await create('killed');
    await watchUntil(name, isStep(13));
    await end('SIGKILL');
    await start();
    const { checkpoints } = await client.tune.listCheckpoints({ parent: name });
    expect(checkpoints[0]!.step).toBeGreaterThanOrEqual(10);
    const events = await watchUntil(name, () => false);
    expect(versionOf(events)).toBe(versionOf(undisturbed));
    expect(stepsOf(events)).toEqual(stepsOf(undisturbed));
    expect(events.at(-1)!.event).toMatchObject({ value: { attempt: 2 } });
  });

  test('paused keeps a checkpoint of the very step and goes on after it', async () => {
    const { name } = await create('stopped');
    await watchUntil(name, isStep(3));
    await client.tune.pauseTuningJob({ name });
    while ((await client.tune.getTuningJob({ name })).state !== JobState.JOB_STATE_PAUSED) await setTimeout(20);
    const [newest] = (await client.tune.listCheckpoints({ parent: name })).checkpoints;
    await client.tune.resumeTuningJob({ name });
    const events = await watchUntil(name, () => false);
    expect(versionOf(events)).toBe(versionOf(undisturbed));
    expect(stepsOf(events)).toEqual(stepsOf(undisturbed));
    const resumed = events.findIndex(({ event }) => event?.$case === 'checkpoint' && event.value.name === newest!.name);
    expect(stepsOf(events.slice(0, resumed)).at(-1)![0]).toBe(newest!.step);
  });
});
