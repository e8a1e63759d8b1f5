import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { readdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { FolderLock } from '../../src/storage/folder-lock.js';
import { temporaryFolder, type Temporary } from './temporary.js';

const LOCKED = { code: 'FAILED_PRECONDITION', reason: 'STORAGE_LOCKED' };

describe('folder lock', () => {
  let folder: Temporary<string>;
  let path: string;
  beforeEach(async () => {
    folder = await temporaryFolder();
    path = join(folder.value, 'lock');
  });
  afterEach(() => folder.dispose());

  const holder = (change: object): string => JSON.stringify({ pid: process.pid, host: hostname(), started: '', nonce: 'n', ...change });
  const deadPid = (): number => spawnSync(process.execPath, ['-e', '']).pid;
  const aged = (ageMs: number): Promise<void> => utimes(path, new Date(Date.now() - ageMs), new Date(Date.now() - ageMs));

  test('is held once, and leaves nothing when released', async () => {
    const lock = await FolderLock.acquire(path);
    await expect(FolderLock.acquire(path)).rejects.toMatchObject({ ...LOCKED, message: expect.stringContaining(`process ${process.pid}`) });
    await lock.release();
    expect(await readdir(folder.value)).toEqual([]);
    await (await FolderLock.acquire(path)).release();
  });

  test.each(Array.from({ length: 10 }, (_, round) => round))('of many that want a stale one at once, one gets it (round %i)', async () => {
    await writeFile(path, holder({ pid: deadPid() }));
    const tries = await Promise.allSettled(Array.from({ length: 20 }, () => FolderLock.acquire(path)));
    const winners = tries.filter((result) => result.status === 'fulfilled');
    expect(winners).toHaveLength(1);
    for (const winner of winners) await winner.value.release();
    expect(await readdir(folder.value)).toEqual([]);
  });

  test('of a dead process is taken over, and not released by its old holder', async () => {
    await writeFile(path, holder({ pid: deadPid() }));
    const lock = await FolderLock.acquire(path);
    await writeFile(path, holder({ nonce: 'somebody else' }));
    await lock.release();
    expect(await readFile(path, 'utf8')).toContain('somebody else');
  });

  test('whose takeover was cut short by a crash is taken over', async () => {
    await writeFile(path, holder({ pid: deadPid() }));
    await writeFile(`${path}.takeover`, holder({ pid: deadPid() }));
    await (await FolderLock.acquire(path)).release();
    expect(await readdir(folder.value)).toEqual([]);
  });

  test('whose pid now is another process is taken over', async () => {
    await writeFile(path, holder({ started: '1' }));
    await (await FolderLock.acquire(path)).release();
  });

  test('of another host is believed while it is refreshed', async () => {
    await writeFile(path, holder({ host: 'elsewhere', pid: 1 }));
    await expect(FolderLock.acquire(path)).rejects.toMatchObject({ ...LOCKED, message: expect.stringContaining('process 1 on elsewhere') });
    await aged(60_000);
    await (await FolderLock.acquire(path)).release();
  });

  test('cut short by a crash is taken over once it is no longer being written', async () => {
    await writeFile(path, '{"pid":');
    await expect(FolderLock.acquire(path)).rejects.toMatchObject(LOCKED);
    await aged(60_000);
    await (await FolderLock.acquire(path)).release();
  });
});
