import { describe, expect, test } from '@jest/globals';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mapFile, releaseMappedPages } from '../../src/runtime/mapped-file.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const folder = temporaryFolder();
const BYTES = 8 << 20;

/** Resident bytes of the mappings of a file, as the system counts them. */
function residentBytes(path: string): number {
  const entries = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m).filter((entry) => entry.includes(path));
  return entries.reduce((sum, entry) => sum + Number(/^Rss:\s+(\d+)/m.exec(entry)?.[1] ?? 0) * 1024, 0);
}

describe('a mapped file', () => {
  test('has the bytes of the file, which leave resident memory and come back', () => {
    const path = join(folder, 'weights');
    const content = new Uint8Array(BYTES).map((_, i) => (i * 31 + (i >> 12)) & 255);
    writeFileSync(path, content);
    const mapped = mapFile(path);
    if (process.platform !== 'linux') {
      expect(mapped).toBeUndefined();
      return;
    }
    expect(Buffer.compare(new Uint8Array(mapped!), content)).toBe(0);
    expect(residentBytes(path)).toBe(BYTES);
    releaseMappedPages();
    expect(residentBytes(path)).toBe(0);
    rmSync(path);
    expect(Buffer.compare(new Uint8Array(mapped!), content)).toBe(0);
  });

  test('an empty file is not mapped; nor a folder; a missing one is an error', () => {
    writeFileSync(join(folder, 'empty'), '');
    mkdirSync(join(folder, 'inner'));
    expect(mapFile(join(folder, 'empty'))).toBeUndefined();
    expect(() => mapFile(join(folder, 'missing'))).toThrow(/ENOENT/);
    expect(mapFile(join(folder, 'inner'))).toBeUndefined();
  });
});
