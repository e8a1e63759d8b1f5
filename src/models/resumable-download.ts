/**
 * One file by plain HTTP into a temporary file, which is what has arrived so far: a broken connection is asked for the rest by Range, and
 * so is what another process left behind. The size is checked here; digests are the caller's business.
 */
import { open, rm, stat } from 'node:fs/promises';
import type { ReadableStream } from 'node:stream/web';
import { setTimeout as sleep } from 'node:timers/promises';
import { SourceFailed } from './catalogue-source.js';

const ATTEMPTS = 4;
const FIRST_PAUSE_MS = 250;
/** Without an answer or a byte for this long a connection is given up. */
const STALL_MS = 30_000;

export interface Download {
  readonly url: string;
  /** Exact size of the file. */
  readonly bytes: number;
  /** The file to fill. */
  readonly temporary: string;
  /** Sent as a bearer token; never to another origin that the server redirects to. */
  readonly token?: string | undefined;
  /** Bytes of the file so far. */
  readonly onBytes?: (bytes: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/** A failure that another attempt may mend. */
class Interrupted extends Error {}

/** Fills `temporary`, going on after what is there. Throws SourceFailed; errors of writing and the signal's reason pass through. */
export async function resumableDownload(download: Download): Promise<void> {
  const { url, signal } = download;
  for (let attempt = 1; ; attempt++) {
    try {
      await request(download);
      return;
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof Interrupted)) throw error;
      if (attempt === ATTEMPTS) throw new SourceFailed(`${url}: ${error.message} (${ATTEMPTS} attempts)`);
      await sleep(FIRST_PAUSE_MS * 2 ** (attempt - 1), undefined, signal ? { signal } : {});
    }
  }
}

async function request({ url, bytes: size, temporary, token, onBytes, signal }: Download): Promise<void> {
  let have = await stat(temporary).then((info) => info.size, () => 0);
  if (have > size) {
    await rm(temporary);
    have = 0;
  }
  if (have === size && size > 0) return;
  const stalled = new AbortController();
  const stop = (): void => stalled.abort();
  let timer = setTimeout(stop, STALL_MS);
  signal?.addEventListener('abort', stop);
  try {
    const headers = { ...(have > 0 && { range: `bytes=${have}-` }), ...(token && { authorization: `Bearer ${token}` }) };
    const response = await fetch(url, { headers, signal: stalled.signal }).catch((cause: unknown) => {
      throw new Interrupted(reason(cause, stalled.signal));
    });
    const resumed = response.status === 206 && response.headers.get('content-range')?.startsWith(`bytes ${have}-`) === true;
    if (response.status >= 500 || response.status === 429) throw new Interrupted(`status ${response.status}`);
    if (response.status === 416) {
      await rm(temporary, { force: true });
      throw new Interrupted('the server refuses to resume');
    }
    if (!(response.status === 200 || resumed) || response.body === null) throw new SourceFailed(`${url}: status ${response.status}`);
    const file = await open(temporary, resumed ? 'a' : 'w');
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
        if (bytes > size) throw new SourceFailed(`${url}: more than ${size} bytes`);
        await file.writeFile(value);
        onBytes?.(bytes);
      }
      await file.sync();
      if (bytes < size) throw new Interrupted(`ended after ${bytes} of ${size} bytes`);
    } finally {
      await file.close();
    }
  } finally {
    clearTimeout(timer);
    stalled.abort();
    signal?.removeEventListener('abort', stop);
  }
}

function reason(cause: unknown, stalled: AbortSignal): string {
  if (stalled.aborted) return `no byte for ${STALL_MS / 1000} s`;
  const error = cause as Error & { readonly cause?: Error };
  return error.cause?.message ?? error.message;
}
