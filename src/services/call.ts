/**
 * Turns handlers, plain async functions over messages, into grpc-js methods: identity, request id, abort signal, back pressure,
 * status mapping, metrics and logs happen here and only here.
 * Invariants: every call ends with exactly one status, with the request id in its trailers; a handler's signal aborts when the
 * caller goes away, cancels or runs out of time; a message that can't be decoded is INVALID_ARGUMENT. Requests' contents are
 * never logged.
 */
import { randomUUID } from 'node:crypto';
import type { EventEmitter } from 'node:events';
import {
  Metadata,
  status as Code,
  type Server,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type UntypedServiceImplementation,
  type sendUnaryData,
} from '@grpc/grpc-js';
import type { Clock } from '../common/clock.js';
import { LoricaError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import type { Metrics } from '../metrics/metrics.js';
import type { Identity, Role } from '../tenants/index.js';
import { presentable, REQUEST_ID_KEY, toStatus, type CallStatus } from './status.js';

/** Milliseconds by which a caller's deadline may pass before the same deadline does as counted from the call's arrival. */
const ARRIVAL_MARGIN_MS = 100;

/** What a handler knows about its call. */
export interface CallContext {
  readonly identity: Identity;
  readonly requestId: string;
  /** Aborts when the caller is gone; its reason is a LoricaError (CANCELLED or DEADLINE_EXCEEDED). */
  readonly signal: AbortSignal;
  readonly logger: Logger;
  /** `Service/Method`. */
  readonly method: string;
}

export type Unary<Q, R> = (request: Q, context: CallContext) => Promise<R>;
export type ServerStreaming<Q, R> = (request: Q, context: CallContext) => AsyncIterable<R>;
export type ClientStreaming<Q, R> = (requests: AsyncIterable<Q>, context: CallContext) => Promise<R>;

/** One method as ts-proto describes it. */
interface Method {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestDeserialize: (bytes: Buffer) => unknown;
  readonly responseDeserialize: (bytes: Buffer) => unknown;
}
type RequestOf<M extends Method> = ReturnType<M['requestDeserialize']>;
type ResponseOf<M extends Method> = ReturnType<M['responseDeserialize']>;

/** A handler for every method of a service definition: a missing or superfluous one does not compile. */
export type Handlers<D> = {
  readonly [K in keyof D]: D[K] extends Method
    ? D[K] extends { requestStream: true }
      ? ClientStreaming<RequestOf<D[K]>, ResponseOf<D[K]>>
      : D[K] extends { responseStream: true }
        ? ServerStreaming<RequestOf<D[K]>, ResponseOf<D[K]>>
        : Unary<RequestOf<D[K]>, ResponseOf<D[K]>>
    : never;
};

/** What all calls share. */
export interface CallEnvironment {
  readonly authenticate: (metadata: Metadata) => Promise<Identity>;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Aborted when the server stops taking new calls. */
  readonly draining: AbortSignal;
  /** The role that every method of the service needs. */
  readonly role?: Role;
}

/** A request whose bytes are not the message that they should be. */
class Undecodable {
  constructor(readonly cause: unknown) {}
}

type AnyCall = ServerUnaryCall<unknown, unknown> | ServerReadableStream<unknown, unknown> | ServerWritableStream<unknown, unknown>;

/** Adds a service with its handlers to the server. */
export function addService<D extends ServiceDefinition>(
  server: Server,
  definition: D,
  handlers: Handlers<D>,
  environment: CallEnvironment,
): void {
  const decoded: Record<string, unknown> = {};
  const methods: UntypedServiceImplementation = {};
  for (const [key, method] of Object.entries(definition)) {
    decoded[key] = {
      ...method,
      requestDeserialize: (bytes: Buffer): unknown => {
        try {
          return method.requestDeserialize(bytes);
        } catch (cause) {
          return new Undecodable(cause);
        }
      },
    };
    const handler = handlers[key as keyof D] as unknown;
    if (method.requestStream) methods[key] = clientStreaming(handler as ClientStreaming<unknown, unknown>, method.path, environment);
    else if (method.responseStream) methods[key] = serverStreaming(handler as ServerStreaming<unknown, unknown>, method.path, environment);
    else methods[key] = unary(handler as Unary<unknown, unknown>, method.path, environment);
  }
  server.addService(decoded as ServiceDefinition, methods);
}

function unary(handler: Unary<unknown, unknown>, path: string, environment: CallEnvironment) {
  return (call: ServerUnaryCall<unknown, unknown>, respond: sendUnaryData<unknown>): void => {
    void conduct(call, path, environment, (context) => handler(decodedOf(call.request), context)).then(({ value, status }) => {
      if (status.code === Code.OK) respond(null, value, status.metadata);
      else respond(status);
    });
  };
}

function clientStreaming(handler: ClientStreaming<unknown, unknown>, path: string, environment: CallEnvironment) {
  return (call: ServerReadableStream<unknown, unknown>, respond: sendUnaryData<unknown>): void => {
    void conduct(call, path, environment, (context) => handler(received(call, context.signal), context)).then(({ value, status }) => {
      // What the client still sends is read and dropped, so that flow control never holds the status back.
      call.resume();
      if (status.code === Code.OK) respond(null, value, status.metadata);
      else respond(status);
    });
  };
}

function serverStreaming(handler: ServerStreaming<unknown, unknown>, path: string, environment: CallEnvironment) {
  return (call: ServerWritableStream<unknown, unknown>): void => {
    const run = async (context: CallContext): Promise<void> => {
      for await (const message of handler(decodedOf(call.request), context)) {
        context.signal.throwIfAborted();
        if (!call.write(message)) await drained(call, context.signal);
      }
    };
    void conduct(call, path, environment, run).then(({ status }) => {
      if (status.code === Code.OK) call.end(status.metadata);
      else call.emit('error', status);
    });
  };
}

function decodedOf(request: unknown): unknown {
  if (!(request instanceof Undecodable)) return request;
  const text = request.cause instanceof Error ? request.cause.message : 'malformed';
  throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `the request is not a valid message: ${text}`, { cause: request.cause });
}

/** The messages of a client stream. Leaving early keeps the call open, so that a status can still be sent. */
async function* received(call: ServerReadableStream<unknown, unknown>, signal: AbortSignal): AsyncGenerator {
  try {
    for await (const message of call.iterator({ destroyOnReturn: false })) yield decodedOf(message);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
  signal.throwIfAborted();
}

/** Waits until the stream takes more; rejects with the signal's reason when the caller is gone. */
function drained(call: ServerWritableStream<unknown, unknown>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      call.off('drain', settle);
      signal.removeEventListener('abort', settle);
      if (signal.aborted) reject(signal.reason as Error);
      else resolve();
    };
    call.on('drain', settle);
    signal.addEventListener('abort', settle);
    if (signal.aborted) settle();
  });
}

/** Runs one call from identity to status; never rejects. */
async function conduct<T>(
  call: AnyCall | ServerDuplexStream<unknown, unknown>,
  path: string,
  environment: CallEnvironment,
  run: (context: CallContext) => Promise<T>,
): Promise<{ value?: T; status: CallStatus }> {
  const began = environment.clock.monotonicMs();
  const [service = '', method = ''] = path.replace(/^\/lorica\.v1\./, '').split('/');
  const requestId = requestIdOf(call.metadata);
  const logger = environment.logger.with({ requestId, method: `${service}/${method}` });
  const abort = new AbortController();
  (call as EventEmitter).on('cancelled', () => abort.abort(goneReason(call)));

  let tenant = '';
  let result: { value?: T; status: CallStatus };
  try {
    if (environment.draining.aborted) throw shuttingDown();
    const identity = await environment.authenticate(call.metadata);
    tenant = identity.tenant;
    if (environment.role !== undefined && !identity.roles.includes(environment.role)) {
      throw new LoricaError('PERMISSION_DENIED', 'PERMISSION_DENIED', `this method needs a key with the role ${environment.role}`);
    }
    const context: CallContext = { identity, requestId, signal: abort.signal, logger, method: `${service}/${method}` };
    const value = await run(context);
    const trailers = new Metadata();
    trailers.set(REQUEST_ID_KEY, requestId);
    result = { value, status: { code: Code.OK, details: 'OK', metadata: trailers } };
  } catch (error) {
    const shown = presentable(abort.signal.aborted ? abort.signal.reason : error);
    if (shown.code === 'INTERNAL') logger.error('call failed', { error, cause: shown.cause ?? null });
    result = { status: toStatus(shown, requestId) };
  }
  const seconds = (environment.clock.monotonicMs() - began) / 1000;
  const code = Code[result.status.code];
  environment.metrics.requestsTotal.inc({ service, method, tenant, code });
  environment.metrics.requestSeconds.observe({ service, method }, seconds);
  logger.debug('call ended', { tenant, code, seconds });
  return result;
}

/**
 * Why a caller is gone. One whose time runs out cancels as well, by its own clock: the deadline as seen here lies later by what the call
 * took to arrive, so that an end this close to it is the deadline's.
 */
function goneReason(call: { getDeadline(): Date | number }): LoricaError {
  const deadline = Number(call.getDeadline());
  if (Number.isFinite(deadline) && Date.now() >= deadline - ARRIVAL_MARGIN_MS)
    return new LoricaError('DEADLINE_EXCEEDED', 'CANCELLED', 'the deadline of the call has passed');
  return new LoricaError('CANCELLED', 'CANCELLED', 'the caller cancelled or went away');
}

/** The answer to calls while the server stops; clients may try another replica at once. */
export function shuttingDown(): LoricaError {
  return new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the server is stopping', {
    hint: 'Try again; jobs go on when the server is back.',
    retryAfterMs: 1000,
  });
}

/** The caller's `x-request-id` where it is short and plain, else a new one. */
function requestIdOf(metadata: Metadata): string {
  const given = metadata.get(REQUEST_ID_KEY)[0];
  return typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : randomUUID();
}
