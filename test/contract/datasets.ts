/** What the dataset store does on every Database. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { createHash, randomUUID } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { DatasetStore, type UploadOptions } from '../../src/datasets/index.js';
import { BlobLedger, type BlobStore, type Database, openFolderBlobStore } from '../../src/storage/index.js';
import { chunksOf, collect, type Temporary, temporaryFolder } from '../storage/temporary.js';

const GOOD = '{"text":"gut","label":"pos"}\n\n{"text":"schlecht","label":"neg"}\n';
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

export function datasetsContract(open: () => Promise<Temporary<Database>>): void {
  describe('datasets', () => {
    let database: Temporary<Database>;
    let folder: Temporary<string>;
    let blobs: BlobStore;
    let store: DatasetStore;
    let tenant: string;
    beforeAll(async () => {
      database = await open();
    });
    beforeEach(async () => {
      await database.value.execute('DELETE FROM datasets; DELETE FROM blob_references');
      folder = await temporaryFolder();
      blobs = await openFolderBlobStore(folder.value);
      store = new DatasetStore(database.value, blobs, new BlobLedger(database.value, blobs));
      tenant = `tenant-${randomUUID()}`;
    });
    afterEach(() => folder.dispose());
    afterAll(() => database.dispose());

    const upload = (id: string, text: string, options: Partial<UploadOptions> = {}) =>
      store.upload(tenant, id, chunksOf(Buffer.from(text), 10), { format: 'jsonl', maxBytes: 1_000_000, ...options });
    const files = async (): Promise<string[]> =>
      (await readdir(folder.value, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile()).map((entry) => entry.name);

    test('an upload is stored whole and read back as examples with their lines', async () => {
      const dataset = await upload('reviews', GOOD, { sha256: sha256(GOOD).toUpperCase() });
      expect(dataset).toEqual({
        name: `tenants/${tenant}/datasets/reviews`,
        tenant,
        id: 'reviews',
        format: 'jsonl',
        kind: 'label',
        sha256: sha256(GOOD),
        statistics: { rows: 2, bytes: GOOD.length, duplicateRows: 0, characters: 17, longestRowCharacters: 11, labels: { pos: 1, neg: 1 } },
        findings: [{ severity: 'warning', code: 'BLANK_LINE', line: 2, path: '$', message: 'is blank and ignored' }],
        warningCount: 1,
        createTime: expect.any(Date),
        etag: expect.any(String),
      });
      expect(await store.get(tenant, 'reviews')).toEqual(dataset);
      expect(await collect(store.examples(dataset))).toEqual([
        { kind: 'label', text: 'gut', label: 'pos', line: 1 },
        { kind: 'label', text: 'schlecht', label: 'neg', line: 3 },
      ]);
      expect((await collect(store.validate(dataset))).at(-1)).toMatchObject({
        errorCount: 0,
        sha256: dataset.sha256,
        statistics: dataset.statistics,
      });
    });

    test('an invalid one is refused with every error and leaves nothing', async () => {
      const refused = await upload('bad', `${GOOD}{"text": 3}\n{"prompt": "p", "label": "l"}\n`).catch((error: unknown) => error);
      expect(refused).toMatchObject({
        code: 'INVALID_ARGUMENT',
        reason: 'DATASET_INVALID',
        message: 'the dataset has 3 errors; the first: line 4: $.text must be a string, this is a number',
        violations: [
          { field: 'line 4: $.text', description: 'must be a string, this is a number', reason: 'WRONG_TYPE' },
          { field: 'line 5: $.label', description: 'unknown field in a row with prompt and completion', reason: 'UNKNOWN_FIELD' },
          { field: 'line 5: $.completion', description: 'is missing', reason: 'MISSING_FIELD' },
        ],
      });
      expect(await files()).toEqual([]);
      await expect(store.get(tenant, 'bad')).rejects.toMatchObject({ code: 'NOT_FOUND', reason: 'DATASET_NOT_FOUND' });
    });

    test.each([
      ['a wrong digest', { sha256: sha256('other') }, 'INVALID_ARGUMENT', 'DIGEST_MISMATCH'],
      ['too many bytes', { maxBytes: GOOD.length - 1 }, 'RESOURCE_EXHAUSTED', 'QUOTA_EXCEEDED'],
      ['a client that went away', { signal: AbortSignal.abort() }, 'CANCELLED', 'CANCELLED'],
    ])('%s leaves nothing', async (_, options, code, reason) => {
      await expect(upload('refused', GOOD, options)).rejects.toMatchObject({ code, reason });
      expect(await files()).toEqual([]);
      expect((await store.list({ tenant })).items).toEqual([]);
    });

    test('datasets never change: an id in use is refused, also when two come at once', async () => {
      await upload('once', GOOD);
      await expect(upload('once', '{"text":"other"}\n')).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
      await expect(upload('No/Good', GOOD)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' });
      const race = await Promise.allSettled(['a', 'b', 'c'].map((text) => upload('race', `{"text":"${text}"}\n`)));
      expect(race.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
      expect(await files()).toHaveLength(2);
    });

    test('equal content is stored once and goes with its last dataset', async () => {
      const first = await upload('first', GOOD);
      await upload('second', GOOD);
      expect(await files()).toHaveLength(1);
      await store.delete(tenant, 'second');
      expect(await collect(store.examples(first))).toHaveLength(2);
      await store.delete(tenant, 'first');
      expect(await files()).toEqual([]);
      await expect(store.delete(tenant, 'first')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    });

    test('another tenant sees nothing, and the same error as for a name that nobody has', async () => {
      await upload('private', GOOD);
      const absent = await store.get('stranger', 'private').catch((error: unknown) => error);
      expect(absent).toMatchObject({ code: 'NOT_FOUND', message: 'tenants/stranger/datasets/private does not exist' });
      await expect(store.delete('stranger', 'private')).rejects.toMatchObject({
        message: 'tenants/stranger/datasets/private does not exist',
      });
      expect((await store.list({ tenant: 'stranger' })).items).toEqual([]);
    });

    test('lists come newest first in pages', async () => {
      for (const id of ['one', 'two', 'three']) await upload(id, GOOD);
      const page = await store.list({ tenant, pageSize: 2 });
      const rest = await store.list({ tenant, pageSize: 2, pageToken: page.nextPageToken });
      expect([page, rest].map(({ items }) => items.map(({ id }) => id))).toEqual([['three', 'two'], ['one']]);
    });

    test('bytes damaged on the disk are DATA_LOSS, not other examples', async () => {
      const dataset = await upload('damaged', GOOD);
      await writeFile(blobs.path?.(dataset.sha256) ?? '', GOOD.replace('gut', 'bad'));
      await expect(collect(store.examples(dataset))).rejects.toMatchObject({ code: 'DATA_LOSS', reason: 'DIGEST_MISMATCH' });
    });
  });
}
