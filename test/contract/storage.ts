/** What is kept beside the resources, on every Database: request ids and the ledger of blobs. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  BlobLedger,
  type BlobStore,
  type Database,
  openFolderBlobStore,
  requestDigestOf,
  RequestIds,
  type RequestKey,
} from '../../src/storage/index.js';
import { temporaryFolder, type Temporary } from '../storage/temporary.js';

export function storageContract(open: () => Promise<Temporary<Database>>): void {
  let database: Temporary<Database>;
  let folder: Temporary<string>;
  let blobs: BlobStore;
  beforeAll(async () => {
    database = await open();
    folder = await temporaryFolder();
    blobs = await openFolderBlobStore(folder.value);
  });
  afterAll(async () => {
    await database.dispose();
    await folder.dispose();
  });

  describe('request ids', () => {
    let nowMs = 1_750_000_000_000;
    const ids = (): RequestIds => new RequestIds(database.value, { nowMs: () => nowMs, monotonicMs: () => nowMs });
    const key = (requestId: string, body = 'body', tenant = 'acme', method = 'Create'): RequestKey => ({
      tenant,
      method,
      requestId,
      requestDigest: requestDigestOf(body),
    });

    test('the same id and body give the first answer, another body is refused', async () => {
      expect(await ids().once(key('a'), () => Promise.resolve('first'))).toEqual({ name: 'first', first: true });
      expect(await ids().once(key('a'), () => Promise.reject(new Error('not to be called')))).toEqual({ name: 'first', first: false });
      await expect(ids().once(key('a', 'other body'), () => Promise.resolve('second'))).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        reason: 'REQUEST_ID_REUSED',
      });
    });

    test('tenants and methods have ids of their own', async () => {
      await ids().record(key('b'), 'acme create');
      expect(await ids().find(key('b', 'x', 'globex'))).toBeUndefined();
      expect(await ids().find(key('b', 'x', 'acme', 'Delete'))).toBeUndefined();
      expect(await ids().find(key('b'))).toBe('acme create');
    });

    test('a failed call leaves its id free', async () => {
      await expect(ids().once(key('c'), () => Promise.reject(new Error('no')))).rejects.toThrow('no');
      expect(await ids().once(key('c', 'mended body'), () => Promise.resolve('yes'))).toEqual({ name: 'yes', first: true });
    });

    test('of calls at once one creates', async () => {
      let made = 0;
      const all = await Promise.all(Array.from({ length: 8 }, () => ids().once(key('d'), () => Promise.resolve(`made ${(made += 1)}`))));
      expect(made).toBe(1);
      expect(all.map(({ name }) => name)).toEqual(Array(8).fill('made 1'));
      expect(all.filter(({ first }) => first)).toHaveLength(1);
    });

    test('an id is kept for 24 hours', async () => {
      await ids().record(key('e'), 'kept');
      nowMs += 24 * 3_600_000 - 1;
      expect(await ids().find(key('e'))).toBe('kept');
      nowMs += 1;
      expect(await ids().find(key('e', 'other body'))).toBeUndefined();
      expect(await ids().once(key('e', 'other body'), () => Promise.resolve('again'))).toEqual({ name: 'again', first: true });
    });
  });

  describe('blob ledger', () => {
    test('bytes that two resources share go with the second', async () => {
      const ledger = new BlobLedger(database.value, blobs);
      const keep = async (owner: string): Promise<string> => {
        const staged = await blobs.stage(Buffer.from('shared'));
        await database.value.transaction((tx) => ledger.keep(tx, staged, owner));
        return staged.sha256;
      };
      const release = async (owner: string): Promise<void> =>
        ledger.sweep(await database.value.transaction((tx) => ledger.release(tx, owner)));
      const sha256 = await keep('one');
      await keep('two');
      await release('one');
      expect(await blobs.has(sha256)).toBe(true);
      await release('two');
      expect(await blobs.has(sha256)).toBe(false);
      await release('nobody');
    });

    test('keeping and sweeping equal bytes at once never loses kept ones', async () => {
      const ledger = new BlobLedger(database.value, blobs);
      for (let round = 0; round < 10; round += 1) {
        const bytes = Buffer.from(`round ${round}`);
        const before = await blobs.stage(bytes);
        const after = await blobs.stage(bytes);
        await database.value.transaction((tx) => ledger.keep(tx, before, 'before'));
        const released = await database.value.transaction((tx) => ledger.release(tx, 'before'));
        await Promise.all([ledger.sweep(released), database.value.transaction((tx) => ledger.keep(tx, after, `after ${round}`))]);
        expect(await blobs.has(after.sha256)).toBe(true);
      }
    });
  });
}
