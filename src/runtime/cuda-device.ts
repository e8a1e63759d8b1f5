/**
 * A CUDA device. Its sessions run on the CUDA provider alone: a graph with an operator that CUDA lacks fails to load instead of
 * falling back. Device memory comes from the provider's allocator; copies go through a one-operator session whose IO binding moves bytes
 * either way, and take turns. Needs a CUDA build of the library.
 */
import koffi from 'koffi';
import { LoricaError } from '../common/errors.js';
import type { FunctionName } from './api-table.js';
import { copyOnHost, cudaIndex, type Device } from './device.js';
import { COPY_MODEL } from './embedded-models.js';
import type { Environment } from './environment.js';
import { HostStorage, type Storage } from './host-memory.js';
import { call, create, statusError } from './status.js';
import { Tensor } from './tensor.js';
import type { DeviceName } from './types.js';

/** OrtAllocatorType and OrtMemType of onnxruntime_c_api.h. */
const DEVICE_ALLOCATOR = 0;
const MEMORY_DEFAULT = 0;
const HINT = 'Use a CUDA build of ONNX Runtime 1.30 (LORICA_ORT_LIBRARY) on a machine with that GPU, or the device cpu.';

class CudaStorage implements Storage {
  readonly where = 'device';
  private references = 1;

  constructor(readonly address: bigint, readonly byteLength: number, private readonly free: (address: bigint) => void) {}

  get alive(): boolean {
    return this.references > 0;
  }

  retain(): void {
    this.references++;
  }

  release(): void {
    if (--this.references === 0) this.free(this.address);
  }
}

function unavailable(name: DeviceName, why: string, cause?: unknown): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'DEVICE_UNAVAILABLE', `${name} cannot be used: ${why}`, { hint: HINT, cause });
}

export class CudaDevice implements Device {
  readonly copiesHostInputs = true;
  /** Native objects in the order in which they are released. */
  private readonly releases: (() => void)[] = [];
  private readonly memory: bigint;
  private readonly providerOptions: bigint;
  private readonly copySession: bigint;
  private readonly allocator: bigint;
  private readonly runOptions: bigint;
  private turn: Promise<void> = Promise.resolve();

  /** Throws DEVICE_UNAVAILABLE if this build, driver or machine has no such device. */
  constructor(private readonly environment: Environment, readonly name: DeviceName) {
    const index = cudaIndex(name);
    if (!environment.providers().includes('CUDAExecutionProvider')) throw unavailable(name, `${environment.library.path} has no CUDA provider`);
    const { api } = environment;
    try {
      this.providerOptions = this.own(create(api, 'CreateCUDAProviderOptions'), 'ReleaseCUDAProviderOptions');
      this.setOptions([['device_id', String(index)], ['arena_extend_strategy', 'kSameAsRequested']]);
      this.memory = this.own(create(api, 'CreateMemoryInfo', 'Cuda', DEVICE_ALLOCATOR, index, MEMORY_DEFAULT), 'ReleaseMemoryInfo');
      const sessionOptions = this.own(create(api, 'CreateSessionOptions'), 'ReleaseSessionOptions');
      call(api, 'DisablePerSessionThreads', sessionOptions);
      this.configure(sessionOptions);
      const session = create(api, 'CreateSessionFromArray', environment.pointer, koffi.address(COPY_MODEL), COPY_MODEL.byteLength, sessionOptions);
      this.copySession = this.own(session, 'ReleaseSession');
      this.runOptions = this.own(create(api, 'CreateRunOptions'), 'ReleaseRunOptions');
      this.allocator = this.own(create(api, 'CreateAllocator', this.copySession, this.memory), 'ReleaseAllocator');
    } catch (error) {
      this.dispose();
      throw unavailable(name, error instanceof Error ? error.message : String(error), error);
    }
  }

  configure(sessionOptions: bigint): void {
    const { api } = this.environment;
    call(api, 'AddSessionConfigEntry', sessionOptions, 'session.disable_cpu_ep_fallback', '1');
    call(api, 'SessionOptionsAppendExecutionProvider_CUDA_V2', sessionOptions, this.providerOptions);
  }

  allocate(byteLength: number): Storage {
    const { api } = this.environment;
    const address = create(api, 'AllocatorAlloc', this.allocator, Math.max(1, byteLength));
    const storage = new CudaStorage(address, byteLength, (pointer) => call(api, 'AllocatorFree', this.allocator, pointer));
    const zeros = new Tensor(HostStorage.allocate(byteLength), 'uint8', [byteLength]);
    const target = new Tensor(storage, 'uint8', [byteLength]);
    if (byteLength > 0) this.withBinding(zeros, target, (binding) => call(api, 'RunWithBinding', this.copySession, this.runOptions, binding));
    zeros.dispose();
    return storage;
  }

  valueOver(tensor: Tensor): bigint {
    return this.environment.valueOver(tensor, tensor.where === 'device' ? this.memory : undefined);
  }

  async copy(from: Tensor, to: Tensor): Promise<void> {
    if (from.where === 'host' && to.where === 'host') {
      copyOnHost(from, to);
      return;
    }
    if (from.byteLength === 0) return;
    const before = this.turn;
    let finish = (): void => {};
    this.turn = new Promise((resolve) => (finish = resolve));
    try {
      await before;
      await this.copyThroughSession(from, to);
    } finally {
      finish();
    }
  }

  dispose(): void {
    for (const release of this.releases.splice(0).reverse()) release();
  }

  private copyThroughSession(from: Tensor, to: Tensor): Promise<void> {
    const { api } = this.environment;
    const source = new Tensor(this.shared(from), 'uint8', [from.byteLength], Number(from.address - from.storage.address));
    const target = new Tensor(this.shared(to), 'uint8', [to.byteLength], Number(to.address - to.storage.address));
    return new Promise<void>((resolve, reject) => {
      const binding = this.bindCopy(source, target);
      api.RunWithBinding.async(this.copySession, this.runOptions, binding, (thrown: Error | null, status: unknown) => {
        const error = thrown ?? statusError(api, status, 'copy');
        api.ReleaseIoBinding(binding);
        if (error === null) resolve();
        else reject(error);
      });
    }).finally(() => {
      source.dispose();
      target.dispose();
    });
  }

  private shared(tensor: Tensor): Storage {
    tensor.assertAlive('copy');
    tensor.storage.retain();
    return tensor.storage;
  }

  private bindCopy(from: Tensor, to: Tensor): bigint {
    const { api } = this.environment;
    const binding = create(api, 'CreateIoBinding', this.copySession);
    for (const [bind, name, tensor] of [['BindInput', 'from', from], ['BindOutput', 'to', to]] as const) {
      const value = this.valueOver(tensor);
      call(api, bind, binding, name, value);
      api.ReleaseValue(value);
    }
    return binding;
  }

  private withBinding(from: Tensor, to: Tensor, use: (binding: bigint) => void): void {
    const binding = this.bindCopy(from, to);
    try {
      use(binding);
    } finally {
      this.environment.api.ReleaseIoBinding(binding);
    }
  }

  private own(pointer: bigint, release: FunctionName & `Release${string}`): bigint {
    this.releases.push(() => this.environment.api[release](pointer));
    return pointer;
  }

  private setOptions(entries: readonly (readonly [string, string])[]): void {
    const texts = entries.map(([key, value]) => [Buffer.from(`${key}\0`.padEnd(64, '\0')), Buffer.from(`${value}\0`.padEnd(64, '\0'))] as const);
    const keys = BigUint64Array.from(texts, ([key]) => koffi.address(key));
    const values = BigUint64Array.from(texts, ([, value]) => koffi.address(value));
    call(this.environment.api, 'UpdateCUDAProviderOptions', this.providerOptions, keys, values, entries.length);
  }
}
