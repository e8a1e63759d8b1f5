/**
 * Driver errors as LoricaErrors: a full disk and an unreachable server are things that a user can meet; all else passes unchanged
 * (a constraint that a layer handles, or a defect). SQLSTATE: PostgreSQL documentation, appendix A.
 */
import { invalidFields, isStorageFull, LoricaError } from '../common/errors.js';

const UNREACHABLE = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOTFOUND', 'ETIMEDOUT', 'EPIPE', 'EAI_AGAIN', 'EHOSTUNREACH']);

export function storageFull(cause: unknown): LoricaError {
  return new LoricaError('RESOURCE_EXHAUSTED', 'STORAGE_FULL', 'the data folder has no space left', {
    cause,
    hint: 'Free space on the volume of the data folder or delete datasets and adapter versions, then try again. Nothing was stored.',
  });
}

/** SQLSTATE of a driver error, '' if it has none. */
export function sqlState(error: unknown): string {
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined;
  return typeof code === 'string' ? code : '';
}

export function isUniqueViolation(error: unknown): boolean {
  return sqlState(error) === '23505';
}

export function fromDriver(error: unknown): unknown {
  if (error instanceof LoricaError) return error;
  const code = sqlState(error);
  if (code === '53100' || isStorageFull(error) || isTooLarge(error)) return storageFull(error);
  const lost =
    code.startsWith('08') ||
    code.startsWith('57P') ||
    UNREACHABLE.has(code) ||
    (error instanceof Error && /connection (terminated|ended)|timeout exceeded when trying to connect/i.test(error.message));
  if (lost) {
    return new LoricaError('UNAVAILABLE', 'UPSTREAM_UNAVAILABLE', 'the database cannot be reached', { cause: error, retryAfterMs: 1000 });
  }
  if (code === '22021')
    return invalidFields([{ field: 'request', description: 'holds text with a NUL character, which cannot be stored or looked up' }]);
  if (code === '40001' || code === '40P01') {
    return new LoricaError('ABORTED', 'UPSTREAM_UNAVAILABLE', 'the database gave up on a conflicting change; try again', {
      cause: error,
      retryAfterMs: 50,
    });
  }
  return error;
}

/** EFBIG: the disk would do, but a limit on the size of files (ulimit, a file system's) does not let the file grow. */
function isTooLarge(error: unknown): boolean {
  return error instanceof Error && ((error as NodeJS.ErrnoException).code === 'EFBIG' || error.message.includes('File too large'));
}
