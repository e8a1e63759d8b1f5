/** From OrtStatus to LoricaError, and the small calling conventions that every caller of the table shares. */
import { LoricaError, type ErrorCode, type ErrorReason } from '../common/errors.js';
import type { FunctionName } from './api-table.js';
import type { Api } from './library.js';

/** OrtErrorCode of onnxruntime_c_api.h that say that the model, not the machine, is at fault. */
const MODEL_CODES = new Set([2, 4, 7, 9, 10]);

/** Null for success. Frees the status. */
export function statusError(api: Api, status: unknown, what: string): LoricaError | null {
  if (status === null) return null;
  const code = api.GetErrorCode(status) as number;
  const message = api.GetErrorMessage(status) as string;
  api.ReleaseStatus(status);
  let kind: readonly [ErrorCode, ErrorReason] = ['INTERNAL', 'RUNTIME_FAILED'];
  if (/bad_alloc|allocate memory|out of memory/i.test(message)) kind = ['RESOURCE_EXHAUSTED', 'RUNTIME_FAILED'];
  else if (MODEL_CODES.has(code)) kind = ['INVALID_ARGUMENT', 'GRAPH_INVALID'];
  return new LoricaError(kind[0], kind[1], `${what}: ${message}`, { metadata: { ortErrorCode: String(code) } });
}

/** Calls a function that returns a status; throws its error. */
export function call(api: Api, name: FunctionName, ...values: unknown[]): void {
  const error = statusError(api, api[name](...values), name);
  if (error !== null) throw error;
}

/** Calls a function whose last parameter is an output; returns the pointer that it was filled with. */
export function create(api: Api, name: FunctionName, ...values: unknown[]): bigint {
  const out: [bigint | null] = [null];
  call(api, name, ...values, out);
  return out[0] as bigint;
}

/** Like `create`, for a number. */
export function readNumber(api: Api, name: FunctionName, ...values: unknown[]): number {
  const out: [number] = [0];
  call(api, name, ...values, out);
  return out[0];
}

/** Like `create`, on a thread of koffi's, so that the event loop goes on. The caller keeps alive what the pointers point to. */
export function createAsync(api: Api, name: FunctionName, what: string, ...values: unknown[]): Promise<bigint> {
  const out: [bigint | null] = [null];
  return new Promise((resolve, reject) => {
    api[name].async(...values, out, (thrown: Error | null, status: unknown) => {
      const error = thrown ?? statusError(api, status, what);
      if (error !== null) reject(error);
      else resolve(out[0] as bigint);
    });
  });
}
