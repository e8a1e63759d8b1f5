/** What users get wrong, over gRPC: a typed status with every violation and what to do; nothing half-done. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Client, credentials, type ServiceError } from '@grpc/grpc-js';
import { DatasetFormat, type LoricaClient } from '../../src/client/index.js';
import { collect, failure, jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
let acme: LoricaClient;
let other: LoricaClient;

beforeAll(async () => {
  harness = await startHarness();
  acme = harness.client({ tenant: 'acme' });
  other = harness.client({ tenant: 'other' });
  await acme.datasets.uploadDataset(
    { parent: 'tenants/-', datasetId: 'good', format: DatasetFormat.DATASET_FORMAT_JSONL },
    jsonl([
      { text: 'a', label: 'x' },
      { text: 'b', label: 'y' },
    ]),
  );
});
afterAll(() => harness.close());

const header = (datasetId: string, more = {}) => ({ parent: 'tenants/-', datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL, ...more });
const generate = (target: string) => failure(acme.generate.generate({ target, input: { $case: 'prompt', value: 'x' } }));

describe('datasets', () => {
  test('every malformed line is reported, and nothing is stored', async () => {
    const bytes = Buffer.from('{"text": "ok", "label": "x"}\n{"text": 3, "label": "x"}\nnot json\n{"text": "t"}\n');
    const error = await failure(acme.datasets.uploadDataset(header('bad'), bytes));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'DATASET_INVALID' });
    for (const line of [2, 3, 4]) expect(error.violations.some(({ field }) => field.includes(`line ${line}`))).toBe(true);
    expect(await failure(acme.datasets.getDataset({ name: 'tenants/-/datasets/bad' }))).toMatchObject({
      code: 'NOT_FOUND',
      reason: 'DATASET_NOT_FOUND',
    });
  });

  test('a thousand findings still make a status that arrives, and are counted', async () => {
    const error = await failure(acme.datasets.uploadDataset(header('worse'), Buffer.from('nonsense\n'.repeat(1000))));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'DATASET_INVALID' });
    expect(error.violations.length).toBeGreaterThan(10);
    expect(error.violations.at(-1)!.description).toMatch(/^and \d+ more$/);
  });

  test('digest, id, format and parent are checked together', async () => {
    const error = await failure(
      acme.datasets.uploadDataset({ parent: 'nobody', datasetId: 'Bad Id', sha256: 'zz', requestId: 'not-a-uuid' }, jsonl([{ text: 'a' }])),
    );
    expect(error.violations.map(({ field }) => field).sort()).toEqual([
      'header.dataset_id',
      'header.format',
      'header.parent',
      'header.request_id',
      'header.sha256',
    ]);
    expect(await failure(acme.datasets.uploadDataset(header('digest', { sha256: '0'.repeat(64) }), jsonl([{ text: 'a' }])))).toMatchObject({
      reason: 'DIGEST_MISMATCH',
    });
  });

  test('the same request id gives the first answer again, another body is refused', async () => {
    const requestId = '7f0c0a52-0d0b-4d4e-8b6b-0f1b8e1f2b01';
    const bytes = jsonl([{ text: 'once' }]);
    const first = await acme.datasets.uploadDataset(header('once', { requestId }), bytes);
    expect(await acme.datasets.uploadDataset(header('once', { requestId }), bytes)).toEqual(first);
    expect(await failure(acme.datasets.uploadDataset(header('twice', { requestId }), bytes))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      reason: 'REQUEST_ID_REUSED',
    });
    expect(await failure(acme.datasets.uploadDataset(header('once'), bytes))).toMatchObject({
      code: 'ALREADY_EXISTS',
      reason: 'ALREADY_EXISTS',
    });
  });
});

describe('names', () => {
  test("another tenant's dataset looks like none", async () => {
    const theirs = await failure(other.datasets.getDataset({ name: 'tenants/acme/datasets/good' }));
    const nobodys = await failure(other.datasets.getDataset({ name: 'tenants/acme/datasets/gone' }));
    expect(theirs).toMatchObject({ code: 'NOT_FOUND', reason: 'DATASET_NOT_FOUND', message: 'tenants/acme/datasets/good does not exist' });
    expect(nobodys).toMatchObject({ code: 'NOT_FOUND', reason: 'DATASET_NOT_FOUND', message: 'tenants/acme/datasets/gone does not exist' });
    expect((await other.datasets.listDatasets({ parent: 'tenants/-' })).datasets).toEqual([]);
    expect(await failure(other.datasets.listDatasets({ parent: 'tenants/acme' }))).toMatchObject({
      code: 'NOT_FOUND',
      reason: 'TENANT_NOT_FOUND',
    });
  });

  test('an unknown adapter, tenant or model never becomes the base', async () => {
    expect(await generate('tenants/-/adapters/gone@production')).toMatchObject({ code: 'NOT_FOUND', reason: 'ADAPTER_NOT_FOUND' });
    expect(await generate('tenants/other/adapters/gone@production')).toMatchObject({ code: 'NOT_FOUND', reason: 'ADAPTER_NOT_FOUND' });
    expect(await generate('models/gone')).toMatchObject({ code: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND', hint: 'Models here: m.' });
    expect(await generate('tenants/-/adapters/a')).toMatchObject({ code: 'INVALID_ARGUMENT', violations: [{ field: 'target' }] });
    expect(await generate('gpt-4')).toMatchObject({
      code: 'INVALID_ARGUMENT',
      violations: [{ field: 'target', description: expect.stringContaining('models/{model} or tenants/') }],
    });
  });
});

describe('tuning specifications', () => {
  test('all impossible options are named by their paths', async () => {
    const error = await failure(
      acme.tune.createTuningJob({
        parent: 'tenants/-',
        specification: {
          baseModel: 'm',
          adapterId: 'A',
          seed: -1,
          stages: [
            {
              dataset: 'good',
              trainable: { selection: { $case: 'lora', value: { rank: 1000, targetModules: ['x_proj'] } } },
              optimizer: { learningRate: 0, beta1: 1 },
              length: { $case: 'epochs', value: 0 },
              batchSize: 0,
            },
            { dataset: 'tenants/-/datasets/good' },
          ],
        },
      }),
    );
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' });
    expect(error.violations.map(({ field }) => field).sort()).toEqual([
      'specification.adapter_id',
      'specification.base_model',
      'specification.seed',
      'specification.stages[0].batch_size',
      'specification.stages[0].dataset',
      'specification.stages[0].epochs',
      'specification.stages[0].optimizer.beta1',
      'specification.stages[0].optimizer.learning_rate',
      'specification.stages[0].trainable.lora.rank',
      'specification.stages[0].trainable.lora.target_modules[0]',
      'specification.stages[1].trainable',
    ]);
  });

  const stage = (trainable: object, more = {}) => ({
    parent: 'tenants/-',
    specification: {
      baseModel: 'models/m',
      adapterId: 'a',
      stages: [{ dataset: 'tenants/-/datasets/good', trainable: trainable as never, ...more }],
    },
  });

  test('what the model does not have is refused before a job exists', async () => {
    expect(await failure(acme.tune.createTuningJob(stage({ selection: { $case: 'layers', value: { indices: [99] } } })))).toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    const long = await failure(acme.tune.createTuningJob(stage({ selection: { $case: 'full', value: {} } }, { maxLengthTokens: 100_000 })));
    expect(long.violations.map(({ field }) => field)).toEqual(['specification.stages[0].max_length_tokens']);
    const absent = {
      ...stage({ selection: { $case: 'full', value: {} } }),
      specification: { ...stage({ selection: { $case: 'full', value: {} } }).specification, baseModel: 'models/gone' },
    };
    expect(await failure(acme.tune.createTuningJob(absent))).toMatchObject({ code: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND' });
    expect((await acme.tune.listTuningJobs({ parent: 'tenants/-' })).tuningJobs).toEqual([]);
  });

  test('a missing dataset is NOT_FOUND', async () => {
    const request = stage({ selection: { $case: 'full', value: {} } });
    request.specification.stages[0]!.dataset = 'tenants/-/datasets/gone';
    expect(await failure(acme.tune.createTuningJob(request))).toMatchObject({ code: 'NOT_FOUND', reason: 'DATASET_NOT_FOUND' });
  });
});

describe('generation', () => {
  test('sampling out of range is listed whole', async () => {
    const error = await failure(
      acme.generate.generate({
        target: 'models/m',
        input: { $case: 'prompt', value: 'x' },
        sampling: { temperature: 3, topP: 0, topK: -1, maxTokens: 0, stop: [''] },
      }),
    );
    expect(error.violations.map(({ field }) => field).sort()).toEqual([
      'sampling.max_tokens',
      'sampling.stop[0]',
      'sampling.temperature',
      'sampling.top_k',
      'sampling.top_p',
    ]);
  });

  test('a prompt beyond the context says so', async () => {
    expect(
      await failure(acme.generate.generate({ target: 'models/m', input: { $case: 'prompt', value: 'word '.repeat(500) } })),
    ).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'CONTEXT_LENGTH_EXCEEDED' });
  });

  test('temperature 0 is a value, not the default', async () => {
    const request = { target: 'models/m', input: { $case: 'prompt' as const, value: 'good' }, sampling: { temperature: 0, maxTokens: 12 } };
    expect((await acme.generate.generate(request)).text).toBe((await acme.generate.generate(request)).text);
  });
});

describe('evaluations', () => {
  test('labels must cover the dataset, targets must exist', async () => {
    const create = (labels: string[], targets: string[]) =>
      failure(
        acme.evaluate.createEvaluation({
          parent: 'tenants/-',
          specification: { dataset: 'tenants/-/datasets/good', targets, task: { $case: 'classification', value: { labels } } },
        }),
      );
    expect((await create(['x', 'z'], ['models/m'])).violations).toEqual([
      { field: 'specification.classification.labels', description: 'must hold every label of the dataset; missing: y' },
    ]);
    expect(await create([], ['models/m', 'tenants/-/adapters/gone@production'])).toMatchObject({
      code: 'NOT_FOUND',
      reason: 'ADAPTER_NOT_FOUND',
    });
  });
});

describe('models', () => {
  test('a missing checkpoint is named and not registered', async () => {
    const error = await failure(collect(acme.models.importModel({ modelId: 'n', source: { $case: 'path', value: '/nowhere' } })));
    expect(error).toMatchObject({ code: 'NOT_FOUND', reason: 'CHECKPOINT_MISSING' });
    expect((await acme.models.listModels({})).models.map(({ name }) => name)).toEqual(['models/m']);
  });
});

describe('transport', () => {
  test('bytes that are no message are INVALID_ARGUMENT, an unknown method UNIMPLEMENTED', async () => {
    const raw = new Client(harness.server.address, credentials.createInsecure());
    const send = (path: string, bytes: Buffer) =>
      new Promise<ServiceError | null>((resolve) =>
        raw.makeUnaryRequest(
          path,
          (message: Buffer) => message,
          (message) => message,
          bytes,
          (error) => resolve(error),
        ),
      );
    expect((await send('/lorica.v1.DatasetService/GetDataset', Buffer.from([0x0a, 0xff])))?.code).toBe(3);
    expect((await send('/lorica.v1.DatasetService/Nothing', Buffer.alloc(0)))?.code).toBe(12);
    raw.close();
  });

  test('the request id comes back, also with an error', async () => {
    const error = await failure(acme.datasets.getDataset({ name: 'tenants/-/datasets/gone' }, { requestId: 'my-id-1' }));
    expect(error.requestId).toBe('my-id-1');
  });
});
