/**
 * The one OrtEnv of the process: global thread pools that all sessions share, and one registered CPU arena instead of an arena per
 * session. Counted by its users and released by the last one. Also owns the few native objects that everything needs (memory info,
 * default allocator). Knows nothing of devices other than the CPU.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import koffi from 'koffi';
import { LoricaError } from '../common/errors.js';
import { DTYPES } from '../tensor/dtype.js';
import { loadLibrary, type Api, type Library } from './library.js';
import { call, create } from './status.js';
import type { Tensor } from './tensor.js';

/** OrtLoggingLevel FATAL: every error comes back as a status, so the library prints nothing of its own. */
const LOG_FATAL = 4;
/** OrtAllocatorType and OrtMemType of onnxruntime_c_api.h. */
const ARENA_ALLOCATOR = 1;
const DEVICE_ALLOCATOR = 0;
const MEMORY_DEFAULT = 0;

let current: Environment | undefined;

/** Processors that this process may use: the scheduler's affinity, and the quota of its control group where there is one. */
export function usableProcessors(): number {
  let quota = Infinity;
  try {
    const [limit, period] = readFileSync('/sys/fs/cgroup/cpu.max', 'utf8').trim().split(' ');
    if (limit !== undefined && limit !== 'max') quota = Math.max(1, Math.ceil(Number(limit) / Number(period)));
  } catch {
    quota = Infinity;
  }
  return Math.max(1, Math.min(availableParallelism(), quota));
}

export class Environment {
  readonly api: Api;
  /** OrtEnv*, the default OrtAllocator*, and the OrtMemoryInfo* of host memory. */
  readonly pointer: bigint;
  readonly defaultAllocator: bigint;
  readonly hostMemory: bigint;
  private users = 0;

  private constructor(readonly library: Library, readonly threads: number, readonly spinning: boolean) {
    const { api } = library;
    this.api = api;
    const threading = create(api, 'CreateThreadingOptions');
    try {
      call(api, 'SetGlobalIntraOpNumThreads', threading, threads);
      call(api, 'SetGlobalSpinControl', threading, spinning ? 1 : 0);
      this.pointer = create(api, 'CreateEnvWithGlobalThreadPools', LOG_FATAL, 'lorica', threading);
    } finally {
      api.ReleaseThreadingOptions(threading);
    }
    call(api, 'DisableTelemetryEvents', this.pointer);
    this.defaultAllocator = create(api, 'GetAllocatorWithDefaultOptions');
    this.hostMemory = create(api, 'CreateMemoryInfo', 'Cpu', DEVICE_ALLOCATOR, 0, MEMORY_DEFAULT);
    this.registerArena();
  }

  /** The environment of this process, with one more user. Throws RUNTIME_UNAVAILABLE if it is in use with other options. */
  static acquire(libraryPath: string | undefined, threads: number, spinning: boolean): Environment {
    const library = loadLibrary(libraryPath);
    if (current !== undefined && (current.threads !== threads || current.spinning !== spinning)) {
      const describe = (count: number, spins: boolean): string => `${count} ${spins ? 'spinning ' : ''}threads`;
      throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_UNAVAILABLE',
        `the runtime of this process is open with ${describe(current.threads, current.spinning)}, not ${describe(threads, spinning)}`,
        { hint: 'Close it first, or use the same options.' });
    }
    current ??= new Environment(library, threads, spinning);
    current.users++;
    return current;
  }

  release(): void {
    if (--this.users > 0) return;
    current = undefined;
    this.api.ReleaseMemoryInfo(this.hostMemory);
    this.api.ReleaseEnv(this.pointer);
  }

  /** An OrtValue over the tensor's memory, in `memory` (default: host). The caller releases it and keeps the tensor's storage alive. */
  valueOver(tensor: Tensor, memory: bigint = this.hostMemory): bigint {
    return create(this.api, 'CreateTensorWithDataAsOrtValue', memory, tensor.address, tensor.byteLength, tensor.shape, tensor.shape.length,
      DTYPES[tensor.dtype].onnx);
  }

  /** Names of the execution providers that this build contains. */
  providers(): string[] {
    const names: [bigint | null] = [null];
    const count: [number] = [0];
    call(this.api, 'GetAvailableProviders', names, count);
    const list = names[0] as bigint;
    const result = Array.from({ length: count[0] }, (_, i) => koffi.decode.string(koffi.decode(list, i * koffi.sizeof('void *'), 'void *')));
    call(this.api, 'ReleaseAvailableProviders', list, count[0]);
    return result;
  }

  /**
   * An arena with ORT's own settings: it extends by powers of two, so that a later, larger session finds room in what is there.
   * Extending by what was asked for kept one region for every size met (docs/decisions/0002-c-api.md).
   */
  private registerArena(): void {
    const memory = create(this.api, 'CreateMemoryInfo', 'Cpu', ARENA_ALLOCATOR, 0, MEMORY_DEFAULT);
    call(this.api, 'CreateAndRegisterAllocator', this.pointer, memory, null);
    this.api.ReleaseMemoryInfo(memory);
  }
}
