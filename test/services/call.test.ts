/** The one place where handlers become methods, with a service of its own on a real server. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Client, credentials, Metadata, Server, ServerCredentials, status as Code, type ServiceError } from '@grpc/grpc-js';
import { systemClock } from '../../src/common/clock.js';
import { LoricaError } from '../../src/common/errors.js';
import { createLogger } from '../../src/common/logger.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import { addService, type CallContext } from '../../src/services/call.js';
import { toCallError } from '../../src/client/call-error.js';

const bytes = (value: Buffer): Buffer => value;
const method = <Q extends boolean, R extends boolean>(name: string, requestStream: Q, responseStream: R) => ({
  path: `/lorica.v1.TestService/${name}` as const,
  requestStream,
  responseStream,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
});
const definition = {
  one: method('One', false, false),
  many: method('Many', false, true),
  sum: method('Sum', true, false),
};

const metrics = createMetrics();
const logged: string[] = [];
const draining = new AbortController();
const server = new Server();
let client: Client;
let produced = 0;
let ended: unknown;
let role: 'tenant' | 'operator' = 'tenant';

/** What `one` does, by the text of the request. */
async function one(request: Buffer, context: CallContext): Promise<Buffer> {
  switch (request.toString()) {
    case 'defect':
      throw new TypeError('secret detail');
    case 'refuse':
      throw new LoricaError('FAILED_PRECONDITION', 'JOB_STATE', 'not now', { hint: 'Later.' });
    case 'wait':
      if (!context.signal.aborted) await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
      ended = context.signal.reason;
      throw new Error('too late to matter');
    default:
      return Buffer.from(`${context.identity.tenant} ${context.requestId}`);
  }
}

beforeAll(async () => {
  addService(
    server,
    definition,
    {
      one,
      many: async function* (_request, context) {
        try {
          for (;;) {
            context.signal.throwIfAborted();
            produced += 1;
            yield Buffer.alloc(65_536);
          }
        } finally {
          ended = context.signal.reason ?? 'left';
        }
      },
      sum: async (requests) => {
        let total = 0;
        for await (const request of requests) {
          if (request.toString() === 'bad') throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', 'bad part');
          total += request.length;
        }
        return Buffer.from(String(total));
      },
    },
    {
      authenticate: async () => ({ tenant: 'acme', roles: [role] }),
      metrics,
      logger: createLogger('debug', (line) => logged.push(line)),
      clock: systemClock,
      draining: draining.signal,
      role: 'tenant',
    },
  );
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
});
afterAll(() => {
  client.close();
  server.forceShutdown();
});

function call(text: string, metadata = new Metadata()): Promise<{ value: string; trailers: Metadata }> {
  return new Promise((resolve, reject) => {
    let value = '';
    const sent = client.makeUnaryRequest(definition.one.path, bytes, bytes, Buffer.from(text), metadata, (error, reply) => {
      if (error !== null) reject(toCallError(error));
      else value = String(reply);
    });
    sent.on('status', (status) => {
      if (status.code === Code.OK) resolve({ value, trailers: status.metadata });
    });
  });
}

const until = async (holds: () => boolean): Promise<void> => {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
};

describe('calls', () => {
  test('a success carries its request id', async () => {
    const { value, trailers } = await call('hello');
    expect(value).toBe(`acme ${String(trailers.get('x-request-id')[0])}`);
  });

  test('a defect is INTERNAL without its text, and logged with the request id; a refusal is neither', async () => {
    logged.length = 0;
    const defect = (await call('defect').catch((error: unknown) => error)) as { code: string; message: string; requestId: string };
    expect(defect).toMatchObject({ code: 'INTERNAL', message: 'internal error' });
    expect(logged.filter((line) => line.includes('secret detail') && line.includes(defect.requestId))).toHaveLength(1);
    logged.length = 0;
    await expect(call('refuse')).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'JOB_STATE', hint: 'Later.' });
    expect(logged.some((line) => line.includes('"error"'))).toBe(false);
  });

  test('a deadline aborts the handler', async () => {
    // Only the server counts: a client that counts too cancels first on a machine whose calls arrive late.
    const limit = new Metadata();
    limit.set('grpc-timeout', '1500m');
    await expect(call('wait', limit)).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    await until(() => ended !== undefined);
    expect(ended).toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  });

  test('a stream whose reader pauses pauses too, and ends when the reader leaves', async () => {
    const stream = client.makeServerStreamRequest(definition.many.path, bytes, bytes, Buffer.alloc(0));
    stream.on('error', () => undefined);
    await new Promise((resolve) => stream.once('data', resolve));
    stream.pause();
    // The count stands still once every buffer on the way is full.
    let before = -1;
    for (let now = produced; now !== before; now = produced) {
      before = now;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    expect(produced).toBeLessThan(500);
    ended = undefined;
    stream.cancel();
    await until(() => ended !== undefined);
    expect(ended).toMatchObject({ code: 'CANCELLED' });
  });

  test('a client stream is refused while the client still sends', async () => {
    const outcome = await new Promise<ServiceError | null>((resolve) => {
      const stream = client.makeClientStreamRequest(definition.sum.path, bytes, bytes, (error) => resolve(error));
      stream.on('error', () => undefined);
      stream.write(Buffer.from('good'));
      stream.write(Buffer.from('bad'));
      for (let i = 0; i < 20; i++) stream.write(Buffer.alloc(65_536));
    });
    expect(toCallError(outcome)).toMatchObject({ code: 'INVALID_ARGUMENT', message: 'bad part' });
  });

  test('roles, draining and metrics', async () => {
    role = 'operator';
    await expect(call('hello')).rejects.toMatchObject({ code: 'PERMISSION_DENIED' });
    role = 'tenant';
    draining.abort();
    await expect(call('hello')).rejects.toMatchObject({ code: 'UNAVAILABLE', reason: 'SHUTTING_DOWN', retryAfterMs: 1000 });
    const text = await metrics.registry.metrics();
    for (const [name, tenant, code] of [
      ['One', 'acme', 'OK'],
      ['One', 'acme', 'INTERNAL'],
      ['One', 'acme', 'DEADLINE_EXCEEDED'],
      ['Many', 'acme', 'CANCELLED'],
      ['Sum', 'acme', 'INVALID_ARGUMENT'],
      ['One', '', 'UNAVAILABLE'],
    ] as const)
      expect(text).toContain(`lorica_requests_total{service="TestService",method="${name}",tenant="${tenant}",code="${code}"} 1`);
  });
});
