/** A failed call as an error that says what broke and what to do: code, reason, every violation, hint and request id. */
import { Metadata, status as Code, type ServiceError } from '@grpc/grpc-js';
import { BadRequest, ErrorInfo, RequestInfo, RetryInfo } from '../gen/google/rpc/error_details.js';
import { Status } from '../gen/google/rpc/status.js';

export interface CallViolation {
  readonly field: string;
  readonly description: string;
  /** A code of a closed list, where the rule has one, such as WRONG_TYPE of a dataset's row. */
  readonly reason?: string;
}

export interface CallFailure {
  /** Name of the status code, such as 'INVALID_ARGUMENT'. */
  readonly code: string;
  /** google.rpc.ErrorInfo.reason, such as 'DATASET_INVALID'; '' when the server gave none. */
  readonly reason: string;
  readonly message: string;
  readonly violations: readonly CallViolation[];
  readonly hint: string;
  /** google.rpc.ErrorInfo.metadata but for the hint, such as `leastBytes` of MEMORY_INSUFFICIENT. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly requestId: string;
  readonly retryAfterMs: number | undefined;
}

export class LoricaCallError extends Error implements CallFailure {
  readonly code: string;
  readonly reason: string;
  readonly violations: readonly CallViolation[];
  readonly hint: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly requestId: string;
  readonly retryAfterMs: number | undefined;

  constructor(failure: CallFailure, cause: unknown) {
    super(failure.message, { cause });
    this.name = 'LoricaCallError';
    this.code = failure.code;
    this.reason = failure.reason;
    this.violations = failure.violations;
    this.hint = failure.hint;
    this.metadata = failure.metadata;
    this.requestId = failure.requestId;
    this.retryAfterMs = failure.retryAfterMs;
  }
}

/** What grpc-js reports, with its status details decoded. Anything else is returned as it is. */
export function toCallError(error: unknown): unknown {
  if (!isServiceError(error)) return error;
  const packed = error.metadata.get('grpc-status-details-bin')[0];
  const details = packed instanceof Buffer ? Status.decode(packed).details : [];
  const find = <T>(type: string, codec: { decode(bytes: Uint8Array): T }): T | undefined => {
    const any = details.find(({ typeUrl }) => typeUrl.endsWith(`/google.rpc.${type}`));
    return any === undefined ? undefined : codec.decode(any.value);
  };
  const info = find('ErrorInfo', ErrorInfo);
  const { hint = '', ...metadata } = info?.metadata ?? {};
  const delay = find('RetryInfo', RetryInfo)?.retryDelay;
  const trailer = error.metadata.get('x-request-id')[0];
  return new LoricaCallError(
    {
      code: error.code in Code ? Code[error.code] : String(error.code),
      reason: info?.reason ?? '',
      message: error.details,
      violations: (find('BadRequest', BadRequest)?.fieldViolations ?? []).map(({ field, description, reason }) => ({
        field,
        description,
        ...(reason === '' ? {} : { reason }),
      })),
      hint,
      metadata,
      requestId: find('RequestInfo', RequestInfo)?.requestId ?? (typeof trailer === 'string' ? trailer : ''),
      retryAfterMs: delay === undefined ? undefined : delay.seconds * 1000 + delay.nanos / 1_000_000,
    },
    error,
  );
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && typeof (error as ServiceError).code === 'number' && (error as ServiceError).metadata instanceof Metadata;
}
