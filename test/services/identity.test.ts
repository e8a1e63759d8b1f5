import { describe, expect, test } from '@jest/globals';
import { Metadata } from '@grpc/grpc-js';
import { authenticateByKey, authenticateForDevelopment } from '../../src/services/identity.js';

function metadata(entries: Record<string, string>): Metadata {
  const out = new Metadata();
  for (const [key, value] of Object.entries(entries)) out.set(key, value);
  return out;
}

describe('identity', () => {
  test('by key: a bearer token that the store knows, and nothing else', async () => {
    const authenticate = authenticateByKey({
      authenticate: async (key) => (key === 'good' ? { tenant: 'acme', roles: ['tenant'], keyId: 'k' } : null),
    });
    await expect(authenticate(metadata({ authorization: 'Bearer good', 'x-lorica-tenant': 'other' }))).resolves.toMatchObject({
      tenant: 'acme',
    });
    for (const wrong of [
      {},
      { authorization: 'good' },
      { authorization: 'Bearer ' },
      { authorization: 'Basic good' },
      { authorization: 'Bearer bad' },
      { 'x-lorica-tenant': 'acme' },
    ]) {
      await expect(authenticate(metadata(wrong as Record<string, string>))).rejects.toMatchObject({
        code: 'UNAUTHENTICATED',
        message: 'a valid API key is required',
      });
    }
  });

  test('for development: the named tenant, a bounded number of them', async () => {
    const authenticate = authenticateForDevelopment();
    await expect(authenticate(metadata({}))).resolves.toEqual({ tenant: 'dev', roles: ['tenant', 'operator'] });
    await expect(authenticate(metadata({ 'x-lorica-tenant': 'shop' }))).resolves.toMatchObject({ tenant: 'shop' });
    await expect(authenticate(metadata({ 'x-lorica-tenant': 'No Good' }))).rejects.toMatchObject({
      violations: [{ field: 'x-lorica-tenant' }],
    });
    for (let i = 0; i < 98; i++) await authenticate(metadata({ 'x-lorica-tenant': `t${i}` }));
    await expect(authenticate(metadata({ 'x-lorica-tenant': 'one-more' }))).rejects.toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
    await expect(authenticate(metadata({ 'x-lorica-tenant': 'shop' }))).resolves.toMatchObject({ tenant: 'shop' });
  });
});
