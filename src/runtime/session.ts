/**
 * A loaded graph. Holds on to its initializers' memory and to the container of prepacked weights; released when it is disposed and no
 * run is left. Runs go through the device's queue and compute on native threads, never on the event loop.
 */
import koffi from 'koffi';
import { LoricaError } from '../common/errors.js';
import { byteLength } from '../tensor/dtype.js';
import { Binding } from './binding.js';
import type { Core } from './core.js';
import { HostStorage } from './host-memory.js';
import { readTensorInfo, takeString } from './model-signature.js';
import { cancelled } from './run-queue.js';
import { call, create, statusError } from './status.js';
import { Tensor } from './tensor.js';
import type { RunOptions, ValueInfo } from './types.js';

/** What loading produced; see session-loader.ts. */
export interface LoadedSession {
  readonly name: string;
  readonly pointer: bigint;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly profiling: boolean;
  /** Gives back what the native session used; called after ReleaseSession. */
  release(): void;
}

export class Session {
  readonly name: string;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  private readonly bindings = new Set<Binding>();
  private runs = 0;
  private disposed = false;
  private freed = false;
  private profiling: boolean;

  /** Made by Runtime.loadSession. */
  constructor(private readonly core: Core, private readonly loaded: LoadedSession) {
    this.name = loaded.name;
    this.inputs = loaded.inputs;
    this.outputs = loaded.outputs;
    this.profiling = loaded.profiling;
    core.sessions.add(this);
  }

  binding(): Binding {
    this.assertUsable();
    const binding: Binding = new Binding(this.core, this.loaded, () => {
      this.bindings.delete(binding);
      this.freeIfUnused();
    });
    this.bindings.add(binding);
    return binding;
  }

  /** Checks the binding, waits for its turn, runs, and resolves when all bound outputs are written. The tensors stay in memory meanwhile. */
  async run(binding: Binding, options: RunOptions): Promise<void> {
    await this.runThen(binding, options, () => undefined);
  }

  /** One run with outputs that ONNX Runtime allocates, copied into host tensors. Convenient, not for hot loops. */
  async call(inputs: Readonly<Record<string, Tensor>>, options: RunOptions): Promise<Record<string, Tensor>> {
    const { api, hostMemory } = this.core.environment;
    const binding = this.binding();
    try {
      for (const [name, tensor] of Object.entries(inputs)) binding.input(name, tensor);
      for (const { name } of this.outputs) call(api, 'BindOutputToDevice', binding.pointer, name, hostMemory);
      return await this.runThen(binding, options, () => this.takeOutputs(binding));
    } finally {
      binding.dispose();
    }
  }

  /** Writes the profile of a session that was loaded with `profilePrefix`; returns the file's path. */
  endProfiling(): string {
    this.assertUsable();
    if (!this.profiling) throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_FAILED', `${this.name}: not being profiled (load it with profilePrefix)`);
    this.profiling = false;
    const { environment } = this.core;
    return takeString(environment, create(environment.api, 'SessionEndProfiling', this.loaded.pointer, environment.defaultAllocator));
  }

  /** Disposes its bindings too. No new run begins; memory is given back when the runs that wait or go on have ended. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    for (const binding of this.bindings) binding.dispose();
    this.freeIfUnused();
  }

  /** `collect` reads the results while the binding is still pinned: disposing meanwhile does not free what it reads. */
  private async runThen<T>(binding: Binding, options: RunOptions, collect: () => T): Promise<T> {
    this.assertUsable();
    if (binding.owner !== this.loaded) throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `${this.name}: the binding belongs to ${binding.owner.name}`);
    binding.pin();
    this.runs++;
    try {
      await this.enqueue(binding, options);
      return collect();
    } finally {
      this.runs--;
      binding.unpin();
      this.freeIfUnused();
    }
  }

  private enqueue(binding: Binding, { lane, signal }: RunOptions): Promise<void> {
    const { api } = this.core.environment;
    const { runOptions } = this.core;
    const queuedAt = performance.now();
    let terminated = false;
    let ended = false;
    return this.core.queue.schedule(this.name, lane, signal, {
      start: (done) => {
        binding.apply();
        const startedAt = performance.now();
        api.RunWithBinding.async(this.loaded.pointer, runOptions, binding.pointer, (thrown: Error | null, status: unknown) => {
          ended = true;
          const failed = thrown ?? statusError(api, status, this.name);
          if (terminated) call(api, 'RunOptionsUnsetTerminate', runOptions);
          this.core.report({ session: this.name, lane, waitedMs: startedAt - queuedAt, ranMs: performance.now() - startedAt, failed: failed !== null });
          done(terminated ? cancelled(this.name, signal?.reason) : failed);
        });
      },
      cancel: () => {
        // A listener of the report may abort: nothing runs then that could be stopped, and the next run would be.
        if (ended) return;
        terminated = true;
        call(api, 'RunOptionsSetTerminate', runOptions);
      },
    });
  }

  /** Copies the values that ORT allocated for a binding and frees them. */
  private takeOutputs(binding: Binding): Record<string, Tensor> {
    const { api, defaultAllocator } = this.core.environment;
    const list: [bigint | null] = [null];
    const count: [number] = [0];
    call(api, 'GetBoundOutputValues', binding.pointer, defaultAllocator, list, count);
    const values = this.outputs.map((_, i) => koffi.decode(list[0], i * koffi.sizeof('void *'), 'void *') as bigint);
    call(api, 'AllocatorFree', defaultAllocator, list[0]);
    try {
      return Object.fromEntries(this.outputs.map((info, i) => [info.name, this.copyValue(values[i] as bigint, info.name)]));
    } finally {
      for (const value of values) api.ReleaseValue(value);
    }
  }

  private copyValue(value: bigint, name: string): Tensor {
    const { api } = this.core.environment;
    const info = create(api, 'GetTensorTypeAndShape', value);
    const { dtype, dims } = readTensorInfo(api, info, `${this.name}.${name}`);
    api.ReleaseTensorTypeAndShapeInfo(info);
    const storage = HostStorage.allocate(byteLength(dtype, dims));
    if (storage.byteLength > 0) {
      const source = create(api, 'GetTensorMutableData', value);
      storage.bytes.set(new Uint8Array(koffi.view(source, storage.byteLength)));
    }
    return new Tensor(storage, dtype, dims);
  }

  private assertUsable(): void {
    this.core.assertOpen();
    if (this.disposed) throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_FAILED', `the session ${this.name} is disposed`);
  }

  private freeIfUnused(): void {
    if (!this.disposed || this.freed || this.runs > 0 || this.bindings.size > 0) return;
    this.freed = true;
    this.core.sessions.delete(this);
    this.core.environment.api.ReleaseSession(this.loaded.pointer);
    this.loaded.release();
  }
}
