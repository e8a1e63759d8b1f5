import { expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createKey } from '../../src/cli/keys.js';
import { keySha256, readKeysFile } from '../../src/tenants/index.js';
import { temporaryFolder } from '../storage/temporary.js';

const config = (keysFile: string) => ({ keysFile, databaseUrl: undefined, dataDir: '/nowhere' });

test('a keys file is made, then grows, and holds hashes only', async () => {
  const folder = await temporaryFolder();
  const file = join(folder.value, 'keys.json');
  const one = await createKey(config(file), 'shop', ['tenant']);
  const two = await createKey(config(file), 'bank', ['tenant', 'operator']);
  expect((await readKeysFile(file)).map((key) => [key.tenant, key.keySha256])).toEqual([
    ['shop', keySha256(one.secret)],
    ['bank', keySha256(two.secret)],
  ]);
  expect(await readFile(file, 'utf8')).not.toContain(one.secret);
  await folder.dispose();
});

test('a keys file that cannot be written is refused by its name, and nothing is left', async () => {
  const folder = await temporaryFolder();
  const file = join(folder.value, 'missing', 'keys.json');
  await expect(createKey(config(file), 'shop', ['tenant'])).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    reason: 'STORAGE_FAILED',
    message: `the keys file ${file} cannot be written`,
  });
  expect(existsSync(join(folder.value, 'missing'))).toBe(false);
  await folder.dispose();
});
