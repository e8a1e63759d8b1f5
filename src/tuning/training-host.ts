/**
 * Float32 weights of base models and the sessions of their segments, shared by all tuning jobs of a process. A job leases a base;
 * weights are read when a lease first asks for them (a job that trains a tensor whole never loads it here) and everything is
 * dropped when the last lease of a base ends. Invariant: what a lease hands out is never written to.
 */
import type { DecoderConfig } from '../models/config.js';
import { dequantizedFrozen, integerWeight } from '../models/frozen-weights.js';
import { heldForm, integerShapes, type BaseWeightForm, type IntegerForm } from '../models/training-form-weights.js';
import { serialize, type Graph } from '../onnx/index.js';
import type { Runtime, Session, Tensor } from '../runtime/index.js';

/** A base as tuning sees it; a Checkpoint is one (`key` is its digest). */
export interface BaseModel {
  /** Equal keys are the same weights. */
  readonly key: string;
  /** Under which the runtime reports runs of its sessions. Default 'training'. */
  readonly sessionPrefix?: string;
  readonly config: DecoderConfig;
  readonly weights: { shape(name: string): readonly number[]; float32(name: string): Promise<Float32Array> };
}

/** A buffer shorter than this may lie on V8's moving heap. */
const LEAST_ADOPTABLE_BYTES = 64;

/** How a job computes with the base's frozen linear weights. */
export interface BaseUse {
  /** Default 'float32'. */
  readonly weights?: BaseWeightForm;
  /** Some products with frozen weights in eight-bit integers (src/models/training-form-weights.ts). Default false. */
  readonly int8Products?: boolean;
}

/** A weight in an integer form: values and scales. */
export interface IntegerTensors {
  readonly values: Tensor;
  readonly scales: Tensor;
}

class SharedBase {
  leases = 0;
  readonly weights = new Map<string, Promise<Tensor>>();
  /** By form and name: jobs that use a base in different forms share what is alike. */
  readonly integers = new Map<string, Promise<IntegerTensors>>();
  readonly sessions = new Map<string, Promise<Session>>();
  constructor(readonly base: BaseModel) {}
}

export class TrainingHost {
  private readonly bases = new Map<string, SharedBase>();

  /** `profilePrefix`: every session writes its operators' times into a file whose name begins so, followed by the kind of segment. */
  constructor(readonly runtime: Runtime, private readonly options: { readonly profilePrefix?: string } = {}) {}

  /** Keeps the base until the lease is released. */
  lease(base: BaseModel, use: BaseUse = {}): BaseLease {
    let shared = this.bases.get(base.key);
    if (shared === undefined) this.bases.set(base.key, (shared = new SharedBase(base)));
    shared.leases += 1;
    return new BaseLease(this.runtime, shared, use, this.options, async () => {
      if (--shared.leases > 0) return;
      this.bases.delete(base.key);
      for (const session of await Promise.allSettled(shared.sessions.values())) if (session.status === 'fulfilled') session.value.dispose();
      for (const weight of await Promise.allSettled(shared.weights.values())) if (weight.status === 'fulfilled') weight.value.dispose();
      for (const made of await Promise.allSettled(shared.integers.values())) if (made.status === 'fulfilled') for (const tensor of [made.value.values, made.value.scales]) tensor.dispose();
    });
  }
}

export class BaseLease {
  readonly config: DecoderConfig;
  private released = false;

  /** Made by TrainingHost. */
  constructor(readonly runtime: Runtime, private readonly shared: SharedBase, readonly use: BaseUse, private readonly options: { readonly profilePrefix?: string }, private readonly onReleased: () => Promise<void>) {
    this.config = shared.base.config;
  }

  /** A frozen tensor of the base by its checkpoint name; the same for every lease. */
  weight(name: string): Promise<Tensor> {
    return remember(this.shared.weights, name, async () => {
      const { weights } = this.shared.base;
      return this.place(await weights.float32(name), 'float32', weights.shape(name));
    });
  }

  /** The form in which a frozen linear weight is held for this lease. */
  held(name: string): BaseWeightForm {
    return heldForm(this.use.weights ?? 'float32', this.shared.base.weights.shape(name) as readonly [number, number]);
  }

  /** A frozen linear weight of the base in an integer form; the same for every lease that uses it. Its float32 values are not kept for that. */
  integers(name: string, form: IntegerForm): Promise<IntegerTensors> {
    return remember(this.shared.integers, `${form}/${name}`, async () => {
      const [out, input] = this.shared.base.weights.shape(name) as readonly [number, number];
      const shapes = integerShapes(form, [out, input]);
      const loaded = this.shared.weights.get(name);
      const made = await integerWeight(form, loaded === undefined ? await this.shared.base.weights.float32(name) : (await loaded).f32(), out, input);
      return { values: this.place(made.values, shapes.dtype, shapes.values), scales: this.place(made.scales, 'float32', shapes.scales) };
    });
  }

  /** The values that a weight held in integers stands for; undefined where it is held in float32. */
  async dequantized(name: string): Promise<Float32Array | undefined> {
    const form = this.held(name);
    if (form === 'float32') return undefined;
    const { values, scales } = await this.integers(name, form);
    return dequantizedFrozen(form, { values: values.data as Int8Array | Uint8Array, scales: scales.f32() });
  }

  private place(data: Float32Array | Int8Array | Uint8Array, dtype: Tensor['dtype'], shape: readonly number[]): Tensor {
    return this.runtime[data.buffer.byteLength < LEAST_ADOPTABLE_BYTES ? 'from' : 'adopt'](data, dtype, shape);
  }

  /** A tensor of the base in float32 for the caller alone, who disposes it. */
  async owned(name: string): Promise<Tensor> {
    return this.place(await this.initial(name), 'float32', this.shared.base.weights.shape(name));
  }

  /** A tensor's values to start training from: a copy, or memory that nobody else holds. */
  async initial(name: string): Promise<Float32Array> {
    const loaded = this.shared.weights.get(name);
    return loaded === undefined ? this.shared.base.weights.float32(name) : (await loaded).f32().slice();
  }

  /** The session of a graph; built once per key and shared. */
  session(key: string, build: () => Graph): Promise<Session> {
    return remember(this.shared.sessions, key, () => this.runtime.loadSession(serialize(build()), { name: `${this.shared.base.sessionPrefix ?? 'training'}:${key}`, ...this.profile(key) }));
  }

  private profile(key: string): { readonly profilePrefix?: string } {
    const { profilePrefix } = this.options;
    return profilePrefix === undefined ? {} : { profilePrefix: `${profilePrefix}${key.split(':')[0]!}` };
  }

  /** Gives the base back. Releasing twice is allowed. */
  async release(): Promise<void> {
    if (this.released) return;
    this.released = true;
    await this.onReleased();
  }
}

/** The promise under `key`, made once; a failure is not remembered. */
function remember<T>(cache: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
  const known = cache.get(key);
  if (known !== undefined) return known;
  const promise = make();
  cache.set(key, promise);
  promise.catch(() => cache.delete(key));
  return promise;
}
