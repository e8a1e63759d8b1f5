/**
 * From a resolved target to what computes it: the base model (loaded once and kept), and the LoRA adapter or variant on top. A lease
 * keeps both in memory; it is the only way to get at them. Invariant: a target that cannot be had is an error, never another target.
 */
import type { VariantInput } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import type { Checkpoint } from '../models/checkpoint.js';
import type { ServingCache } from '../models/serving-cache.js';
import type { ServingForm } from '../models/serving-form-weights.js';
import type { Runtime } from '../runtime/index.js';
import { ResidentAdapter } from './resident-adapter.js';
import { ResidentHead } from './resident-head.js';
import { ResidentCache, type Resident, type ResidentLimits } from './resident-cache.js';
import { ServingModel } from './serving-model.js';
import { ServingWeights, type VariantContent } from './serving-weights.js';
import type { ModelProvider, Residency as ResidencyList, ResolvedAdapter, ResolvedTarget } from './types.js';

export interface Lease {
  readonly model: ServingModel;
  /** Undefined where no linear layer is adapted. */
  readonly adapter: ResidentAdapter | undefined;
  readonly head: ResidentHead | undefined;
  /** Exactly once. */
  release(): void;
}

export interface ResidencyInput {
  readonly runtime: Runtime;
  readonly models: ModelProvider;
  readonly form: ServingForm;
  /** Where bases' weights are kept in their serving form. */
  readonly cache: ServingCache | undefined;
  readonly maxContextTokens: number;
  readonly limits: ResidentLimits;
  readonly onAdapterLoaded: (tenant: string) => void;
  readonly onResidentChange: (adapters: number) => void;
  /** A serving model is about to be disposed. */
  readonly onModelDropped: (model: ServingModel) => void;
}

interface Base {
  readonly model: ServingModel;
  users: number;
  lastUsedMs: number;
}

class Variant implements Resident {
  readonly kind = 'variant';
  users = 0;
  lastUsedMs = 0;

  constructor(
    readonly name: string, readonly digest: string, readonly model: ServingModel, readonly head: ResidentHead | undefined,
    private readonly onDropped: (model: ServingModel) => void,
  ) {}

  get bytes(): number {
    return this.model.weights.ownBytes + (this.head?.bytes ?? 0);
  }

  dispose(): void {
    this.onDropped(this.model);
    this.model.dispose();
    this.head?.dispose();
  }
}

export class Residency {
  readonly #input: ResidencyInput;
  readonly #bases = new Map<string, Promise<Base>>();
  readonly #loaded = new Map<string, Base>();
  readonly #cache: ResidentCache<ResidentAdapter | Variant>;
  readonly #disposed = new AbortController();

  constructor(input: ResidencyInput) {
    this.#input = input;
    this.#cache = new ResidentCache(input.limits, input.onResidentChange);
  }

  /** The base's checkpoint, checked against the target's digest, without loading weights. */
  async checkpoint({ modelId, modelDigest }: ResolvedTarget): Promise<Checkpoint> {
    const checkpoint = await this.#input.models.checkpoint(modelId);
    if (checkpoint.digest !== modelDigest) {
      throw new LoricaError('FAILED_PRECONDITION', 'DIGEST_MISMATCH', `model ${modelId} is ${checkpoint.digest} here, not ${modelDigest}`);
    }
    return checkpoint;
  }

  contextTokens(checkpoint: Checkpoint): number {
    return Math.min(this.#input.maxContextTokens, checkpoint.config.maxPositionTokens);
  }

  /** Loads what is missing. */
  async acquire(target: ResolvedTarget): Promise<Lease> {
    const base = await this.#base(target);
    const use = (on: { users: number; lastUsedMs: number }): void => {
      on.users++;
      on.lastUsedMs = Date.now();
    };
    if (target.adapter === undefined) {
      use(base);
      return { model: base.model, adapter: undefined, head: undefined, release: once(() => base.users--) };
    }
    const { adapter } = target;
    const resident = await this.#cache.acquire(`${baseKey(target)} ${adapter.digest}`, () => this.#load(base.model, adapter));
    use(base);
    const release = once(() => {
      base.users--;
      this.#cache.release(resident);
    });
    const { head } = resident;
    if (resident.kind === 'variant') return { model: resident.model, adapter: undefined, head, release };
    return { model: base.model, adapter: resident.changesLayers ? resident : undefined, head, release };
  }

  drop(digest: string): boolean {
    return this.#cache.drop(digest);
  }

  list(): ResidencyList {
    const bases = [...this.#loaded.values()].map(({ model, users, lastUsedMs }) => ({
      modelId: model.checkpoint.id, modelDigest: model.checkpoint.digest, bytes: model.weights.ownBytes, runningSequences: users, lastUsedMs,
    }));
    const models = [...bases];
    const adapters = [];
    for (const resident of this.#cache.list()) {
      const { name, digest, bytes, users: runningSequences, lastUsedMs } = resident;
      const common = { name, bytes, runningSequences, lastUsedMs };
      if (resident.kind === 'lora') adapters.push({ ...common, digest, modelId: resident.modelId, rank: resident.rank });
      else models.push({ ...common, modelId: resident.model.checkpoint.id, modelDigest: resident.model.checkpoint.digest, ...{ variantDigest: digest } });
    }
    return { models, adapters };
  }

  /** Frees everything; loads that are under way end with SHUTTING_DOWN and leave nothing behind. */
  dispose(): void {
    this.#disposed.abort(new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the server is shutting down'));
    this.#cache.close();
    for (const { model } of this.#loaded.values()) {
      this.#input.onModelDropped(model);
      model.dispose();
    }
    this.#loaded.clear();
    this.#bases.clear();
  }

  #base(target: ResolvedTarget): Promise<Base> {
    const key = baseKey(target);
    let base = this.#bases.get(key);
    if (base === undefined) {
      base = this.#loadBase(target).then((loaded) => {
        this.#loaded.set(key, loaded);
        return loaded;
      });
      this.#bases.set(key, base);
      base.catch(() => this.#bases.delete(key));
    }
    return base;
  }

  async #loadBase(target: ResolvedTarget): Promise<Base> {
    const { runtime, form } = this.#input;
    const checkpoint = await this.checkpoint(target);
    const contextTokens = this.contextTokens(checkpoint);
    const weights = await ServingWeights.load(runtime, checkpoint, form, contextTokens, this.#disposed.signal, this.#input.cache);
    return { model: new ServingModel({ runtime, checkpoint, weights, config: checkpoint.config, form, contextTokens }), users: 0, lastUsedMs: Date.now() };
  }

  async #load(base: ServingModel, adapter: ResolvedAdapter): Promise<ResidentAdapter | Variant> {
    const content = await adapter.load();
    if (content.digest !== adapter.digest) {
      throw new LoricaError('DATA_LOSS', 'DIGEST_MISMATCH', `${adapter.name} has digest ${content.digest}, not ${adapter.digest}`);
    }
    const loaded = content.kind === 'lora'
      ? await ResidentAdapter.pack(this.#input.runtime, base.checkpoint.id, base.config, adapter.name, adapter.digest, content)
      : await this.#variant(base, adapter, content);
    this.#input.onAdapterLoaded(adapter.tenant);
    return loaded;
  }

  async #variant(base: ServingModel, adapter: ResolvedAdapter, content: VariantContent & Pick<VariantInput, 'head'>): Promise<Variant> {
    const { runtime, form, onModelDropped } = this.#input;
    const { checkpoint, contextTokens } = base;
    const { weights, config } = await base.weights.vary(runtime, checkpoint, form, contextTokens, content);
    const model = new ServingModel({ runtime, checkpoint, weights, config, form, contextTokens });
    return new Variant(adapter.name, adapter.digest, model, content.head && new ResidentHead(runtime, content.head), onModelDropped);
  }
}

function baseKey({ modelId, modelDigest }: ResolvedTarget): string {
  return `${modelId}@${modelDigest}`;
}

function once(action: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    action();
  };
}
