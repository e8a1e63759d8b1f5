/**
 * The runtime of one device: makes tensors and sessions, copies, and owns the queue that all runs of the device go through.
 * A process has one environment and one Runtime per device; opening again gives the same object, closed by its last user.
 */
import { LoricaError, invalidFields } from '../common/errors.js';
import { silentLogger } from '../common/logger.js';
import { DTYPES, byteLength, elementCount, type DType, type TypedArray } from '../tensor/dtype.js';
import type { Core } from './core.js';
import { CudaDevice } from './cuda-device.js';
import { CpuDevice, type Device } from './device.js';
import { Environment, usableProcessors } from './environment.js';
import { HostStorage } from './host-memory.js';
import { packagedLibraryPath } from './library.js';
import { releaseMappedPages } from './mapped-file.js';
import { trimNativeHeap } from './native-heap.js';
import { PrepackedWeights } from './prepacked-weights.js';
import { RunQueue } from './run-queue.js';
import { selfCheck } from './self-check.js';
import { Session } from './session.js';
import { loadSession, type SessionOptions } from './session-loader.js';
import { create } from './status.js';
import type { TimeSharing } from './time-sharing.js';
import { Tensor, checkShape, describe } from './tensor.js';
import type { DeviceName, RunReport, RuntimeOptions } from './types.js';

const runtimes = new Map<DeviceName, Runtime>();

export class Runtime {
  readonly version: string;
  readonly threads: number;
  readonly libraryPath: string;
  private readonly core: Core;
  private readonly listeners = new Set<(report: RunReport) => void>();
  private loading = 0;
  private users = 0;
  private closed: Promise<void> | undefined;

  private constructor(readonly device: DeviceName, private readonly environment: Environment, nativeDevice: Device, timeSharing: TimeSharing | undefined) {
    this.version = environment.library.version;
    this.threads = environment.threads;
    this.libraryPath = environment.library.path;
    this.core = {
      environment,
      device: nativeDevice,
      queue: new RunQueue(timeSharing),
      runOptions: create(environment.api, 'CreateRunOptions'),
      sessions: new Set(),
      report: (report) => this.listeners.forEach((listener) => listener(report)),
      assertOpen: () => {
        if (this.closed !== undefined) throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_FAILED', 'the runtime is closed');
      },
    };
  }

  /**
   * Throws RUNTIME_UNAVAILABLE (library missing, of another version or damaged, or options unlike those already in use) or
   * DEVICE_UNAVAILABLE. Every open is paired with a close.
   */
  static open(options: RuntimeOptions = {}): Runtime {
    const { device = 'cpu', libraryPath = packagedLibraryPath(), intraOpThreads = usableProcessors(), spinning = false } = options;
    if (!Number.isSafeInteger(intraOpThreads) || intraOpThreads < 1 || intraOpThreads > 1024) {
      throw invalidFields([{ field: 'intraOpThreads', description: `${intraOpThreads} is not a number of threads from 1 to 1024` }]);
    }
    const environment = Environment.acquire(libraryPath, intraOpThreads, spinning);
    try {
      let runtime = runtimes.get(device);
      if (runtime === undefined) {
        selfCheck(environment);
        runtime = new Runtime(device, environment, device === 'cpu' ? new CpuDevice(environment) : new CudaDevice(environment, device), options.timeSharing);
        runtimes.set(device, runtime);
        (options.logger ?? silentLogger).info('runtime opened', { device, version: runtime.version, threads: intraOpThreads, spinning, library: libraryPath });
      } else {
        environment.release();
      }
      runtime.users++;
      return runtime;
    } catch (error) {
      environment.release();
      throw error;
    }
  }

  /** A zero-filled tensor that owns its memory, 64-byte aligned. On the CPU a device tensor is a host tensor. */
  empty(dtype: DType, shape: readonly number[], where: 'host' | 'device' = 'host'): Tensor {
    this.core.assertOpen();
    checkShape(shape);
    const bytes = byteLength(dtype, shape);
    return new Tensor(where === 'host' ? HostStorage.allocate(bytes) : this.core.device.allocate(bytes), dtype, [...shape]);
  }

  /** A host tensor with a copy of `data`. 64-bit integers may be given as numbers; float16 and bfloat16 as bit patterns only. */
  from(data: TypedArray | readonly (number | bigint)[], dtype: DType, shape: readonly number[]): Tensor {
    checkShape(shape);
    if (data.length !== elementCount(shape)) {
      throw invalidFields([{ field: 'data', description: `${data.length} elements do not fill ${describe({ dtype, shape })}` }]);
    }
    const tensor = this.empty(dtype, shape);
    const { data: target } = tensor;
    if (ArrayBuffer.isView(data) && data.constructor === target.constructor) (target as Uint8Array).set(data as Uint8Array);
    else if (target instanceof BigInt64Array || target instanceof BigUint64Array) target.set(Array.from(data as ArrayLike<number | bigint>, BigInt));
    else (target as Float64Array).set(Array.from(data as ArrayLike<number | bigint>, Number));
    return tensor;
  }

  /** A host tensor over `data` itself: no copy. Its buffer must be an ArrayBuffer of at least 64 bytes that is not resized or transferred. */
  adopt(data: TypedArray, dtype: DType, shape: readonly number[]): Tensor {
    this.core.assertOpen();
    checkShape(shape);
    const { array } = DTYPES[dtype];
    if (!(data instanceof array) || data.length !== elementCount(shape)) {
      throw invalidFields([{ field: 'data', description: `${data.constructor.name} of ${data.length} elements is not ${describe({ dtype, shape })}` }]);
    }
    return new Tensor(HostStorage.adopt(data), dtype, [...shape]);
  }

  /** Builds a session on a native thread. Throws GRAPH_INVALID with ONNX Runtime's words when the model is refused. */
  async loadSession(model: Uint8Array, options: SessionOptions): Promise<Session> {
    this.core.assertOpen();
    this.loading++;
    try {
      const loaded = await loadSession(this.core, model, options);
      await trimNativeHeap();
      // The weights that kernels have packed are not read again; those that they haven't come back as they are used.
      releaseMappedPages();
      return new Session(this.core, loaded);
    } finally {
      this.loading--;
    }
  }

  prepackedWeights(): PrepackedWeights {
    this.core.assertOpen();
    return new PrepackedWeights(this.environment.api);
  }

  /** Copies all elements; dtype and number of elements must be equal. Host and device either way. */
  async copy(from: Tensor, to: Tensor): Promise<void> {
    this.core.assertOpen();
    from.assertAlive('copy from');
    to.assertAlive('copy to');
    if (from.dtype !== to.dtype || from.byteLength !== to.byteLength) {
      throw invalidFields([{ field: 'to', description: `cannot copy ${describe(from)} into ${describe(to)}` }]);
    }
    await this.core.device.copy(from, to);
  }

  /** Calls `listener` after every run, for metrics; returns a function that stops it. */
  onRun(listener: (report: RunReport) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Execution providers that the library contains. */
  providers(): string[] {
    return this.environment.providers();
  }

  /** By the last user: refuses new work, waits for what runs, disposes all sessions and releases the environment. */
  close(): Promise<void> {
    if (this.closed === undefined) {
      if (--this.users > 0) return Promise.resolve();
      this.closed = this.shutDown();
    }
    return this.closed;
  }

  private async shutDown(): Promise<void> {
    runtimes.delete(this.device);
    do {
      await this.core.queue.drained();
      await new Promise((resolve) => setTimeout(resolve, this.loading > 0 ? 5 : 0));
    } while (this.loading > 0);
    for (const session of this.core.sessions) session.dispose();
    this.environment.api.ReleaseRunOptions(this.core.runOptions);
    this.core.device.dispose();
    this.environment.release();
  }
}
