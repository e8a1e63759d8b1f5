/**
 * Finds and loads libonnxruntime and binds the functions of api-table.ts. One library per process: builds are never mixed, and it is
 * never unloaded (its threads and static state do not survive that), so the handle lives in a module-level variable.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import koffi from 'koffi';
import { LoricaError } from '../common/errors.js';
import { API, API_VERSION, type FunctionName } from './api-table.js';

/** A bound function. Pointers are bigint, or null for NULL. */
export interface NativeFunction {
  (...values: unknown[]): unknown;
  async(...valuesAndCallback: unknown[]): void;
}

export type Api = Readonly<Record<FunctionName, NativeFunction>>;

export interface Library {
  readonly path: string;
  readonly version: string;
  readonly api: Api;
}

const EXPECTED_VERSION = '1.30';
const FILE_NAMES: Readonly<Record<string, string>> = { linux: 'libonnxruntime.so.1', darwin: 'libonnxruntime.1.dylib', win32: 'onnxruntime.dll' };

/** Session creation and kernels recurse deeper than koffi's 128 KiB for asynchronous calls; pages are only used when touched. */
const ASYNC_STACK_BYTES = 4 * 1024 * 1024;

/** koffi takes settings only before the first library. */
let configured = false;
let handle: ReturnType<typeof koffi.load> | undefined;
let loaded: Library | undefined;

function unavailable(message: string, hint: string, cause?: unknown): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'RUNTIME_UNAVAILABLE', message, { hint, cause });
}

/** Path of the library inside the onnxruntime-node package. Throws RUNTIME_UNAVAILABLE where it has none for this platform. */
export function packagedLibraryPath(): string {
  const hint = 'Run npm ci, or give the path of a libonnxruntime 1.30.x (LORICA_ORT_LIBRARY).';
  let root: string;
  try {
    root = dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'));
  } catch (error) {
    throw unavailable('the package onnxruntime-node is not installed', hint, error);
  }
  const path = join(root, 'bin', 'napi-v6', process.platform, process.arch, FILE_NAMES[process.platform] ?? '');
  if (!existsSync(path)) throw unavailable(`onnxruntime-node has no library for ${process.platform} ${process.arch}`, hint);
  return path;
}

function bind(table: bigint): Api {
  const bound = Object.entries(API).map(([name, { index, parameters, returns }]) => {
    const pointer = koffi.decode(table, index * koffi.sizeof('void *'), 'void *') as bigint | null;
    if (pointer === null) throw unavailable(`ONNX Runtime has no ${name}`, 'Use an unmodified build of ONNX Runtime 1.30.x.');
    const result = returns === 'status' ? 'void *' : returns;
    return [name, koffi.decode(pointer, koffi.proto(result, [...parameters])) as NativeFunction];
  });
  return Object.fromEntries(bound) as Api;
}

/** Loads the library once per process. Throws RUNTIME_UNAVAILABLE when it is missing, another version, or another one is loaded already. */
export function loadLibrary(libraryPath: string | undefined): Library {
  const path = libraryPath ?? packagedLibraryPath();
  if (loaded !== undefined) {
    if (loaded.path === path) return loaded;
    throw unavailable(`this process already uses ${loaded.path}, not ${path}`, 'Use one ONNX Runtime library in a process.');
  }
  const hint = `Give the path of a libonnxruntime ${EXPECTED_VERSION}.x for ${process.platform} ${process.arch}.`;
  if (!existsSync(path)) throw unavailable(`there is no ONNX Runtime library at ${path}`, hint);
  if (!configured) koffi.config({ async_stack_size: ASYNC_STACK_BYTES });
  configured = true;
  try {
    handle = koffi.load(path);
  } catch (error) {
    throw unavailable(`${path} cannot be loaded: ${error instanceof Error ? error.message : String(error)}`, hint, error);
  }
  let getBase: () => bigint;
  try {
    getBase = handle.func('OrtGetApiBase', 'void *', []);
  } catch (error) {
    throw unavailable(`${path} is not an ONNX Runtime library`, hint, error);
  }
  const base = getBase();
  const pointerBytes = koffi.sizeof('void *');
  const getApi = koffi.decode(koffi.decode(base, 0, 'void *'), koffi.proto('void *', ['uint32_t'])) as (version: number) => bigint | null;
  const getVersion = koffi.decode(koffi.decode(base, pointerBytes, 'void *'), koffi.proto('str', [])) as () => string;
  const version = getVersion();
  if (!version.startsWith(`${EXPECTED_VERSION}.`)) {
    throw unavailable(`${path} is ONNX Runtime ${version}; Lorica is built for ${EXPECTED_VERSION}.x`, hint);
  }
  const table = getApi(API_VERSION);
  if (table === null) throw unavailable(`${path} (${version}) has no API version ${API_VERSION}`, hint);
  loaded = { path, version, api: bind(table) };
  return loaded;
}
