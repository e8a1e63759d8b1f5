/**
 * Makes a folder that this process may write to, or says in one line why it can't. Level by level: Node's recursive mkdir never
 * returns where a parent exists and takes no folders (/proc).
 */
import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isStorageFull, LoricaError } from '../common/errors.js';
import { storageFull } from './database-errors.js';

/** `path` is absolute; what is there already is kept. FAILED_PRECONDITION / STORAGE_FAILED, or STORAGE_FULL. */
export async function makeFolder(path: string): Promise<void> {
  try {
    await make(path);
  } catch (error) {
    throw isStorageFull(error) ? storageFull(error) : cannotBeUsed(path, error);
  }
}

/** The error for a folder that can't be made, read or written to. */
export function cannotBeUsed(path: string, cause: unknown): LoricaError {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  const why = code === undefined ? '' : ` (${code === 'EEXIST' ? 'it is a file' : code})`;
  return new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', `the data folder ${path} cannot be made or written to${why}`, {
    cause,
    hint: 'Give a folder that this user may write to (LORICA_DATA_DIR).',
  });
}

async function make(path: string): Promise<void> {
  const first = await attempt(path);
  if (first === 'done') return;
  if (dirname(path) === path) throw first;
  await make(dirname(path));
  const second = await attempt(path);
  if (second !== 'done') throw second;
}

/** 'done', or the error that says a parent is missing. */
async function attempt(path: string): Promise<'done' | Error> {
  try {
    await mkdir(path);
    return 'done';
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return error as Error;
    // A root that may not be written to (EROFS, EACCES) may still hold the folder.
    const there = await stat(path).catch(() => undefined);
    if (there?.isDirectory() === true) return 'done';
    throw error;
  }
}
