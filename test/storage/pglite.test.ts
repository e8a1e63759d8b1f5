import { describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openDatabase } from '../../src/storage/index.js';
import { databaseContract } from '../contract/database.js';
import { temporaryDataDir, temporaryFolder, temporaryPglite } from './temporary.js';

databaseContract(temporaryPglite);

const LOADER = fileURLToPath(new URL('../runtime/typescript-loader.mjs', import.meta.url));
const OUTGROW = fileURLToPath(new URL('./outgrow-limit.ts', import.meta.url));
const CHILD = fileURLToPath(new URL('./insert-until-killed.ts', import.meta.url));

/** A process that has the folder open and says after each insert how many are acknowledged. */
async function inserting(dataDir: string, rows: number): Promise<{ child: ChildProcess; acknowledged: () => number }> {
  const child = spawn(process.execPath, ['--import', LOADER, CHILD, dataDir], { stdio: ['ignore', 'pipe', 'inherit'] });
  let acknowledged = 0;
  child.stdout.on('data', (text: Buffer) => {
    acknowledged = Number(text.toString().trim().split('\n').at(-1)) || acknowledged;
  });
  while (acknowledged < rows) {
    if (child.exitCode !== null) throw new Error(`the child ended with ${child.exitCode}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return { child, acknowledged: () => acknowledged };
}

describe('the embedded database', () => {
  test('is closed to a second process, and open again with every acknowledged row after kill -9', async () => {
    const folder = await temporaryDataDir();
    const { child, acknowledged } = await inserting(folder.value, 200);
    const refused = await openDatabase({ dataDir: folder.value }).catch((error: unknown) => error);
    expect(refused).toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'STORAGE_LOCKED',
      message: expect.stringContaining(`process ${String(child.pid)}`),
    });

    child.kill('SIGKILL');
    await once(child, 'exit');
    const reopened = await openDatabase({ dataDir: folder.value });
    const [row] = await reopened.query<{ count: number }>('SELECT count(*) AS count FROM numbers');
    expect(row?.count).toBeGreaterThanOrEqual(acknowledged());
    await expect(openDatabase({ dataDir: folder.value })).rejects.toMatchObject({ reason: 'STORAGE_LOCKED' });
    await reopened.close();
    await reopened.close();
    await folder.dispose();
  });

  test('when its log cannot grow says STORAGE_FULL to everybody, and goes on with every acknowledged row once it can', async () => {
    const folder = await temporaryDataDir();
    const child = spawn(process.execPath, ['--import', LOADER, OUTGROW, folder.value], { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.on('data', (text: Buffer) => (output += text.toString()));
    await once(child, 'close');
    const { acknowledged, refused, during, after } = JSON.parse(output) as {
      acknowledged: number;
      refused: string;
      during: string[];
      after: number;
    };
    expect(acknowledged).toBeGreaterThan(0);
    expect(refused).toBe('RESOURCE_EXHAUSTED STORAGE_FULL');
    expect(during).toEqual(Array(12).fill('RESOURCE_EXHAUSTED STORAGE_FULL'));
    expect([acknowledged, acknowledged + 1]).toContain(after);
    await folder.dispose();
  });

  test('of a newer release is left alone', async () => {
    const folder = await temporaryFolder();
    const database = await openDatabase({ dataDir: folder.value });
    await database.query(`INSERT INTO schema_version (version, name) VALUES (1000, 'from the future')`);
    await database.close();
    await expect(openDatabase({ dataDir: folder.value })).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringContaining('1000'),
    });
    await expect(openDatabase({ dataDir: folder.value })).rejects.toMatchObject({ reason: 'STORAGE_FAILED' });
    await folder.dispose();
  });

  test('says what is wrong with a folder that cannot be one', async () => {
    const folder = await temporaryFolder();
    const file = join(folder.value, 'file');
    await writeFile(file, '');
    await expect(openDatabase({ dataDir: join(file, 'data') })).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'STORAGE_FAILED',
    });
    await folder.dispose();
  });
});
