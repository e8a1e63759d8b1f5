/**
 * The one error class of the project and its closed lists of codes and reasons. Every failure that a user can meet is a
 * LoricaError; anything else that is thrown is a defect and reaches clients as INTERNAL without its text.
 * The services layer maps it to a gRPC status; nothing here knows about gRPC.
 */

/** Canonical codes, named as in google.rpc.Code. */
export type ErrorCode =
  | 'INVALID_ARGUMENT'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'FAILED_PRECONDITION'
  | 'PERMISSION_DENIED'
  | 'UNAUTHENTICATED'
  | 'RESOURCE_EXHAUSTED'
  | 'ABORTED'
  | 'CANCELLED'
  | 'UNAVAILABLE'
  | 'DEADLINE_EXCEEDED'
  | 'UNIMPLEMENTED'
  | 'DATA_LOSS'
  | 'INTERNAL';

/** Machine-readable reasons (google.rpc.ErrorInfo.reason, domain "lorica.dev"). The list is closed; extend it here only. */
export type ErrorReason =
  | 'INVALID_FIELD'
  | 'ALREADY_EXISTS'
  | 'DATASET_INVALID'
  | 'DATASET_NOT_FOUND'
  | 'MODEL_NOT_FOUND'
  | 'MODEL_UNSUPPORTED'
  | 'CHECKPOINT_CORRUPT'
  | 'CHECKPOINT_MISSING'
  | 'TOKENIZER_INVALID'
  | 'ADAPTER_NOT_FOUND'
  | 'ADAPTER_INCOMPATIBLE'
  | 'ADAPTER_IN_USE'
  | 'TARGET_NOT_FOUND'
  | 'TENANT_NOT_FOUND'
  | 'API_KEY_NOT_FOUND'
  | 'JOB_NOT_FOUND'
  | 'JOB_STATE'
  | 'JOB_LOST'
  | 'JOB_PAUSED'
  | 'EMBEDDINGS_INVALID'
  | 'EMBEDDINGS_NOT_FOUND'
  | 'EVALUATION_NOT_FOUND'
  | 'REQUEST_ID_REUSED'
  | 'ETAG_MISMATCH'
  | 'GATE_FAILED'
  | 'UNAUTHENTICATED'
  | 'PERMISSION_DENIED'
  | 'QUOTA_EXCEEDED'
  | 'CONTEXT_LENGTH_EXCEEDED'
  | 'OVERLOADED'
  | 'SHUTTING_DOWN'
  | 'STORAGE_FULL'
  | 'STORAGE_FAILED'
  | 'STORAGE_LOCKED'
  | 'RUNTIME_UNAVAILABLE'
  | 'RUNTIME_FAILED'
  | 'DEVICE_UNAVAILABLE'
  | 'TRAINING_DIVERGED'
  | 'MEMORY_INSUFFICIENT'
  | 'CANCELLED'
  | 'UPSTREAM_UNAVAILABLE'
  | 'DIGEST_MISMATCH'
  | 'GRAPH_INVALID'
  | 'INTERNAL';

/** One broken rule of one field; `field` is a path such as "specification.stages[0].lora.rank" or "line 12: $.prompt". */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
  /** A code of a closed list, where the rule has one (datasets' findings). */
  readonly reason?: string;
}

export interface ErrorDetails {
  readonly violations?: readonly FieldViolation[];
  /** What the user can do next, one sentence. */
  readonly hint?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly retryAfterMs?: number;
  readonly cause?: unknown;
}

export class LoricaError extends Error {
  readonly code: ErrorCode;
  readonly reason: ErrorReason;
  readonly violations: readonly FieldViolation[];
  readonly hint: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, reason: ErrorReason, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'LoricaError';
    this.code = code;
    this.reason = reason;
    this.violations = details.violations ?? [];
    this.hint = details.hint;
    this.metadata = details.metadata ?? {};
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** An INVALID_ARGUMENT with one or more field violations. The message lists them all. */
export function invalidFields(violations: readonly FieldViolation[], hint?: string): LoricaError {
  const text = violations.map((v) => `${v.field}: ${v.description}`).join('; ');
  return new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', text, hint === undefined ? { violations } : { violations, hint });
}

/** True for errors that say the disk is full (ENOSPC, EDQUOT), however deep in the cause chain. */
export function isStorageFull(error: unknown): boolean {
  for (let e = error; typeof e === 'object' && e !== null; e = (e as { cause?: unknown }).cause) {
    const code = (e as NodeJS.ErrnoException).code;
    if (code === 'ENOSPC' || code === 'EDQUOT') return true;
  }
  return false;
}
