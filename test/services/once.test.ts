import { describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import { silentLogger } from '../../src/common/logger.js';
import type { CallContext } from '../../src/services/call.js';
import { bodyDigest, Once } from '../../src/services/once.js';
import type { RequestKey, RequestMemory } from '../../src/services/ports.js';

/** What the storage layer keeps, in a map. */
class Memory implements RequestMemory {
  readonly kept = new Map<string, { digest: string; name: string }>();
  async find(key: RequestKey): Promise<string | undefined> {
    const entry = this.kept.get(`${key.tenant} ${key.method} ${key.requestId}`);
    if (entry !== undefined && entry.digest !== key.requestDigest) throw new LoricaError('INVALID_ARGUMENT', 'REQUEST_ID_REUSED', 'reused');
    return entry?.name;
  }
  async record(key: RequestKey, name: string): Promise<void> {
    this.kept.set(`${key.tenant} ${key.method} ${key.requestId}`, { digest: key.requestDigest, name });
  }
}

const context = (tenant = 't'): CallContext => ({
  identity: { tenant, roles: ['tenant'] },
  requestId: 'r',
  signal: new AbortController().signal,
  logger: silentLogger,
  method: 'S/M',
});
const ID = { requestId: '7F0C0A52-0d0b-4d4e-8b6b-0f1b8e1f2a01' };

describe('Once', () => {
  function counting() {
    let runs = 0;
    return {
      runs: () => runs,
      steps: { first: async () => `made ${++runs}`, nameOf: () => 'names/1', again: async (name: string) => `again ${name}` },
    };
  }

  test('runs once per id and body; overlapping calls too', async () => {
    const once = new Once(new Memory());
    const { runs, steps } = counting();
    const answers = await Promise.all([1, 2, 3].map(() => once.run(context(), ID, { a: 1 }, steps)));
    expect(answers).toEqual(['made 1', 'again names/1', 'again names/1']);
    expect(runs()).toBe(1);
    await expect(once.run(context(), { requestId: ID.requestId.toLowerCase() }, { a: 1 }, steps)).resolves.toBe('again names/1');
  });

  test('another body is refused, another tenant is another request, no id is no memory', async () => {
    const once = new Once(new Memory());
    const { runs, steps } = counting();
    await once.run(context(), ID, { a: 1 }, steps);
    await expect(once.run(context(), ID, { a: 2 }, steps)).rejects.toMatchObject({ reason: 'REQUEST_ID_REUSED' });
    await once.run(context('u'), ID, { a: 2 }, steps);
    await once.run(context(), { requestId: '' }, { a: 2 }, steps);
    expect(runs()).toBe(3);
  });

  test('a failed first run is not remembered', async () => {
    const once = new Once(new Memory());
    const { steps } = counting();
    await expect(once.run(context(), ID, {}, { ...steps, first: () => Promise.reject(new Error('no')) })).rejects.toThrow('no');
    await expect(once.run(context(), ID, {}, steps)).resolves.toBe('made 1');
  });
});

test('the digest of a body does not depend on the order of its members', () => {
  expect(bodyDigest({ a: 1, b: { c: [1, 2], d: 'x' } })).toBe(bodyDigest({ b: { d: 'x', c: [1, 2] }, a: 1 }));
  expect(bodyDigest({ a: [1, 2] })).not.toBe(bodyDigest({ a: [2, 1] }));
});
