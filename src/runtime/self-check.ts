/**
 * Tries every bound function once, at the first open: a wrong library or a wrong place in the table shows here, with a clear error,
 * instead of in the middle of a run. Computes one product with an external initializer and compares it.
 */
import koffi from 'koffi';
import { LoricaError } from '../common/errors.js';
import { API, type FunctionName } from './api-table.js';
import { CHECK_MODEL } from './embedded-models.js';
import type { Environment } from './environment.js';
import { HostStorage } from './host-memory.js';
import type { Api, NativeFunction } from './library.js';
import { readInputs, readOutputs, readTensorInfo, takeString } from './model-signature.js';
import { call, create, statusError } from './status.js';
import { Tensor } from './tensor.js';

/** Called by Environment itself, when it was made and when it will be released. */
const BY_ENVIRONMENT: readonly FunctionName[] = ['CreateThreadingOptions', 'SetGlobalIntraOpNumThreads', 'SetGlobalSpinControl',
  'CreateEnvWithGlobalThreadPools', 'ReleaseThreadingOptions', 'DisableTelemetryEvents', 'GetAllocatorWithDefaultOptions',
  'CreateAndRegisterAllocator', 'ReleaseEnv'];

/** The same functions, noting the name of every one that is called. */
function noting(api: Api, called: Set<string>): Api {
  const noted = Object.entries(api).map(([name, native]): [string, NativeFunction] => {
    const call = (...values: unknown[]): unknown => {
      called.add(name);
      return native(...values);
    };
    return [name, Object.assign(call, { async: (...values: unknown[]) => { native.async(...values); } })];
  });
  return Object.fromEntries(noted) as Api;
}

/** CUDA's functions exist in every build; without CUDA they answer with a status that says so. */
function tryCuda(api: Api, sessionOptions: bigint): void {
  const options: [bigint | null] = [null];
  statusError(api, api.CreateCUDAProviderOptions(options), 'cuda');
  statusError(api, api.UpdateCUDAProviderOptions(options[0], null, null, 0), 'cuda');
  statusError(api, api.SessionOptionsAppendExecutionProvider_CUDA_V2(sessionOptions, options[0]), 'cuda');
  api.ReleaseCUDAProviderOptions(options[0]);
}

function sessionOptionsWith(api: Api, weight: bigint): bigint {
  const options = create(api, 'CreateSessionOptions');
  call(api, 'DisablePerSessionThreads', options);
  call(api, 'DisableMemPattern', options);
  call(api, 'SetDeterministicCompute', options, true);
  call(api, 'SetSessionGraphOptimizationLevel', options, 99);
  call(api, 'AddSessionConfigEntry', options, 'session.use_env_allocators', '1');
  const name = Buffer.from('weight'.padEnd(64, '\0'));
  call(api, 'AddExternalInitializers', options, BigUint64Array.of(koffi.address(name)), BigUint64Array.of(weight), 1);
  call(api, 'AddInitializer', options, 'weight', weight);
  return options;
}

/** Runs y = x·(2·I) with y allocated by ORT and compares. */
function runProduct(environment: Environment, session: bigint, x: Tensor): void {
  const { api, hostMemory, defaultAllocator } = environment;
  const [input] = readInputs(environment, session);
  const [output] = readOutputs(environment, session);
  if (input?.name !== 'x' || input.shape.join() !== 'N,16' || output?.name !== 'y') throw new Error('the signature of the check model is not as built');
  const binding = create(api, 'CreateIoBinding', session);
  const runOptions = create(api, 'CreateRunOptions');
  call(api, 'RunOptionsSetTerminate', runOptions);
  call(api, 'RunOptionsUnsetTerminate', runOptions);
  const value = environment.valueOver(x);
  call(api, 'BindInput', binding, 'x', value);
  call(api, 'BindOutput', binding, 'y', value);
  call(api, 'BindOutputToDevice', binding, 'y', hostMemory);
  call(api, 'RunWithBinding', session, runOptions, binding);
  const list: [bigint | null] = [null];
  call(api, 'GetBoundOutputValues', binding, defaultAllocator, list, [0]);
  const y = koffi.decode(list[0], 0, 'void *') as bigint;
  call(api, 'AllocatorFree', defaultAllocator, list[0]);
  const info = create(api, 'GetTensorTypeAndShape', y);
  const { dtype, dims } = readTensorInfo(api, info, 'y');
  api.ReleaseTensorTypeAndShapeInfo(info);
  const result = new Float32Array(new Uint8Array(koffi.view(create(api, 'GetTensorMutableData', y), 64)).slice().buffer);
  const right = dtype === 'float32' && dims.join() === '1,16' && result.every((element, i) => element === 2 * i);
  for (const used of [value, y]) api.ReleaseValue(used);
  api.ReleaseIoBinding(binding);
  api.ReleaseRunOptions(runOptions);
  if (!right) throw new Error(`a product came out as ${dtype} [${dims.join()}] ${result.join(' ')}`);
}

function checkSession(environment: Environment, options: bigint, weight: bigint, x: Tensor): void {
  const { api, defaultAllocator, hostMemory } = environment;
  const model = [environment.pointer, koffi.address(CHECK_MODEL), CHECK_MODEL.byteLength, options] as const;
  const plain = create(api, 'CreateSessionFromArray', ...model);
  runProduct(environment, plain, x);
  takeString(environment, create(api, 'SessionEndProfiling', plain, defaultAllocator));
  const allocator = create(api, 'CreateAllocator', plain, hostMemory);
  call(api, 'AllocatorFree', allocator, create(api, 'AllocatorAlloc', allocator, 64));
  api.ReleaseAllocator(allocator);
  api.ReleaseSession(plain);
  const container = create(api, 'CreatePrepackedWeightsContainer');
  const prepacked = create(api, 'CreateSessionFromArrayWithPrepackedWeightsContainer', ...model, container);
  runProduct(environment, prepacked, x);
  api.ReleaseSession(prepacked);
  api.ReleasePrepackedWeightsContainer(container);
  api.ReleaseSessionOptions(options);
  api.ReleaseValue(weight);
}

/** Throws RUNTIME_UNAVAILABLE if a function is missing, fails, or was not tried. */
export function selfCheck(environment: Environment): void {
  const called = new Set<string>(BY_ENVIRONMENT);
  const noted = Object.create(environment, { api: { value: noting(environment.api, called) } }) as Environment;
  const { api } = noted;
  try {
    if (!noted.providers().includes('CPUExecutionProvider')) throw new Error('the library has no CPU provider');
    if (statusError(api, api.CreateMemoryInfo('no such device', 0, 0, 0, [null]), 'check') === null) throw new Error('an error came back as success');
    const x = new Tensor(HostStorage.allocate(64), 'float32', [1, 16]);
    const weights = new Tensor(HostStorage.allocate(1024), 'float32', [16, 16]);
    for (let i = 0; i < 16; i++) {
      x.f32()[i] = i;
      weights.f32()[17 * i] = 2;
    }
    const weight = noted.valueOver(weights);
    checkSession(noted, sessionOptionsWith(api, weight), weight, x);
    const unused = create(api, 'CreateSessionOptions');
    call(api, 'EnableProfiling', unused, 'lorica');
    tryCuda(api, unused);
    api.ReleaseSessionOptions(unused);
    api.ReleaseMemoryInfo(create(api, 'CreateMemoryInfo', 'Cpu', 0, 0, 0));
    for (const tensor of [x, weights]) tensor.dispose();
  } catch (error) {
    throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_UNAVAILABLE',
      `${environment.library.path} does not work: ${error instanceof Error ? error.message : String(error)}`,
      { hint: 'Use an unmodified build of ONNX Runtime 1.30.x for this platform.', cause: error });
  }
  const missed = Object.keys(API).filter((name) => !called.has(name));
  if (missed.length > 0) throw new LoricaError('INTERNAL', 'RUNTIME_UNAVAILABLE', `functions that nobody calls: ${missed.join(', ')}`);
}
