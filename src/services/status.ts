/**
 * LoricaError → gRPC status with rich details (AIP-193), and nothing else → INTERNAL without its text.
 * Invariant: trailers stay under 8 KiB together, the smallest limit among common gRPC clients, so a status always arrives; what
 * does not fit is counted, never dropped in silence.
 */
import { Metadata, status as Code } from '@grpc/grpc-js';
import { isStorageFull, LoricaError, type ErrorCode, type FieldViolation } from '../common/errors.js';
import type { Any } from '../gen/google/protobuf/any.js';
import { BadRequest, ErrorInfo, PreconditionFailure, QuotaFailure, RequestInfo, RetryInfo } from '../gen/google/rpc/error_details.js';
import { Status } from '../gen/google/rpc/status.js';

export const ERROR_DOMAIN = 'lorica.dev';
export const DETAILS_KEY = 'grpc-status-details-bin';
export const REQUEST_ID_KEY = 'x-request-id';

const MESSAGE_BYTES = 1024;
const VIOLATION_BYTES = 2560;
const VIOLATION_TEXT_BYTES = 512;

export const CODES: Readonly<Record<ErrorCode, Code>> = {
  INVALID_ARGUMENT: Code.INVALID_ARGUMENT,
  NOT_FOUND: Code.NOT_FOUND,
  ALREADY_EXISTS: Code.ALREADY_EXISTS,
  FAILED_PRECONDITION: Code.FAILED_PRECONDITION,
  PERMISSION_DENIED: Code.PERMISSION_DENIED,
  UNAUTHENTICATED: Code.UNAUTHENTICATED,
  RESOURCE_EXHAUSTED: Code.RESOURCE_EXHAUSTED,
  ABORTED: Code.ABORTED,
  CANCELLED: Code.CANCELLED,
  UNAVAILABLE: Code.UNAVAILABLE,
  DEADLINE_EXCEEDED: Code.DEADLINE_EXCEEDED,
  UNIMPLEMENTED: Code.UNIMPLEMENTED,
  DATA_LOSS: Code.DATA_LOSS,
  INTERNAL: Code.INTERNAL,
};

/** What grpc-js takes to end a call with. */
export interface CallStatus {
  readonly code: Code;
  readonly details: string;
  readonly metadata: Metadata;
}

/** Any error as one that may be shown: a full disk is recognized wherever it happened, a defect loses its text. */
export function presentable(error: unknown): LoricaError {
  if (error instanceof LoricaError) return error;
  if (isStorageFull(error)) {
    return new LoricaError('RESOURCE_EXHAUSTED', 'STORAGE_FULL', 'the disk is full; nothing was stored', {
      hint: 'Free space on the data volume, then try again.',
      cause: error,
    });
  }
  return new LoricaError('INTERNAL', 'INTERNAL', 'internal error', {
    hint: 'The server log has an entry with this request id.',
    cause: error,
  });
}

/** The status that ends a call: code, text cut to its budget, details and the request id as trailers. */
export function toStatus(error: LoricaError, requestId: string): CallStatus {
  const metadata = new Metadata();
  const details = cut(error.message, MESSAGE_BYTES);
  metadata.set(REQUEST_ID_KEY, requestId);
  metadata.set(
    DETAILS_KEY,
    Buffer.from(Status.encode({ code: CODES[error.code], message: details, details: errorDetails(error, requestId) }).finish()),
  );
  return { code: CODES[error.code], details, metadata };
}

function pack<T>(type: string, codec: { encode(message: T): { finish(): Uint8Array } }, message: T): Any {
  return { typeUrl: `type.googleapis.com/google.rpc.${type}`, value: Buffer.from(codec.encode(message).finish()) };
}

function errorDetails(error: LoricaError, requestId: string): Any[] {
  const metadata: Record<string, string> = { ...error.metadata };
  if (error.hint !== undefined) metadata['hint'] = cut(error.hint, VIOLATION_TEXT_BYTES);
  const details = [
    pack('ErrorInfo', ErrorInfo, { reason: error.reason, domain: ERROR_DOMAIN, metadata }),
    pack('RequestInfo', RequestInfo, { requestId, servingData: '' }),
  ];
  if (error.violations.length > 0) {
    const fieldViolations = fit(error.violations).map(({ field, description, reason = '' }) => ({
      field,
      description,
      reason,
      localizedMessage: undefined,
    }));
    details.push(pack('BadRequest', BadRequest, { fieldViolations }));
  }
  const subject = error.metadata['resource'] ?? '';
  const description = cut(error.message, VIOLATION_TEXT_BYTES);
  if (error.code === 'FAILED_PRECONDITION') {
    details.push(pack('PreconditionFailure', PreconditionFailure, { violations: [{ type: error.reason, subject, description }] }));
  }
  if (error.reason === 'QUOTA_EXCEEDED') {
    details.push(pack('QuotaFailure', QuotaFailure, QuotaFailure.fromPartial({ violations: [{ subject, description }] })));
  }
  if (error.retryAfterMs !== undefined) {
    const ms = Math.max(0, Math.round(error.retryAfterMs));
    details.push(pack('RetryInfo', RetryInfo, { retryDelay: { seconds: Math.floor(ms / 1000), nanos: (ms % 1000) * 1_000_000 } }));
  }
  return details;
}

/** The first violations that fit the budget, and one that counts the rest. */
function fit(violations: readonly FieldViolation[]): FieldViolation[] {
  const kept: FieldViolation[] = [];
  let bytes = 0;
  for (const violation of violations) {
    const short = { ...violation, field: cut(violation.field, 128), description: cut(violation.description, VIOLATION_TEXT_BYTES) };
    bytes += Buffer.byteLength(short.field) + Buffer.byteLength(short.description) + Buffer.byteLength(short.reason ?? '') + 8;
    if (bytes > VIOLATION_BYTES) {
      kept.push({ field: '', description: `and ${violations.length - kept.length} more` });
      break;
    }
    kept.push(short);
  }
  return kept;
}

/** At most `bytes` once percent-encoded as in grpc-message, cut between characters; unpaired surrogates are replaced. */
function cut(text: string, bytes: number): string {
  const whole = text.replace(/\p{Surrogate}/gu, '\ufffd');
  if (encodeURI(whole).length <= bytes) return whole;
  let out = '';
  let used = 3 * 3;
  for (const character of whole) {
    used += encodeURI(character).length;
    if (used > bytes) break;
    out += character;
  }
  return `${out}…`;
}
