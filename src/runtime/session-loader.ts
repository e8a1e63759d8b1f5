/**
 * From model bytes to a native session: options, external initializers, prepacked weights, signature.
 * Initializers are given twice on the CPU: as external data, so that graph optimizers see them, and as shared initializers, because only
 * those are looked up in the container of prepacked weights. Either way ORT points into the tensors' memory and copies nothing.
 */
import koffi from 'koffi';
import { LoricaError } from '../common/errors.js';
import type { Core } from './core.js';
import { readInputs, readOutputs } from './model-signature.js';
import type { PrepackedWeights } from './prepacked-weights.js';
import type { LoadedSession } from './session.js';
import { call, create, createAsync } from './status.js';
import type { Tensor } from './tensor.js';

export interface SessionOptions {
  /** For errors, reports and profiles. */
  readonly name: string;
  /** Host tensors for the graph's external initializers, by name. Shared: several sessions may be given the same tensors. */
  readonly initializers?: ReadonlyMap<string, Tensor>;
  readonly prepacked?: PrepackedWeights;
  /** Graph optimizations; default 'all'. */
  readonly optimization?: 'all' | 'extended' | 'basic' | 'none';
  /** Profiles every run into a file whose name begins so; endProfiling() gives its path. */
  readonly profilePrefix?: string;
  /** False: kernels keep weights as they are (less memory, slower). Default true. */
  readonly prepack?: boolean;
}

/** GraphOptimizationLevel of onnxruntime_c_api.h. */
const LEVELS = { none: 0, basic: 1, extended: 2, all: 99 } as const;

function configure(core: Core, pointer: bigint, options: SessionOptions): void {
  const { api } = core.environment;
  call(api, 'DisablePerSessionThreads', pointer);
  call(api, 'DisableMemPattern', pointer);
  call(api, 'SetDeterministicCompute', pointer, true);
  call(api, 'SetSessionGraphOptimizationLevel', pointer, LEVELS[options.optimization ?? 'all']);
  call(api, 'AddSessionConfigEntry', pointer, 'session.use_env_allocators', '1');
  if (options.prepack === false) call(api, 'AddSessionConfigEntry', pointer, 'session.disable_prepacking', '1');
  if (options.profilePrefix !== undefined) call(api, 'EnableProfiling', pointer, options.profilePrefix);
  core.device.configure(pointer);
}

/** Adds the initializers; returns their OrtValues, which the session needs as long as it lives. */
function addInitializers(core: Core, pointer: bigint, initializers: ReadonlyMap<string, Tensor>): bigint[] {
  const { environment } = core;
  const entries = [...initializers];
  const values = entries.map(([, tensor]) => environment.valueOver(tensor));
  const names = entries.map(([name]) => Buffer.from(name + '\0'.repeat(64)));
  const addresses = BigUint64Array.from(names, (name) => koffi.address(name));
  call(environment.api, 'AddExternalInitializers', pointer, addresses, BigUint64Array.from(values), entries.length);
  if (core.device.name === 'cpu') entries.forEach(([name], i) => call(environment.api, 'AddInitializer', pointer, name, values[i]));
  return values;
}

function checkOptions(model: Uint8Array, { name, initializers }: SessionOptions): void {
  if (model.byteLength === 0) throw new LoricaError('INVALID_ARGUMENT', 'GRAPH_INVALID', `${name}: the model is empty`);
  for (const [weight, tensor] of initializers ?? []) {
    tensor.assertAlive(`${name}.${weight}`);
    if (tensor.where !== 'host') throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `${name}.${weight}: an initializer must be a host tensor`);
  }
}

/** Builds the session on a native thread. Everything it was given stays in memory until `release` is called. */
export async function loadSession(core: Core, model: Uint8Array, options: SessionOptions): Promise<LoadedSession> {
  checkOptions(model, options);
  const { environment } = core;
  const { api } = environment;
  const { name, prepacked } = options;
  const initializers = options.initializers ?? new Map<string, Tensor>();
  const stable = model.buffer.byteLength < 64 ? new Uint8Array(new ArrayBuffer(128), 0, model.byteLength) : model;
  if (stable !== model) stable.set(model);
  prepacked?.retain();
  for (const tensor of initializers.values()) tensor.storage.retain();
  let values: bigint[] = [];
  const sessionOptions = create(api, 'CreateSessionOptions');
  const release = (): void => {
    for (const value of values) api.ReleaseValue(value);
    api.ReleaseSessionOptions(sessionOptions);
    for (const tensor of initializers.values()) tensor.storage.release();
    prepacked?.release();
  };
  try {
    configure(core, sessionOptions, options);
    if (initializers.size > 0) values = addInitializers(core, sessionOptions, initializers);
    const address = koffi.address(stable);
    const pointer = prepacked === undefined
      ? await createAsync(api, 'CreateSessionFromArray', name, environment.pointer, address, stable.byteLength, sessionOptions)
      : await createAsync(api, 'CreateSessionFromArrayWithPrepackedWeightsContainer', name, environment.pointer, address, stable.byteLength,
        sessionOptions, prepacked.pointer);
    try {
      return {
        name, pointer, inputs: readInputs(environment, pointer), outputs: readOutputs(environment, pointer),
        profiling: options.profilePrefix !== undefined, release,
      };
    } catch (error) {
      api.ReleaseSession(pointer);
      throw error;
    }
  } catch (error) {
    release();
    throw error;
  }
}
