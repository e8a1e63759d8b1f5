/** Starting, stopping, keys, health, reflection and `lorica call`, against real servers. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { Client, credentials, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { protoPath, service as healthService } from 'grpc-health-check';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { call, type CallOptions } from '../../src/cli/call.js';
import { createKey } from '../../src/cli/keys.js';
import { silentLogger } from '../../src/common/logger.js';
import { connect, DatasetFormat, JobState, type LoricaClient } from '../../src/client/index.js';
import type { Flags } from '../../src/config/config.js';
import { startServer, type RunningServer } from '../../src/main/server.js';
import { collect, failure, jsonl, testConfig } from './harness.js';

let folder: string;
let servers: RunningServer[];
let clients: LoricaClient[];

// One data folder for the file: making the embedded database takes seconds, opening it again does not.
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lorica-lifecycle-'));
});
beforeEach(() => {
  servers = [];
  clients = [];
});
afterEach(async () => {
  for (const client of clients) client.close();
  for (const server of servers) await server.stop();
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function start(flags: Flags = {}): Promise<RunningServer> {
  const server = await startServer(testConfig(join(folder, 'data'), flags), { logger: silentLogger });
  servers.push(server);
  return server;
}

function client(server: RunningServer, options: { apiKey?: string; tenant?: string } = {}): LoricaClient {
  const one = connect({ address: server.address.replace('0.0.0.0', '127.0.0.1'), ...options });
  clients.push(one);
  return one;
}

describe('keys', () => {
  test('off loopback a server needs them; with them, they alone say who calls', async () => {
    expect(await failure(start({ listen: '0.0.0.0:0' }))).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'UNAUTHENTICATED' });

    const keysFile = join(folder, 'keys.json');
    const config = testConfig(join(folder, 'data'), { keysFile });
    const acme = await createKey(config, 'acme', ['tenant']);
    const boss = await createKey(config, 'ops', ['operator']);
    expect(await readFile(keysFile, 'utf8')).not.toContain(acme.secret);
    const server = await start({ listen: '0.0.0.0:0', keysFile });

    const list = (options: { apiKey?: string; tenant?: string }) => client(server, options).datasets.listDatasets({ parent: 'tenants/-' });
    for (const options of [{}, { apiKey: 'lrc_wrong' }, { tenant: 'acme' }])
      expect(await failure(list(options))).toMatchObject({ code: 'UNAUTHENTICATED', reason: 'UNAUTHENTICATED' });
    expect((await list({ apiKey: acme.secret })).datasets).toEqual([]);
    expect(await failure(client(server, { apiKey: acme.secret }).datasets.listDatasets({ parent: 'tenants/ops' }))).toMatchObject({
      code: 'NOT_FOUND',
      reason: 'TENANT_NOT_FOUND',
    });

    const importing = (apiKey: string) =>
      failure(collect(client(server, { apiKey }).models.importModel({ modelId: 'n', source: { $case: 'path', value: '/nowhere' } })));
    expect(await importing(acme.secret)).toMatchObject({ code: 'PERMISSION_DENIED', reason: 'PERMISSION_DENIED' });
    expect(await importing(boss.secret)).toMatchObject({ code: 'NOT_FOUND', reason: 'CHECKPOINT_MISSING' });
    expect(await failure(list({ apiKey: boss.secret }))).toMatchObject({ code: 'PERMISSION_DENIED' });
  });
});

describe('start', () => {
  test('says what stands in the way', async () => {
    expect(await failure(start({ models: 'm=/nowhere' }))).toMatchObject({ reason: 'CHECKPOINT_MISSING' });
    const server = await start();
    expect(await failure(start())).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'STORAGE_LOCKED' });
    const taken = startServer(testConfig(join(folder, 'other'), { metricsListen: server.metricsAddress }), { logger: silentLogger });
    expect(await failure(taken)).toMatchObject({ code: 'FAILED_PRECONDITION', message: expect.stringContaining(server.metricsAddress) });
  });

  test('an imported model is there again, and listed with its problem when its files are gone', async () => {
    const { cp } = await import('node:fs/promises');
    const copy = join(folder, 'model');
    await cp(resolve('test/golden/tiny-serving'), copy, { recursive: true });
    const first = await start();
    const events = await collect(client(first).models.importModel({ modelId: 'copy', source: { $case: 'path', value: copy } }));
    expect(events.at(-1)!.event).toMatchObject({ $case: 'model', value: { name: 'models/copy', problem: '' } });
    await first.stop();
    await rm(join(copy, 'model.safetensors'));
    const models = client(await start()).models;
    expect((await models.getModel({ name: 'models/copy' })).problem).not.toBe('');
    expect((await models.listModels({ pageSize: 1 })).models.map(({ name }) => name)).toEqual(['models/copy']);
    await models.deleteModel({ name: 'models/copy' });
    expect(await failure(models.getModel({ name: 'models/copy' }))).toMatchObject({ code: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND' });
    expect(await failure(models.deleteModel({ name: 'models/m' }))).toMatchObject({ code: 'FAILED_PRECONDITION' });
  });
});

describe('stop', () => {
  test('a running tuning job is queued again and ends after the next start', async () => {
    const first = await start();
    const acme = client(first);
    await acme.datasets.uploadDataset(
      { parent: 'tenants/-', datasetId: 'rows', format: DatasetFormat.DATASET_FORMAT_JSONL },
      jsonl([{ text: 'abc abc' }, { text: 'cba' }]),
    );
    const specification = {
      baseModel: 'models/m',
      adapterId: 'a',
      stages: [
        {
          dataset: 'tenants/-/datasets/rows',
          trainable: { selection: { $case: 'lora' as const, value: { rank: 2 } } },
          length: { $case: 'steps' as const, value: 60 },
          batchSize: 2,
        },
      ],
    };
    const watch = acme.tune.tune({ parent: 'tenants/-', specification, tuningJobId: 'j' })[Symbol.asyncIterator]();
    for (let next = await watch.next(); next.value?.event?.$case !== 'step'; next = await watch.next()) expect(next.done).not.toBe(true);
    const rest = failure(
      (async () => {
        for (let next = await watch.next(); next.done !== true; next = await watch.next());
      })(),
    );
    await first.stop();
    expect(await rest).toMatchObject({ code: 'UNAVAILABLE', reason: 'SHUTTING_DOWN' });

    const events = await collect(client(await start()).tune.watchTuningJob({ name: 'tenants/dev/tuningJobs/j' }));
    expect(events.at(-1)!.event).toMatchObject({
      $case: 'result',
      value: { state: JobState.JOB_STATE_SUCCEEDED, attempt: 2, result: { steps: 60 } },
    });
  });

  test('a running generation may finish within the grace; nothing new is taken', async () => {
    const server = await start();
    const one = client(server);
    const generation = one.generate
      .streamGenerate({ target: 'models/m', input: { $case: 'prompt', value: 'a' }, sampling: { temperature: 0, maxTokens: 60 } });
    const stream = generation[Symbol.asyncIterator]();
    await stream.next();
    const stopped = server.stop();
    const late = failure(one.generate.generate({ target: 'models/m', input: { $case: 'prompt', value: 'a' } }));
    let end: unknown;
    for (let next = await stream.next(); next.done !== true; next = await stream.next()) end = next.value.event;
    expect(end).toMatchObject({ $case: 'end', value: { usage: { completionTokens: expect.any(Number) } } });
    expect((await late).code).toBe('UNAVAILABLE');
    await stopped;
  });
});

describe('tools', () => {
  test('health, reflection and lorica call', async () => {
    const server = await start();
    const health = loadPackageDefinition(loadSync(protoPath, { enums: String })) as unknown as {
      grpc: {
        health: {
          v1: {
            Health: new (
              address: string,
              how: object,
            ) => Client & { check(request: object, done: (error: unknown, reply: { status: string }) => void): void };
          };
        };
      };
    };
    expect(Object.keys(healthService)).toContain('Check');
    const checker = new health.grpc.health.v1.Health(server.address, credentials.createInsecure());
    const status = await new Promise((done) => checker.check({ service: 'lorica.v1.TuneService' }, (_error, reply) => done(reply.status)));
    checker.close();
    expect(status).toBe('SERVING');

    for (const version of ['v1', 'v1alpha'])
      expect(await reflectedServices(server.address, version)).toEqual(
        expect.arrayContaining(['lorica.v1.GenerateService', 'lorica.v1.TuneService', 'grpc.health.v1.Health']),
      );

    const lines: string[] = [];
    const options: CallOptions = {
      address: server.address,
      protoFolder: resolve('proto'),
      key: undefined,
      tenant: 'acme',
      deadlineMs: undefined,
      json: '',
      input: Readable.from([]),
      write: (line) => lines.push(line),
    };
    await call('ModelService/ListModels', options);
    expect(JSON.parse(lines.pop()!)).toMatchObject({ models: [{ name: 'models/m' }] });
    const data = jsonl([{ text: 'hello' }]).toString('base64');
    await call('DatasetService/UploadDataset', {
      ...options,
      input: Readable.from([`[{"header":{"parent":"tenants/-","dataset_id":"d","format":"JSONL"}},{"chunk":{"data":"${data}"}}]`]),
    });
    expect(JSON.parse(lines.pop()!)).toMatchObject({ name: 'tenants/acme/datasets/d', rows: 1 });
    await call('GenerateService/StreamGenerate', {
      ...options,
      json: '{"target":"models/m","prompt":"a","sampling":{"temperature":0,"maxTokens":2}}',
    });
    expect(lines.map((line) => Object.keys(JSON.parse(line) as object)[0])).toEqual(['start', 'token', 'token', 'end']);
    expect(await failure(call('GenerateService/Generate', { ...options, json: '{"targt":1}' }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      violations: [{ field: 'targt' }],
    });
    expect(await failure(call('GenerateService/Generate', { ...options, json: '{"target":"models/x","prompt":"a"}' }))).toMatchObject({
      code: 'NOT_FOUND',
      reason: 'MODEL_NOT_FOUND',
    });
    expect(await failure(call('Nothing/Here', options))).toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

async function reflectedServices(address: string, version: string): Promise<string[]> {
  const folderOfProtos = resolve('node_modules/@grpc/reflection/build/proto/grpc');
  const definition = loadSync(`reflection/${version}/reflection.proto`, { includeDirs: [folderOfProtos], keepCase: true, defaults: true });
  const method = (
    definition[`grpc.reflection.${version}.ServerReflection`] as Record<
      string,
      {
        path: string;
        requestSerialize: (message: object) => Buffer;
        responseDeserialize: (bytes: Buffer) => { list_services_response: { service: { name: string }[] } };
      }
    >
  )['ServerReflectionInfo']!;
  const raw = new Client(address, credentials.createInsecure());
  try {
    const stream = raw.makeBidiStreamRequest(method.path, method.requestSerialize, method.responseDeserialize);
    stream.write({ list_services: '' });
    stream.end();
    const names: string[] = [];
    for await (const reply of stream)
      names.push(...(reply as ReturnType<typeof method.responseDeserialize>).list_services_response.service.map(({ name }) => name));
    return names;
  } finally {
    raw.close();
  }
}
