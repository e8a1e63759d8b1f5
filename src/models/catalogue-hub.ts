/**
 * One file from the Hugging Face hub by plain HTTP: `{endpoint}/{repo}/resolve/{revision}/{file}`, which may redirect to a store.
 * The temporary file is what has arrived so far; a request asks for the rest by Range. Digests are the caller's business.
 */
import { open, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { ReadableStream } from 'node:stream/web';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CatalogueEntry } from './catalogue-entries.js';
import { SourceFailed, type FetchContext } from './catalogue-source.js';

const ATTEMPTS = 4;
const FIRST_PAUSE_MS = 250;
/** Without an answer or a byte for this long a connection is given up. */
const STALL_MS = 30_000;

/** Where huggingface_hub keeps the file when it has downloaded it. */
export function hubCachePath(entry: CatalogueEntry, environment: NodeJS.ProcessEnv): string {
  const home = environment['HF_HOME'] || join(environment['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'huggingface');
  const cache = environment['HF_HUB_CACHE'] || environment['HUGGINGFACE_HUB_CACHE'] || join(home, 'hub');
  return join(cache, `models--${entry.hub.repo.replace('/', '--')}`, 'snapshots', entry.hub.revision, entry.hub.file);
}

/** A failure that another attempt may mend. */
class Interrupted extends Error {}

/** Fills `context.temporary`, going on after what is there. Throws SourceFailed; errors of writing pass through. */
export async function downloadFromHub(entry: CatalogueEntry, context: FetchContext): Promise<void> {
  const { environment } = context;
  if (/^(1|true|yes|on)$/i.test(environment['HF_HUB_OFFLINE'] ?? '')) throw new SourceFailed('HF_HUB_OFFLINE is set');
  const endpoint = (environment['HF_ENDPOINT'] || 'https://huggingface.co').replace(/\/+$/, '');
  const url = `${endpoint}/${entry.hub.repo}/resolve/${entry.hub.revision}/${entry.hub.file}`;
  if (!URL.canParse(url)) throw new SourceFailed(`HF_ENDPOINT ${JSON.stringify(endpoint)} is no URL`);
  for (let attempt = 1; ; attempt++) {
    try {
      await request(url, entry, context);
      return;
    } catch (error) {
      context.signal?.throwIfAborted();
      if (!(error instanceof Interrupted)) throw error;
      if (attempt === ATTEMPTS) throw new SourceFailed(`${url}: ${error.message} (${ATTEMPTS} attempts)`);
      await sleep(FIRST_PAUSE_MS * 2 ** (attempt - 1), undefined, context.signal ? { signal: context.signal } : {});
    }
  }
}

async function request(url: string, entry: CatalogueEntry, context: FetchContext): Promise<void> {
  let have = await stat(context.temporary).then((info) => info.size, () => 0);
  if (have > entry.bytes) {
    await rm(context.temporary);
    have = 0;
  }
  if (have === entry.bytes) return;
  const stalled = new AbortController();
  const stop = (): void => stalled.abort();
  let timer = setTimeout(stop, STALL_MS);
  context.signal?.addEventListener('abort', stop);
  try {
    const token = context.environment['HF_TOKEN'];
    const headers = { ...(have > 0 && { range: `bytes=${have}-` }), ...(token && { authorization: `Bearer ${token}` }) };
    const response = await fetch(url, { headers, signal: stalled.signal }).catch((cause: unknown) => {
      throw new Interrupted(reason(cause, stalled.signal));
    });
    const resumed = response.status === 206 && response.headers.get('content-range')?.startsWith(`bytes ${have}-`) === true;
    if (response.status >= 500 || response.status === 429) throw new Interrupted(`status ${response.status}`);
    if (response.status === 416) {
      await rm(context.temporary, { force: true });
      throw new Interrupted('the server refuses to resume');
    }
    if (!(response.status === 200 || resumed) || response.body === null) throw new SourceFailed(`${url}: status ${response.status}`);
    const file = await open(context.temporary, resumed ? 'a' : 'w');
    try {
      let bytes = resumed ? have : 0;
      const reader = (response.body as ReadableStream<Uint8Array>).getReader();
      for (;;) {
        const { done, value } = await reader.read().catch((cause: unknown) => {
          throw new Interrupted(reason(cause, stalled.signal));
        });
        if (done) break;
        clearTimeout(timer);
        timer = setTimeout(stop, STALL_MS);
        bytes += value.length;
        if (bytes > entry.bytes) throw new SourceFailed(`${url}: more than ${entry.bytes} bytes`);
        await file.writeFile(value);
        context.onProgress?.({ source: 'hub', phase: 'download', bytes, totalBytes: entry.bytes });
      }
      await file.sync();
      if (bytes < entry.bytes) throw new Interrupted(`ended after ${bytes} of ${entry.bytes} bytes`);
    } finally {
      await file.close();
    }
  } finally {
    clearTimeout(timer);
    stalled.abort();
    context.signal?.removeEventListener('abort', stop);
  }
}

function reason(cause: unknown, stalled: AbortSignal): string {
  if (stalled.aborted) return `no byte for ${STALL_MS / 1000} s`;
  const error = cause as Error & { readonly cause?: Error };
  return error.cause?.message ?? error.message;
}
