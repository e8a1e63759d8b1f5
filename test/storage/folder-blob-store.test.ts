import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { readdir, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type BlobStore, openFolderBlobStore } from '../../src/storage/index.js';
import { chunksOf, collect, temporaryFolder, type Temporary } from './temporary.js';

const LOADER = fileURLToPath(new URL('../runtime/typescript-loader.mjs', import.meta.url));
const CHILD = fileURLToPath(new URL('./put-blob.ts', import.meta.url));
const DAMAGED = { code: 'DATA_LOSS', reason: 'DIGEST_MISMATCH' };

describe('blobs in a folder', () => {
  let folder: Temporary<string>;
  let store: BlobStore;
  beforeEach(async () => {
    folder = await temporaryFolder();
    store = await openFolderBlobStore(folder.value);
  });
  afterEach(() => folder.dispose());

  const files = async (): Promise<string[]> =>
    (await readdir(folder.value, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile()).map((entry) => entry.name);

  /** Puts a blob in a child whose shell limits the size of files it may write (in KiB; the kernel refuses the write). */
  const putInChild = (bytes: number, limitKib: number | 'unlimited', ...more: string[]): SpawnSyncReturns<string> =>
    spawnSync(
      'bash',
      ['-c', `ulimit -f ${limitKib}; exec "$0" "$@"`, process.execPath, '--import', LOADER, CHILD, folder.value, String(bytes), ...more],
      { encoding: 'utf8' },
    );

  test.each([0, 1, 5_000_000])('gives %i bytes back, whole and streamed', async (size) => {
    const bytes = new Uint8Array(randomBytes(size));
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    expect(await store.put(chunksOf(bytes, 300_001))).toEqual({ sha256, bytes: size });
    expect(await store.put(bytes)).toEqual({ sha256, bytes: size });
    expect(Buffer.compare(await store.read(sha256), bytes)).toBe(0);
    expect(Buffer.compare(Buffer.concat(await collect(store.stream(sha256))), bytes)).toBe(0);
    expect(await files()).toHaveLength(1);
    await store.delete(sha256);
    await store.delete(sha256);
    expect(await files()).toEqual([]);
    expect(await store.has(sha256)).toBe(false);
  });

  test('staged bytes are invisible until committed, and gone when discarded', async () => {
    const first = await store.stage(Buffer.from('one'));
    const second = await store.stage(Buffer.from('two'));
    expect([await store.has(first.sha256), await store.has(second.sha256)]).toEqual([false, false]);
    await first.commit();
    await second.discard();
    expect([await store.has(first.sha256), await store.has(second.sha256)]).toEqual([true, false]);
    expect(await files()).toHaveLength(1);
  });

  test('a source that fails leaves nothing', async () => {
    const source = async function* (): AsyncGenerator<Uint8Array> {
      yield await Promise.resolve(new Uint8Array(100_000));
      throw new RangeError('the client went away');
    };
    await expect(store.put(source())).rejects.toThrow('the client went away');
    expect(await files()).toEqual([]);
  });

  test('when the disk takes no more, the write is refused as STORAGE_FULL and leaves nothing', async () => {
    const { stdout, stderr } = putInChild(3_000_000, 1_000);
    expect([stdout, stderr]).toEqual([JSON.stringify({ code: 'RESOURCE_EXHAUSTED', reason: 'STORAGE_FULL' }), '']);
    expect(await files()).toEqual([]);
    expect(JSON.parse(putInChild(900_000, 1_000).stdout)).toMatchObject({ bytes: 900_000 });
  });

  test('what a killed process was writing is removed at the next start, what a live one writes is not', async () => {
    expect(putInChild(200_000, 'unlimited', 'kill').signal).toBe('SIGKILL');
    expect(await files()).toHaveLength(1);
    const live = await store.stage(Buffer.from('being written'));
    await openFolderBlobStore(folder.value);
    await live.commit();
    expect(await store.read(live.sha256)).toEqual(new Uint8Array(Buffer.from('being written')));
    expect(await files()).toHaveLength(1);
  });

  test('a forgotten file of a live process is removed after a day', async () => {
    const forgotten = join(folder.value, 'incoming', `${process.ppid}-forgotten`);
    await writeFile(forgotten, 'x');
    await openFolderBlobStore(folder.value);
    expect(await files()).toHaveLength(1);
    await utimes(forgotten, 0, 0);
    await openFolderBlobStore(folder.value);
    expect(await files()).toEqual([]);
  });

  test('changed, cut, grown or missing bytes are DATA_LOSS', async () => {
    const { sha256 } = await store.put(Buffer.from('precious bytes'));
    const path = store.path?.(sha256) ?? '';
    for (const damage of [
      () => writeFile(path, 'precious bytez'),
      () => truncate(path, 3),
      () => writeFile(path, 'precious bytes and more'),
    ]) {
      await damage();
      await expect(store.read(sha256)).rejects.toMatchObject(DAMAGED);
      await expect(collect(store.stream(sha256))).rejects.toMatchObject(DAMAGED);
    }
    await store.delete(sha256);
    await expect(store.read(sha256)).rejects.toMatchObject({ ...DAMAGED, message: expect.stringContaining('missing') });
    await expect(collect(store.stream(sha256))).rejects.toMatchObject(DAMAGED);
  });

  test('a folder that cannot be used is refused', async () => {
    const file = join(folder.value, 'file');
    await writeFile(file, '');
    await expect(openFolderBlobStore(join(file, 'blobs'))).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'STORAGE_FAILED' });
  });
});
