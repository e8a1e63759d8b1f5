import { describe, expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sha256File, sha256Files } from '../../src/models/file-digest.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const folder = temporaryFolder();

/** A file of so many bytes; its digest. */
function file(name: string, bytes: number): { path: string; sha256: string } {
  const content = new Uint8Array(bytes).map((_, i) => i % 251);
  writeFileSync(join(folder, name), content);
  return { path: join(folder, name), sha256: createHash('sha256').update(content).digest('hex') };
}

describe('digests of files', () => {
  test('of small and of large ones, in order, whatever thread computes them', async () => {
    const files = [file('large', (16 << 20) + 12_345), file('empty', 0), file('exact', 16 << 20), file('small', 1000)];
    expect(await sha256Files(files.map(({ path }) => path))).toEqual(files.map(({ sha256 }) => sha256));
  });

  test('a missing file is an error, and so is a folder', async () => {
    await expect(sha256File(join(folder, 'missing'))).rejects.toThrow(/ENOENT/);
    await expect(sha256File(folder)).rejects.toThrow(/EISDIR/);
  });

  test('an abort ends it with its reason, on a thread too', async () => {
    const { path } = file('aborted', 24 << 20);
    const abort = new AbortController();
    const digest = sha256File(path, abort.signal);
    setImmediate(() => abort.abort(new Error('not needed')));
    await expect(digest).rejects.toThrow('not needed');
    await expect(sha256File(path, abort.signal)).rejects.toThrow('not needed');
  });
});
