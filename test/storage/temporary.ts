/** Folders and databases that a test file throws away. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Database, openDatabase } from '../../src/storage/index.js';

export interface Temporary<T> {
  readonly value: T;
  dispose(): Promise<void>;
}

export async function temporaryFolder(): Promise<Temporary<string>> {
  const value = await mkdtemp(join(tmpdir(), 'lorica-test-'));
  return { value, dispose: () => rm(value, { recursive: true, force: true }) };
}

/** A fresh embedded database in a folder of its own. */
export async function temporaryPglite(): Promise<Temporary<Database>> {
  const folder = await temporaryFolder();
  const value = await openDatabase({ dataDir: folder.value });
  return {
    value,
    dispose: async () => {
      await value.close();
      await folder.dispose();
    },
  };
}

export async function* chunksOf(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield await Promise.resolve(bytes.subarray(at, at + size));
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** Resolves once `condition` holds; fails after ten seconds. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + 10_000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error('the condition never held');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
