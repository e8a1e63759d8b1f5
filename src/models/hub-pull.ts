/**
 * A model of the Hugging Face hub into the cache that huggingface_hub and transformers share: `blobs/{etag}` holds the bytes,
 * `snapshots/{commit}/{file}` links to them, `refs/{revision}` remembers a branch's commit. Every file is verified against the digest
 * that the hub states (sha256 of large files, git's SHA-1 of small ones) before it gets its name; an interrupted download goes on where it
 * stopped, also one that huggingface_hub began. Without a network the cache serves what it has whole.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { LoricaError } from '../common/errors.js';
import { storageError } from '../tensor/safetensors-write.js';
import { withFileLock } from './catalogue-lock.js';
import { SourceFailed, type PullOptions } from './catalogue-source.js';
import { filesOfModel, parseHubReference, SHARD_INDEX, shardsOf, type HubReference } from './hub-reference.js';
import { hubCacheFolder, hubEndpoint, isOffline } from './hub-settings.js';
import { resumableDownload } from './resumable-download.js';

export interface HubPull {
  /** The snapshot's folder, or the GGUF file in it. */
  readonly path: string;
  /** 40 hex digits. */
  readonly commit: string;
  /** 'cache' when nothing was fetched. */
  readonly source: 'cache' | 'hub';
}

interface HubFile {
  readonly name: string;
  readonly bytes: number;
  /** Hex: the sha256 of the content, or git's SHA-1 of it as a blob. Also the name of the blob in the cache. */
  readonly digest: string;
}

interface Repository {
  readonly commit: string;
  readonly files: ReadonlyMap<string, HubFile>;
}

const API_TIMEOUT_MS = 30_000;

/** The hub could not be asked; the cache may still have the model. */
class Unreachable extends Error {}

/**
 * `hf:owner/name[@revision][:file]`. Throws INVALID_FIELD, MODEL_NOT_FOUND (repository or revision), PERMISSION_DENIED (gated or private),
 * UPSTREAM_UNAVAILABLE (no network and not in the cache), DIGEST_MISMATCH, MODEL_UNSUPPORTED, STORAGE_FULL, STORAGE_FAILED, CANCELLED.
 */
export async function pullFromHub(text: string, options: PullOptions = {}): Promise<HubPull> {
  const reference = parseHubReference(text);
  const { signal, environment = process.env } = options;
  const cache = hubCacheFolder(reference.repo, environment);
  try {
    let repository: Repository;
    try {
      if (isOffline(environment)) throw new Unreachable('HF_HUB_OFFLINE is set');
      repository = await describe(reference, environment, signal);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      return await fromCache(reference, cache, error.message);
    }
    return await fetchAll(reference, repository, cache, { ...options, environment });
  } catch (error) {
    if (signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', `fetching ${text} was cancelled`, { cause: error });
    if (error instanceof SourceFailed) throw unavailable(reference, error.message);
    throw (error as NodeJS.ErrnoException).code === undefined || error instanceof LoricaError ? error : storageError(cache, error);
  }
}

function unavailable({ repo }: HubReference, why: string): LoricaError {
  return new LoricaError('UNAVAILABLE', 'UPSTREAM_UNAVAILABLE', `hf:${repo} could not be had: ${why}`, {
    hint: 'Set HF_ENDPOINT to a mirror, HF_TOKEN for a gated repository, or give the path of a folder.',
  });
}

/** The commit and the files of a revision, by one request. */
async function describe(reference: HubReference, environment: NodeJS.ProcessEnv, signal: AbortSignal | undefined): Promise<Repository> {
  const { repo, revision } = reference;
  const url = `${hubEndpoint(environment)}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const token = environment['HF_TOKEN'];
  const timeout = AbortSignal.timeout(API_TIMEOUT_MS);
  const response = await fetch(url, {
    headers: token ? { authorization: `Bearer ${token}` } : {},
    signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
  }).catch((cause: unknown) => {
    signal?.throwIfAborted();
    throw new Unreachable(timeout.aborted ? `no answer in ${API_TIMEOUT_MS / 1000} s` : ((cause as { cause?: Error }).cause?.message ?? (cause as Error).message));
  });
  if (response.status === 401 || response.status === 403) {
    throw new LoricaError('PERMISSION_DENIED', 'PERMISSION_DENIED', `the hub refuses hf:${repo} (status ${response.status})`, {
      hint: 'It does not exist, or is gated or private: accept its terms and set HF_TOKEN to a token that may read it.',
    });
  }
  if (response.status === 404) throw new LoricaError('NOT_FOUND', 'MODEL_NOT_FOUND', `the hub has no ${revision} of ${repo}`, { hint: 'Check owner, name and revision.' });
  if (!response.ok) throw new Unreachable(`status ${response.status}`);
  const answer = (await response.json().catch(() => undefined)) as { sha?: unknown; siblings?: unknown } | undefined;
  if (typeof answer?.sha !== 'string' || !/^[0-9a-f]{40}$/.test(answer.sha) || !Array.isArray(answer.siblings)) throw new SourceFailed(`${url}: not an answer of a hub`);
  return { commit: answer.sha, files: new Map((answer.siblings as Sibling[]).flatMap(fileOf).map((file) => [file.name, file])) };
}

interface Sibling {
  readonly rfilename?: unknown;
  readonly size?: unknown;
  readonly blobId?: unknown;
  readonly lfs?: { readonly sha256?: unknown; readonly size?: unknown };
}

function fileOf({ rfilename: name, size, blobId, lfs }: Sibling): HubFile[] {
  const digest = lfs?.sha256 ?? blobId;
  const bytes = lfs?.size ?? size;
  const sound = typeof name === 'string' && typeof digest === 'string' && /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(digest) && Number.isSafeInteger(bytes);
  return sound && !name.split('/').includes('..') && !name.startsWith('/') ? [{ name, digest, bytes: bytes as number }] : [];
}

async function fetchAll(reference: HubReference, { commit, files }: Repository, cache: string, options: PullOptions & { readonly environment: NodeJS.ProcessEnv }): Promise<HubPull> {
  const names = [...files.keys()];
  const snapshot = join(cache, 'snapshots', commit);
  const fetched: string[] = [];
  let wanted = filesOfModel(reference, names);
  let before = 0;
  const one = async (name: string): Promise<void> => {
    const file = files.get(name)!;
    const totalBytes = wanted.reduce((sum, each) => sum + files.get(each)!.bytes, 0);
    const onBytes = (bytes: number): void => options.onProgress?.({ source: 'hub', phase: 'download', bytes: before + bytes, totalBytes });
    if (await fetchFile(file, reference, commit, cache, onBytes, options)) fetched.push(name);
    before += file.bytes;
  };
  for (const name of wanted.filter((each) => each === SHARD_INDEX)) {
    await one(name);
    const shards = shardsOf(await readFile(join(snapshot, name), 'utf8'), names, `hf:${reference.repo} ${name}`);
    wanted = [...wanted, ...shards];
  }
  for (const name of wanted) if (name !== SHARD_INDEX) await one(name);
  if (reference.revision !== commit) {
    const ref = join(cache, 'refs', reference.revision);
    await mkdir(dirname(ref), { recursive: true });
    await writeFile(ref, commit);
  }
  return { path: modelPath(snapshot, wanted), commit, source: fetched.length > 0 ? 'hub' : 'cache' };
}

const modelPath = (snapshot: string, files: readonly string[]): string => (files.length === 1 ? join(snapshot, files[0]!) : snapshot);

/** Puts one file into the cache; false when it was there. */
async function fetchFile(
  { name, bytes, digest }: HubFile, { repo }: HubReference, commit: string, cache: string, onBytes: (bytes: number) => void,
  { environment, signal }: PullOptions & { readonly environment: NodeJS.ProcessEnv },
): Promise<boolean> {
  const blob = join(cache, 'blobs', digest);
  const link = join(cache, 'snapshots', commit, name);
  const present = async (path: string): Promise<boolean> => (await stat(path).catch(() => undefined))?.size === bytes;
  if (await present(link)) return false;
  await mkdir(dirname(blob), { recursive: true });
  await mkdir(dirname(link), { recursive: true });
  const locks = join(dirname(cache), '.locks', basename(cache));
  await mkdir(locks, { recursive: true });
  return withFileLock(join(locks, `${digest}.lorica`), signal, async () => {
    const there = await present(blob);
    if (!there) {
      const temporary = `${blob}.incomplete`;
      const url = `${hubEndpoint(environment)}/${repo}/resolve/${commit}/${name.split('/').map(encodeURIComponent).join('/')}`;
      await resumableDownload({ url, bytes, temporary, token: environment['HF_TOKEN'], onBytes, signal });
      const found = await digestOf(temporary, bytes, digest.length, signal);
      if (found !== digest) {
        await rm(temporary, { force: true });
        throw new LoricaError('DATA_LOSS', 'DIGEST_MISMATCH', `${url}: the digest is ${found}, the hub says ${digest}`, { hint: 'Try again; a proxy or mirror may have sent other bytes.' });
      }
      await rename(temporary, blob);
    }
    await rm(link, { force: true });
    await symlink(relative(dirname(link), blob), link);
    return !there;
  });
}

/** sha256, or for 40 digits git's SHA-1 of a blob. */
async function digestOf(path: string, bytes: number, digits: number, signal: AbortSignal | undefined): Promise<string> {
  const hash = digits === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${bytes}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, ...(signal && { signal }) })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** What the cache has whole of the revision. */
async function fromCache(reference: HubReference, cache: string, why: string): Promise<HubPull> {
  const { repo, revision } = reference;
  const commit = /^[0-9a-f]{40}$/.test(revision) ? revision : (await readFile(join(cache, 'refs', revision), 'utf8').catch(() => '')).trim();
  const snapshot = join(cache, 'snapshots', commit);
  const names = commit === '' ? [] : await readdir(snapshot, { recursive: true }).catch(() => []);
  if (names.length === 0) throw unavailable(reference, `${why}, and the cache has no ${revision} of it`);
  let wanted = filesOfModel(reference, names);
  if (wanted.includes(SHARD_INDEX)) wanted = [...wanted, ...shardsOf(await readFile(join(snapshot, SHARD_INDEX), 'utf8'), names, `hf:${repo} ${SHARD_INDEX}`)];
  for (const name of wanted) {
    // A link whose blob is gone.
    if ((await stat(join(snapshot, name)).catch(() => undefined)) === undefined) throw unavailable(reference, `${why}, and ${name} is missing in the cache`);
  }
  return { path: modelPath(snapshot, wanted), commit, source: 'cache' };
}
