/** Reading checkpoint files by range, with errors that say what is wrong with the file. */
import { open, type FileHandle } from 'node:fs/promises';
import { LoricaError } from '../common/errors.js';

/** Bytes `[offset, offset+length)` of an open file; throws CHECKPOINT_CORRUPT when the file ends before. */
export async function readRange(file: FileHandle, offset: number, length: number, label: string): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
    if (bytesRead === 0) {
      throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${label} ends at byte ${offset + done}, ${length - done} bytes early`);
    }
    done += bytesRead;
  }
  return bytes;
}

/** Opens a checkpoint file for reading; a missing one is CHECKPOINT_MISSING. The caller closes it. */
export async function openForReading(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${path} does not exist`, { cause });
    }
    throw new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', `${path} can't be read: ${code ?? String(cause)}`, { cause });
  }
}
