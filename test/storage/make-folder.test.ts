import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder } from '../../src/storage/make-folder.js';
import { temporaryFolder, type Temporary } from './temporary.js';

let folder: Temporary<string>;
beforeAll(async () => {
  folder = await temporaryFolder();
});
afterAll(() => folder.dispose());

test('makes every missing level and keeps what is there', async () => {
  const path = join(folder.value, 'a', 'b', 'c');
  await makeFolder(path);
  await writeFile(join(path, 'kept'), '');
  await makeFolder(path);
  expect((await stat(join(path, 'kept'))).isFile()).toBe(true);
});

test('a file in the way, and a place that takes no folders, are refused in one line', async () => {
  const file = join(folder.value, 'file');
  await writeFile(file, '');
  await expect(makeFolder(file)).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    reason: 'STORAGE_FAILED',
    message: `the data folder ${file} cannot be made or written to (it is a file)`,
    hint: 'Give a folder that this user may write to (LORICA_DATA_DIR).',
  });
  await expect(makeFolder(join(file, 'below'))).rejects.toMatchObject({ reason: 'STORAGE_FAILED' });
  // Node's own recursive mkdir never returns here.
  await expect(makeFolder('/proc/lorica-test/data')).rejects.toMatchObject({ reason: 'STORAGE_FAILED' });
});
