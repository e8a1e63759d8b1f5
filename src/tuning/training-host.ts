/**
 * Float32 weights of base models and the sessions of their segments, shared by all tuning jobs of a process. A job leases a base;
 * weights are read when a lease first asks for them (a job that trains a tensor whole never loads it here) and everything is
 * dropped when the last lease of a base ends. Invariant: what a lease hands out is never written to.
 */
import type { DecoderConfig } from '../models/config.js';
import { serialize, type Graph } from '../onnx/index.js';
import type { Runtime, Session, Tensor } from '../runtime/index.js';

/** A base as tuning sees it; a Checkpoint is one (`key` is its digest). */
export interface BaseModel {
  /** Equal keys are the same weights. */
  readonly key: string;
  readonly config: DecoderConfig;
  readonly weights: { shape(name: string): readonly number[]; float32(name: string): Promise<Float32Array> };
}

/** A buffer shorter than this may lie on V8's moving heap. */
const LEAST_ADOPTABLE_BYTES = 64;

class SharedBase {
  leases = 0;
  readonly weights = new Map<string, Promise<Tensor>>();
  readonly sessions = new Map<string, Promise<Session>>();
  constructor(readonly base: BaseModel) {}
}

export class TrainingHost {
  private readonly bases = new Map<string, SharedBase>();

  /** `profilePrefix`: every session writes its operators' times into a file whose name begins so; see `endProfiling`. */
  constructor(readonly runtime: Runtime, private readonly options: { readonly profilePrefix?: string } = {}) {}

  /** Keeps the base until the lease is released. */
  lease(base: BaseModel): BaseLease {
    let shared = this.bases.get(base.key);
    if (shared === undefined) this.bases.set(base.key, (shared = new SharedBase(base)));
    shared.leases += 1;
    return new BaseLease(this.runtime, shared, this.options, async () => {
      if (--shared.leases > 0) return;
      this.bases.delete(base.key);
      for (const session of await Promise.allSettled(shared.sessions.values())) if (session.status === 'fulfilled') session.value.dispose();
      for (const weight of await Promise.allSettled(shared.weights.values())) if (weight.status === 'fulfilled') weight.value.dispose();
    });
  }
}

export class BaseLease {
  readonly config: DecoderConfig;
  private released = false;

  /** Made by TrainingHost. */
  constructor(readonly runtime: Runtime, private readonly shared: SharedBase, private readonly options: { readonly profilePrefix?: string }, private readonly onReleased: () => Promise<void>) {
    this.config = shared.base.config;
  }

  /** A frozen tensor of the base by its checkpoint name; the same for every lease. */
  weight(name: string): Promise<Tensor> {
    return remember(this.shared.weights, name, async () => {
      const { weights } = this.shared.base;
      const data = await weights.float32(name);
      const place = data.buffer.byteLength < LEAST_ADOPTABLE_BYTES ? 'from' : 'adopt';
      return this.runtime[place](data, 'float32', weights.shape(name));
    });
  }

  /** A tensor's values to start training from: a copy, or memory that nobody else holds. */
  async initial(name: string): Promise<Float32Array> {
    const loaded = this.shared.weights.get(name);
    return loaded === undefined ? this.shared.base.weights.float32(name) : (await loaded).f32().slice();
  }

  /** The session of a graph; built once per key and shared. */
  session(key: string, build: () => Graph): Promise<Session> {
    return remember(this.shared.sessions, key, () => this.runtime.loadSession(serialize(build()), { name: `training:${key}`, ...this.options }));
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
