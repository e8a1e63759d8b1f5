/**
 * Blobs in a folder: `ab/cdef…` by digest, `incoming/` for bytes on their way in.
 * Invariant: a file under a digest is complete and durable: written aside, fsynced, renamed, and its folder fsynced.
 * An `incoming` file of a process that died is removed at the next open.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, type FileHandle, mkdir, open, readdir, rename, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import type { BlobInfo, BlobStore, StagedBlob } from './blob-store.js';
import { fromDriver } from './database-errors.js';
import { cannotBeUsed, makeFolder } from './make-folder.js';
import { isAlive } from './process-alive.js';

const READ_BYTES = 1 << 20;
const ABANDONED_MS = 24 * 3_600_000;
const DIGEST = /^[0-9a-f]{64}$/;
/** Begins the names of this process's incoming files; a process that had its pid before (pid 1 of a container) chose another. */
const THIS_PROCESS = `${process.pid}-${randomUUID()}`;

type Bytes = AsyncIterable<Uint8Array> | Iterable<Uint8Array> | Uint8Array;

/** Opens or creates the folder. */
export async function openFolderBlobStore(folder: string): Promise<BlobStore> {
  const incoming = join(folder, 'incoming');
  try {
    await makeFolder(incoming);
    await removeAbandoned(incoming);
  } catch (error) {
    throw error instanceof LoricaError ? error : cannotBeUsed(folder, error);
  }
  return new FolderBlobStore(folder, incoming);
}

class FolderBlobStore implements BlobStore {
  constructor(
    private readonly folder: string,
    private readonly incoming: string,
  ) {}

  async stage(bytes: Bytes): Promise<StagedBlob> {
    const temporary = join(this.incoming, `${THIS_PROCESS}-${randomUUID()}`);
    try {
      const info = await writeDurably(temporary, bytes);
      return {
        ...info,
        commit: () => this.commit(temporary, info.sha256),
        discard: () => unlink(temporary).catch(() => undefined),
      };
    } catch (error) {
      await unlink(temporary).catch(() => undefined);
      throw fromDriver(error);
    }
  }

  async put(bytes: Bytes): Promise<BlobInfo> {
    const staged = await this.stage(bytes);
    await staged.commit();
    return { sha256: staged.sha256, bytes: staged.bytes };
  }

  async read(sha256: string): Promise<Uint8Array> {
    const { size } = await stat(this.path(sha256)).catch((error: unknown) => {
      throw unreadable(sha256, error);
    });
    const all = new Uint8Array(size);
    let at = 0;
    for await (const piece of this.stream(sha256)) {
      if (at + piece.length > size) throw unreadable(sha256);
      all.set(piece, at);
      at += piece.length;
    }
    return all;
  }

  async *stream(sha256: string): AsyncGenerator<Uint8Array> {
    const hash = createHash('sha256');
    try {
      for await (const piece of createReadStream(this.path(sha256), { highWaterMark: READ_BYTES }) as AsyncIterable<Uint8Array>) {
        hash.update(piece);
        yield piece;
      }
    } catch (error) {
      throw unreadable(sha256, error);
    }
    if (hash.digest('hex') !== sha256) throw unreadable(sha256);
  }

  path(sha256: string): string {
    if (!DIGEST.test(sha256)) throw new TypeError(`not a sha256: ${sha256}`);
    return join(this.folder, sha256.slice(0, 2), sha256.slice(2));
  }

  async has(sha256: string): Promise<boolean> {
    return access(this.path(sha256)).then(
      () => true,
      () => false,
    );
  }

  async delete(sha256: string): Promise<void> {
    try {
      await unlink(this.path(sha256));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw fromDriver(error);
    }
  }

  private async commit(temporary: string, sha256: string): Promise<void> {
    const target = this.path(sha256);
    try {
      await mkdir(dirname(target), { recursive: true });
      await rename(temporary, target);
      await syncFolder(dirname(target));
      await syncFolder(this.folder);
    } catch (error) {
      await unlink(temporary).catch(() => undefined);
      throw fromDriver(error);
    }
  }
}

/** Writes and fsyncs a new file; the caller removes it when this throws. */
async function writeDurably(path: string, bytes: Bytes): Promise<BlobInfo> {
  const hash = createHash('sha256');
  let count = 0;
  const file = await open(path, 'wx');
  try {
    for await (const whole of bytes instanceof Uint8Array ? [bytes] : bytes) {
      // In small pieces, so that hashing a large one does not hold up the event loop.
      for (const piece of pieces(whole)) {
        hash.update(piece);
        count += piece.length;
        await writeAll(file, piece);
      }
    }
    await file.sync();
  } finally {
    await file.close();
  }
  return { sha256: hash.digest('hex'), bytes: count };
}

function* pieces(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += READ_BYTES) yield bytes.subarray(at, at + READ_BYTES);
}

/** write(2) may take fewer bytes than it was given. */
async function writeAll(file: FileHandle, piece: Uint8Array): Promise<void> {
  for (let at = 0; at < piece.length;) {
    const { bytesWritten } = await file.write(piece, at, piece.length - at);
    at += bytesWritten;
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function removeAbandoned(incoming: string): Promise<void> {
  for (const name of await readdir(incoming)) {
    const path = join(incoming, name);
    const pid = Number.parseInt(name, 10);
    const old = Date.now() - (await stat(path)).mtimeMs > ABANDONED_MS;
    const dead = pid === process.pid ? !name.startsWith(THIS_PROCESS) : !isAlive(pid);
    if (old || dead) await unlink(path).catch(() => undefined);
  }
}

function unreadable(sha256: string, cause?: unknown): LoricaError {
  const absent = (cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT';
  const message = absent ? `stored bytes sha256:${sha256} are missing` : `stored bytes sha256:${sha256} are damaged`;
  return new LoricaError('DATA_LOSS', 'DIGEST_MISMATCH', message, {
    cause,
    hint: 'Restore the blob folder from a backup, or upload the content again.',
  });
}
