/** What the tenant store does on every Database. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Database } from '../../src/storage/index.js';
import { developmentIdentity, keySha256, newApiKey, TenantStore } from '../../src/tenants/index.js';
import { type Temporary, temporaryFolder } from '../storage/temporary.js';

export function tenantsContract(open: () => Promise<Temporary<Database>>): void {
  describe('tenants and keys', () => {
    let database: Temporary<Database>;
    let folder: Temporary<string>;
    let store: TenantStore;
    beforeAll(async () => {
      database = await open();
    });
    beforeEach(async () => {
      folder = await temporaryFolder();
      await database.value.execute('DELETE FROM api_keys; DELETE FROM tenants');
      store = await TenantStore.open(database.value);
    });
    afterEach(() => folder.dispose());
    afterAll(() => database.dispose());

    const keysFile = async (content: unknown): Promise<string> => {
      const path = join(folder.value, 'keys.json');
      await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
      return path;
    };

    test('are created, read and listed', async () => {
      const acme = await store.createTenant({ id: 'acme', displayName: 'Acme' });
      expect(acme).toEqual({ name: 'tenants/acme', id: 'acme', displayName: 'Acme', createTime: expect.any(Date) });
      await store.ensureTenant('globex');
      await store.ensureTenant('globex');
      expect((await store.listTenants({})).items.map(({ id }) => id)).toEqual(['globex', 'acme']);
      await expect(store.createTenant({ id: 'acme' })).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
      await expect(store.createTenant({ id: 'Acme Inc' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      await expect(store.getTenant('initech')).rejects.toMatchObject({ code: 'NOT_FOUND', reason: 'TENANT_NOT_FOUND' });
    });

    test('a key proves its tenant and roles until it is revoked; only its hash is stored', async () => {
      await store.createTenant({ id: 'acme' });
      const { apiKey, secret } = await store.createApiKey({ tenant: 'acme', roles: ['tenant', 'operator', 'tenant'] });
      expect(secret).toMatch(/^lrc_[A-Za-z0-9_-]{43}$/);
      expect(await store.authenticate(secret)).toEqual({ tenant: 'acme', roles: ['tenant', 'operator'], keyId: apiKey.id });
      expect(JSON.stringify(await database.value.query('SELECT * FROM api_keys'))).not.toContain(secret.slice(4));
      expect(JSON.stringify((await store.listApiKeys({ tenant: 'acme' })).items)).not.toContain(secret.slice(4));
      expect(await store.hasKeys()).toBe(true);

      const revoked = await store.revokeApiKey('acme', apiKey.id);
      expect(revoked.revokeTime).toEqual(expect.any(Date));
      expect(await store.revokeApiKey('acme', apiKey.id)).toEqual(revoked);
      expect(await store.authenticate(secret)).toBeNull();
      expect(await store.hasKeys()).toBe(false);
    });

    test('anything else proves nothing', async () => {
      await store.createTenant({ id: 'acme' });
      const { apiKey, secret } = await store.createApiKey({ tenant: 'acme', roles: ['tenant'] });
      for (const key of [
        '',
        'lrc_',
        secret.slice(0, -1),
        `${secret}x`,
        secret.toLowerCase(),
        keySha256(secret),
        apiKey.id,
        newApiKey(),
        'x'.repeat(100_000),
        'a\u0000b',
        `' OR 1=1 --`,
      ]) {
        expect(await store.authenticate(key)).toBeNull();
      }
      await expect(store.revokeApiKey('globex', apiKey.id)).rejects.toMatchObject({ code: 'NOT_FOUND', reason: 'API_KEY_NOT_FOUND' });
      await expect(store.createApiKey({ tenant: 'globex', roles: ['tenant'] })).rejects.toMatchObject({ reason: 'TENANT_NOT_FOUND' });
      await expect(store.createApiKey({ tenant: 'acme', roles: [] })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    });

    test('a keys file brings its tenants and keys', async () => {
      const [acme, operator] = [newApiKey(), newApiKey()];
      const path = await keysFile([
        { tenant: 'acme', keySha256: keySha256(acme) },
        { tenant: 'platform', keySha256: keySha256(operator).toUpperCase(), roles: ['operator', 'tenant'] },
      ]);
      const opened = await TenantStore.open(database.value, { keysFile: path });
      expect(await opened.authenticate(acme)).toMatchObject({ tenant: 'acme', roles: ['tenant'] });
      expect(await opened.authenticate(operator)).toMatchObject({ tenant: 'platform', roles: ['operator', 'tenant'] });
      expect(await opened.authenticate(newApiKey())).toBeNull();
      expect(await opened.hasKeys()).toBe(true);
      expect((await opened.listTenants({})).items.map(({ id }) => id).sort()).toEqual(['acme', 'platform']);
      expect(await store.authenticate(acme)).toBeNull();
    });

    test('a wrong keys file is refused with all that is wrong with it', async () => {
      const open = (content: unknown): Promise<TenantStore> =>
        keysFile(content).then((path) => TenantStore.open(database.value, { keysFile: path }));
      const key = keySha256('k');
      await expect(open([{ tenant: 'A B', keySha256: 'zz', roles: ['root'], extra: 1 }, 'x'])).rejects.toMatchObject({
        code: 'FAILED_PRECONDITION',
        violations: ['[0].extra', '[0].tenant', '[0].keySha256', '[0].roles', '[1].tenant', '[1].keySha256'].map((field) =>
          expect.objectContaining({ field }),
        ),
      });
      await expect(
        open([
          { tenant: 'a', keySha256: key },
          { tenant: 'b', keySha256: key },
        ]),
      ).rejects.toMatchObject({ message: expect.stringContaining('same key') });
      await expect(open({})).rejects.toMatchObject({ message: expect.stringContaining('must be a list') });
      await expect(open('[{')).rejects.toMatchObject({ message: expect.stringContaining('not valid JSON') });
      await expect(TenantStore.open(database.value, { keysFile: join(folder.value, 'absent') })).rejects.toMatchObject({
        message: expect.stringContaining('ENOENT'),
      });
      expect((await store.listTenants({})).items).toEqual([]);
    });

    test('the development identity may do everything for one tenant', () => {
      expect(developmentIdentity()).toEqual({ tenant: 'default', roles: ['tenant', 'operator'] });
    });
  });
}
