/** Folders and databases that a test file throws away. */
import { PGlite } from '@electric-sql/pglite';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Database, openDatabase } from '../../src/storage/index.js';

export interface Temporary<T> {
  readonly value: T;
  dispose(): Promise<void>;
}

export async function temporaryFolder(): Promise<Temporary<string>> {
  const value = await mkdtemp(join(tmpdir(), 'lorica-test-'));
  return { value, dispose: () => rm(value, { recursive: true, force: true }) };
}

const CACHE = fileURLToPath(new URL('../../.cache/test', import.meta.url));

/** An empty PGlite folder, made once per version of PGlite (which takes seconds) and kept. */
async function emptyDatabase(): Promise<string> {
  const manifest = fileURLToPath(new URL('../../node_modules/@electric-sql/pglite/package.json', import.meta.url));
  const { version } = JSON.parse(await readFile(manifest, 'utf8')) as { version: string };
  const kept = join(CACHE, `pglite-${version}`);
  if (existsSync(kept)) return kept;
  await mkdir(CACHE, { recursive: true });
  const made = await mkdtemp(`${kept}-`);
  await (await PGlite.create(made)).close();
  // Another test file may have been faster.
  await rename(made, kept).catch(() => rm(made, { recursive: true }));
  return kept;
}

/** A data folder whose database is there already, as after a first start; openDatabase finds it quickly. */
export async function temporaryDataDir(): Promise<Temporary<string>> {
  const folder = await temporaryFolder();
  await cp(await emptyDatabase(), join(folder.value, 'database'), { recursive: true });
  return folder;
}

/** A fresh embedded database in a folder of its own. */
export async function temporaryPglite(): Promise<Temporary<Database>> {
  const folder = await temporaryDataDir();
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
