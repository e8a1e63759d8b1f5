/**
 * Digests of files. A large file is hashed on a thread of its own, so that neither the event loop nor what else an opening does waits for it; a
 * small one here, since starting a thread takes longer than its hash.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';

/** From here on a thread pays: its start takes as long as the hash of about this much. */
const THREAD_FROM_BYTES = 16 << 20;
const PIECE_BYTES = 1 << 20;

/** What the thread runs. Text, because a thread can't load TypeScript where tests run the sources; it answers with the hex digest. */
const THREAD = `
  const { parentPort, workerData } = require('node:worker_threads');
  const { createHash } = require('node:crypto');
  const { openSync, readSync } = require('node:fs');
  const hash = createHash('sha256');
  const file = openSync(workerData.path, 'r');
  const piece = Buffer.allocUnsafeSlow(workerData.pieceBytes);
  for (let read = readSync(file, piece); read > 0; read = readSync(file, piece)) hash.update(piece.subarray(0, read));
  parentPort.postMessage(hash.digest('hex'));
`;

/** Hex sha256 of a file, read by pieces. An abort ends it with the signal's reason. */
export async function sha256File(path: string, signal?: AbortSignal): Promise<string> {
  const { size } = await stat(path);
  signal?.throwIfAborted();
  return size >= THREAD_FROM_BYTES ? onThread(path, signal) : here(path, signal);
}

/** Hex sha256 of every file, in order; as many at a time as there are processors. */
export async function sha256Files(paths: readonly string[], signal?: AbortSignal): Promise<readonly string[]> {
  const digests = new Array<string>(paths.length);
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let at = next++; at < paths.length; at = next++) digests[at] = await sha256File(paths[at]!, signal);
  };
  await Promise.all(Array.from({ length: Math.min(paths.length, availableParallelism()) }, lane));
  return digests;
}

async function here(path: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: PIECE_BYTES, ...(signal && { signal }) })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

function onThread(path: string, signal: AbortSignal | undefined): Promise<string> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(THREAD, { eval: true, execArgv: [], workerData: { path, pieceBytes: PIECE_BYTES } });
    const abort = (): void => {
      reject(signal?.reason as Error);
      void worker.terminate();
    };
    signal?.addEventListener('abort', abort, { once: true });
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', () => {
      signal?.removeEventListener('abort', abort);
      reject(new Error(`the thread that hashes ${path} ended without a digest`));
    });
  });
}
