/** The main job over gRPC: upload, tune, evaluate, move the alias under a running generation, read the metrics. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { DatasetFormat, FinishReason, JobState, type LoricaClient, type TuningJobEvent } from '../../src/client/index.js';
import { collect, failure, jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
let client: LoricaClient;

const ROWS = Array.from({ length: 24 }, (_, i) => ({ text: i % 2 === 0 ? `good ${i}` : `bad ${i}`, label: i % 2 === 0 ? 'yes' : 'no' }));
const ALIAS = 'tenants/acme/adapters/sentiment/aliases/production';
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
  stages: [
    {
      dataset: 'tenants/-/datasets/reviews',
      trainable: { selection: { $case: 'lora' as const, value: { rank: 4 } } },
      optimizer: { learningRate: 0.01 },
      length: { $case: 'steps' as const, value: steps },
      batchSize: 4,
      labelTemplate: TEMPLATE,
    },
  ],
});

describe('the main job', () => {
  test('uploads, tunes, evaluates and serves', async () => {
    const dataset = await upload('reviews', ROWS);
    expect(dataset).toMatchObject({ name: 'tenants/acme/datasets/reviews', rows: 24, labelRows: { yes: 12, no: 12 } });

    const events: TuningJobEvent[] = await collect(
      client.tune.tune({ parent: 'tenants/-', specification: specification('sentiment'), tuningJobId: 'first' }),
    );
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

    const evaluation = await collect(
      client.evaluate.evaluate({
        parent: 'tenants/-',
        specification: {
          dataset: 'tenants/-/datasets/reviews',
          targets: ['models/m', 'tenants/-/adapters/sentiment@production'],
          task: { $case: 'classification', value: { template: TEMPLATE } },
          resamples: 2000,
        },
      }),
    );
    const ended = evaluation.at(-1)!.event!;
    if (ended.$case !== 'result') throw new Error('the stream must end with the result');
    expect(ended.value.error).toBeUndefined();
    expect(ended.value.result).toMatchObject({ rows: 24, majorityAccuracy: 0.5 });
    expect(ended.value.result!.targets.map(({ servedBy }) => servedBy!.adapterDigest)).toEqual(['', version.digest]);
    expect(ended.value.result!.comparisons.map(({ target, baseline, metric }) => [target, baseline, metric])).toContainEqual([
      'tenants/-/adapters/sentiment@production',
      'models/m',
      'accuracy',
    ]);

    const answer = await client.generate.generate({
      target: 'tenants/-/adapters/sentiment@production',
      input: { $case: 'prompt', value: 'good' },
      sampling: { temperature: 0, maxTokens: 5 },
    });
    expect(answer.servedBy).toMatchObject({ baseModel: 'models/m', adapterVersion: version.name, adapterDigest: version.digest });
    expect(answer.usage!.completionTokens).toBeLessThanOrEqual(5);
    expect([FinishReason.FINISH_REASON_LENGTH, FinishReason.FINISH_REASON_STOP]).toContain(answer.finishReason);
  });

  test('a moved alias serves new requests; a running stream ends on the version that it began with', async () => {
    const first = await client.adapters.getAdapterAlias({ name: ALIAS });
    const events = await collect(
      client.tune.tune({
        parent: 'tenants/-',
        specification: { ...specification('sentiment', 3), alias: '', seed: 8 },
        tuningJobId: 'second',
      }),
    );
    const end = events.at(-1)!.event!;
    if (end.$case !== 'result') throw new Error('the stream must end with the result');
    const second = end.value.result!.adapterVersion;
    expect(second).not.toBe(first.version);

    const long = {
      target: 'tenants/-/adapters/sentiment@production',
      input: { $case: 'prompt' as const, value: 'good' },
      sampling: { temperature: 0, maxTokens: 80 },
    };
    const stream = client.generate.streamGenerate(long)[Symbol.asyncIterator]();
    expect((await stream.next()).value.event).toMatchObject({ $case: 'start', value: { servedBy: { adapterVersion: first.version } } });
    const moved = await client.adapters.setAdapterAlias({ name: ALIAS, version: second, etag: first.etag });
    expect(moved.version).toBe(second);
    let streamed = '';
    for (let next = await stream.next(); next.done !== true; next = await stream.next()) {
      const { event } = next.value;
      if (event?.$case === 'token' || event?.$case === 'end') streamed += event.value.text;
    }
    const now = await client.generate.generate(long);
    expect(now.servedBy!.adapterVersion).toBe(second);
    const pinned = await client.generate.generate({ ...long, target: first.version });
    expect(streamed).toBe(pinned.text);

    expect(await failure(client.adapters.setAdapterAlias({ name: ALIAS, version: second, etag: first.etag }))).toMatchObject({
      code: 'ABORTED',
      reason: 'ETAG_MISMATCH',
    });
    const back = await client.adapters.rollbackAdapterAlias({ name: ALIAS, requestId: '7f0c0a52-0d0b-4d4e-8b6b-0f1b8e1f2a01' });
    expect(back.version).toBe(first.version);
    // The repeated call must not roll back once more.
    expect((await client.adapters.rollbackAdapterAlias({ name: ALIAS, requestId: '7f0c0a52-0d0b-4d4e-8b6b-0f1b8e1f2a01' })).version).toBe(
      first.version,
    );
  });

  test('scores, classifies, tokenizes alike', async () => {
    const target = 'tenants/-/adapters/sentiment@production';
    const { classifications } = await client.generate.classify({
      target,
      texts: ['good 2', 'bad 3'],
      labels: ['yes', 'no'],
      template: TEMPLATE,
    });
    for (const { scores } of classifications) expect(scores.reduce((sum, { probability }) => sum + probability, 0)).toBeCloseTo(1, 10);
    const { scores } = await client.generate.score({ target, items: [{ prompt: 'good 2 ->', completion: ' yes' }] });
    expect(scores[0]!.logProbability).toBeCloseTo(classifications[0]!.scores[0]!.logProbability, 5);
    expect(scores[0]!.tokenLogProbabilities).toHaveLength(scores[0]!.tokenIds.length);

    const { tokenIds } = await client.generate.tokenize({ target: 'models/m', text: 'good day' });
    expect((await client.generate.detokenize({ target: 'models/m', tokenIds })).text).toBe('good day');
  });

  test('exports what it can import again, as the same version', async () => {
    const parts = await collect(client.adapters.exportAdapter({ name: 'tenants/-/adapters/sentiment@production' }));
    const files: Record<string, Buffer> = {};
    for (const { payload } of parts)
      if (payload?.$case === 'chunk')
        files[payload.value.file] = Buffer.concat([files[payload.value.file] ?? Buffer.alloc(0), payload.value.chunk!.data]);
    expect(Object.keys(files).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    const imported = await client.adapters.importAdapter({ parent: 'tenants/-', adapterId: 'copy', baseModel: 'models/m' }, files);
    const header = parts[0]!.payload!;
    if (header.$case !== 'header') throw new Error('the first message must be the header');
    expect(imported.digest).toBe(header.value.version!.digest);
  });

  test('the same request id watches the same job again and resumes after a sequence', async () => {
    await upload('short', ROWS.slice(0, 4));
    const { stages, ...rest } = specification('again', 2);
    const request = {
      parent: 'tenants/-',
      specification: { ...rest, stages: [{ ...stages[0]!, dataset: 'tenants/-/datasets/short' }] },
      requestId: '7f0c0a52-0d0b-4d4e-8b6b-0f1b8e1f2a02',
    };
    const events = await collect(client.tune.tune(request));
    // What the job needed is no longer needed to reattach.
    await client.datasets.deleteDataset({ name: 'tenants/-/datasets/short' });
    const again = await collect(client.tune.tune({ ...request, afterSequence: events[2]!.sequence }));
    const jobName = (event: TuningJobEvent | undefined): string =>
      event?.event?.$case === 'job' || event?.event?.$case === 'result' ? event.event.value.name : '';
    expect(jobName(again[0])).toBe(jobName(events[0]));
    expect(again.slice(1).every(({ sequence }) => sequence > events[2]!.sequence)).toBe(true);
    const other = client.tune.createTuningJob({ ...request, specification: { ...request.specification, seed: 9 } });
    expect(await failure(other)).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'REQUEST_ID_REUSED' });
    const { tuningJobs } = await client.tune.listTuningJobs({ parent: 'tenants/-', filter: 'state = SUCCEEDED' });
    expect(tuningJobs.map(({ name }) => name)).toContain(jobName(events[0]));
  });

  test('a disconnect does not end a job, a cancel does', async () => {
    const stream = client.tune.tune({ parent: 'tenants/-', specification: specification('long', 5000), tuningJobId: 'long' });
    const watching = stream[Symbol.asyncIterator]();
    for (let next = await watching.next(); next.value?.event?.$case !== 'step'; next = await watching.next())
      expect(next.done).not.toBe(true);
    await watching.return?.(undefined);
    const name = 'tenants/acme/tuningJobs/long';
    expect((await client.tune.getTuningJob({ name })).state).toBe(JobState.JOB_STATE_RUNNING);
    const rest = collect(client.tune.watchTuningJob({ name }));
    await client.tune.cancelTuningJob({ name });
    expect((await rest).at(-1)!.event).toMatchObject({ $case: 'result', value: { state: JobState.JOB_STATE_CANCELLED } });
    await client.tune.deleteTuningJob({ name });
    expect(await failure(client.tune.getTuningJob({ name }))).toMatchObject({ code: 'NOT_FOUND', reason: 'JOB_NOT_FOUND' });
  });

  test('a disconnect and a deadline end a generation', async () => {
    const request = { target: 'models/m', input: { $case: 'prompt' as const, value: 'good' }, sampling: { temperature: 0, maxTokens: 90 } };
    for await (const { event } of client.generate.streamGenerate(request)) if (event?.$case === 'token') break;
    expect(await failure(collect(client.generate.streamGenerate(request, { deadlineMs: 1 })))).toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    await until(async () => (await scrape()).includes('lorica_running_sequences 0'));
  });

  test('metrics count what happened, by tenant', async () => {
    const text = await scrape();
    expect(text).toMatch(/lorica_tuning_steps_total\{tenant="acme"\} \d+/);
    expect(text).toMatch(/lorica_alias_moves_total\{tenant="acme"\} [3-9]/);
    expect(text).toMatch(/lorica_evaluation_rows_total\{tenant="acme"\} 48/);
    expect(text).toMatch(/lorica_requests_total\{service="TuneService",method="Tune",tenant="acme",code="OK"\} \d/);
    expect(text).toMatch(/lorica_jobs\{kind="tuning",state="SUCCEEDED"\} 3/);
    expect(text).not.toMatch(/lorica_tuning_loss\{/);
    expect((await fetch(`http://${harness.server.metricsAddress}/readyz`)).status).toBe(200);
  });

  test('what is stored survives a restart', async () => {
    const before = await client.adapters.getAdapterAlias({ name: ALIAS });
    await harness.restart();
    client = harness.client({ tenant: 'acme' });
    expect(await client.adapters.getAdapterAlias({ name: ALIAS })).toEqual(before);
    expect((await client.datasets.getDataset({ name: 'tenants/-/datasets/reviews' })).rows).toBe(24);
  });
});

async function scrape(): Promise<string> {
  return (await fetch(`http://${harness.server.metricsAddress}/metrics`)).text();
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 20));
}
