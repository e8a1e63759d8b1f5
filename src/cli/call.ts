/** `lorica call SERVICE/METHOD JSON`: any method from the command line, through the proto files that are shipped with the package. */
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import type { AnyDefinition, MethodDefinition, ServiceDefinition } from '@grpc/proto-loader';
import { invalidFields, LoricaError } from '../common/errors.js';
import { loadProtos } from '../services/index.js';
import { LoricaCallError, toCallError } from '../client/index.js';
import { JsonMessages, type MessageType } from './json-messages.js';

export interface CallOptions {
  readonly address: string;
  readonly protoFolder: string;
  readonly key: string | undefined;
  readonly tenant: string | undefined;
  readonly deadlineMs: number | undefined;
  /** The request as JSON; '-' reads the standard input. */
  readonly json: string;
  readonly input: AsyncIterable<Uint8Array | string>;
  readonly write: (line: string) => void;
}

type Method = MethodDefinition<object, object>;

/**
 * Calls a method and writes its answers: one as indented JSON, a stream as one line each. Throws LoricaError or LoricaCallError, also when a
 * stream that follows a job or an evaluation to its end shows that it failed or was cancelled.
 */
export async function call(method: string, options: CallOptions): Promise<void> {
  const definitions = loadProtos(options.protoFolder);
  const definition = findMethod(method, definitions);
  const messages = new JsonMessages(definitions);
  const requestType = definition.requestType.type as MessageType;
  const responseType = definition.responseType.type as MessageType;
  const text = options.json === '-' || (definition.requestStream && options.json === '') ? await readAll(options.input) : options.json;
  const requests = parseRequests(text, definition.requestStream).map((json) => messages.fromJson(json, requestType));

  const client = new Client(options.address, credentials.createInsecure());
  const metadata = new Metadata();
  if (options.key !== undefined) metadata.set('authorization', `Bearer ${options.key}`);
  if (options.tenant !== undefined) metadata.set('x-lorica-tenant', options.tenant);
  const settings = options.deadlineMs === undefined ? {} : { deadline: Date.now() + options.deadlineMs };
  try {
    if (definition.responseStream) {
      for await (const answer of client.makeServerStreamRequest(
        definition.path,
        definition.requestSerialize,
        definition.responseDeserialize,
        requests[0]!,
        metadata,
        settings,
      )) {
        const json = messages.toJson(answer, responseType);
        options.write(JSON.stringify(json));
        throwFailure(json);
      }
      return;
    }
    const answer = await new Promise((resolve, reject) => {
      const done = (error: Error | null, value?: unknown): void => (error === null ? resolve(value) : reject(error));
      if (!definition.requestStream)
        client.makeUnaryRequest(
          definition.path,
          definition.requestSerialize,
          definition.responseDeserialize,
          requests[0]!,
          metadata,
          settings,
          done,
        );
      else {
        const stream = client.makeClientStreamRequest(
          definition.path,
          definition.requestSerialize,
          definition.responseDeserialize,
          metadata,
          settings,
          done,
        );
        stream.on('error', () => undefined);
        for (const request of requests) stream.write(request);
        stream.end();
      }
    });
    options.write(JSON.stringify(messages.toJson(answer, responseType), null, 2));
  } catch (error) {
    throw unreachable(toCallError(error), options.address);
  } finally {
    client.close();
  }
}

interface JobAnswer {
  readonly result?: {
    readonly name?: string;
    readonly state?: string;
    readonly error?: { readonly code?: string; readonly reason?: string; readonly message?: string };
  };
}

/** Throws the error of a job that ended without a result; `answer` is a message of a stream. */
function throwFailure(answer: unknown): void {
  const { name = '', state, error } = (answer as JobAnswer).result ?? {};
  if (state !== 'JOB_STATE_FAILED' && state !== 'JOB_STATE_CANCELLED') return;
  const cancelled = { code: 'CANCELLED', reason: '', message: 'it was cancelled' };
  const { code = '', reason = '', message = '' } = error ?? cancelled;
  const failure = {
    code,
    reason: reason.replace('ERROR_REASON_', ''),
    message: `${name}: ${message}`,
    violations: [],
    hint: '',
    metadata: {},
    requestId: '',
    retryAfterMs: undefined,
  };
  throw new LoricaCallError(failure, undefined);
}

/** No server, or none that speaks gRPC: grpc-js's text is for its developers, so the address and what to do are said here. */
function unreachable(error: unknown, address: string): unknown {
  if (!(error instanceof LoricaCallError) || error.reason !== '') return error;
  const late = error.code === 'DEADLINE_EXCEEDED';
  if (error.code !== 'UNAVAILABLE' && !late) return error;
  const why = late ? 'the deadline is over' : (/\b(E[A-Z]{4,})\b/.exec(error.message)?.[1] ?? error.message);
  return new LoricaCallError(
    {
      code: error.code,
      reason: '',
      message: `no answer from ${address}: ${why}`,
      violations: [],
      hint: late
        ? 'Give a longer --deadline, or check that it is a Lorica server that listens there.'
        : 'Start a server with "lorica serve", or say where it is with --address or LORICA_ADDRESS.',
      metadata: {},
      requestId: '',
      retryAfterMs: undefined,
    },
    error,
  );
}

/** 'TuneService/Tune', with or without the package, '/' or '.' between. */
function findMethod(method: string, definitions: Readonly<Record<string, AnyDefinition>>): Method {
  const services = Object.entries(definitions).filter((entry): entry is [string, ServiceDefinition] => !('format' in entry[1]));
  const [, service = '', name = ''] = /^\/?(?:lorica\.v1\.)?(\w+)[/.](\w+)$/.exec(method) ?? [];
  const found = services.find(([key]) => key === `lorica.v1.${service}`)?.[1];
  const definition = found?.[name] ?? Object.values(found ?? {}).find(({ originalName }) => originalName === name);
  if (definition !== undefined) return definition;
  const known = services.map(([key, one]) => `  ${key.replace('lorica.v1.', '')}: ${Object.keys(one).join(', ')}`).join('\n');
  throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `there is no method ${JSON.stringify(method)}`, {
    hint: `Methods:\n${known}`,
  });
}

async function readAll(input: AsyncIterable<Uint8Array | string>): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of input) parts.push(Buffer.from(part as string));
  return Buffer.concat(parts).toString('utf8');
}

/** One request; for a client stream a JSON list, or one JSON object a line. */
function parseRequests(text: string, stream: boolean): unknown[] {
  if (text.trim() === '' && !stream) return [{}];
  const parse = (json: string, field: string): unknown => {
    try {
      return JSON.parse(json);
    } catch (error) {
      throw invalidFields([{ field, description: `is not JSON: ${(error as Error).message}` }]);
    }
  };
  if (!stream) return [parse(text, 'JSON')];
  if (text.trimStart().startsWith('[')) return parse(text, 'JSON') as unknown[];
  return text.split('\n').flatMap((line, i) => (line.trim() === '' ? [] : [parse(line, `line ${i + 1}`)]));
}
