/**
 * A service definition → an object with one function a method: unary methods give promises, server streams async iterables,
 * requests may be partial. Leaving an iteration or aborting its signal cancels the call.
 */
import { Metadata, type CallOptions, type Client, type ServiceDefinition } from '@grpc/grpc-js';
import { toCallError } from './call-error.js';

type Builtin = Date | Uint8Array | string | number | boolean | undefined;

/** A message with any of its fields, at every depth; what is left out has its default. */
export type DeepPartial<T> = T extends Builtin
  ? T
  : T extends readonly (infer U)[]
    ? readonly DeepPartial<U>[]
    : T extends { $case: string; value: unknown }
      ? { readonly $case: T['$case']; readonly value: DeepPartial<T['value']> }
      : { readonly [K in keyof T]?: DeepPartial<T[K]> | undefined };

export interface CallSettings {
  readonly signal?: AbortSignal;
  /** The server gives the call up after this time. */
  readonly deadlineMs?: number;
  /** Sent as `x-request-id`; the server's logs and trailers carry it. */
  readonly requestId?: string;
}

interface Method {
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestDeserialize: (bytes: Buffer) => unknown;
  readonly responseDeserialize: (bytes: Buffer) => unknown;
}
type RequestOf<M extends Method> = ReturnType<M['requestDeserialize']>;
type ResponseOf<M extends Method> = ReturnType<M['responseDeserialize']>;

/** The methods of a service; client streams are left to functions of their own. */
export type Stub<D> = {
  readonly [K in keyof D as D[K] extends { requestStream: true } ? never : K]: D[K] extends Method
    ? D[K] extends { responseStream: true }
      ? (request: DeepPartial<RequestOf<D[K]>>, settings?: CallSettings) => AsyncIterable<ResponseOf<D[K]>>
      : (request: DeepPartial<RequestOf<D[K]>>, settings?: CallSettings) => Promise<ResponseOf<D[K]>>
    : never;
};

/** Where calls go and what they carry. */
export interface Channel {
  readonly client: Client;
  /** authorization and tenant. */
  readonly metadata: Readonly<Record<string, string>>;
}

/** A generated file of messages, whose `GetDatasetRequest` belongs to the method `getDataset` (the lint of the protos keeps it so). */
type Messages = Readonly<Record<string, unknown>>;

export function createStub<D extends ServiceDefinition>(channel: Channel, definition: D, messages: Messages): Stub<D> {
  const stub: Record<string, unknown> = {};
  for (const [key, method] of Object.entries(definition)) {
    if (method.requestStream) continue;
    const codec = messages[`${key[0]!.toUpperCase()}${key.slice(1)}Request`] as { fromPartial(partial: unknown): unknown };
    stub[key] = method.responseStream
      ? (request: unknown, settings: CallSettings = {}) => streaming(channel, method, codec.fromPartial(request), settings)
      : (request: unknown, settings: CallSettings = {}) => unary(channel, method, codec.fromPartial(request), settings);
  }
  return stub as Stub<D>;
}

type Definition = ServiceDefinition[string];

export function callMetadata(channel: Channel, settings: CallSettings): Metadata {
  const metadata = new Metadata();
  for (const [key, value] of Object.entries(channel.metadata)) metadata.set(key, value);
  if (settings.requestId !== undefined) metadata.set('x-request-id', settings.requestId);
  return metadata;
}

export const callOptions = (settings: CallSettings): CallOptions =>
  settings.deadlineMs === undefined ? {} : { deadline: Date.now() + settings.deadlineMs };

/** Cancels `call` when the signal aborts; returns what undoes it. */
export function cancelOn(signal: AbortSignal | undefined, call: { cancel(): void }): () => void {
  const cancel = (): void => call.cancel();
  if (signal?.aborted === true) cancel();
  signal?.addEventListener('abort', cancel);
  return () => signal?.removeEventListener('abort', cancel);
}

async function unary(channel: Channel, method: Definition, request: unknown, settings: CallSettings): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const call = channel.client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      callMetadata(channel, settings),
      callOptions(settings),
      (error, value) => {
        undo();
        if (error === null) resolve(value);
        else reject(toCallError(error));
      },
    );
    const undo = cancelOn(settings.signal, call);
  });
}

async function* streaming(channel: Channel, method: Definition, request: unknown, settings: CallSettings): AsyncGenerator {
  const call = channel.client.makeServerStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    request,
    callMetadata(channel, settings),
    callOptions(settings),
  );
  const undo = cancelOn(settings.signal, call);
  try {
    for await (const message of call) yield message;
  } catch (error) {
    throw toCallError(error);
  } finally {
    undo();
    call.on('error', () => undefined);
    call.cancel();
  }
}
