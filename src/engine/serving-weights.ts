/**
 * The weights of one serving model as tensors of the runtime, by initializer name. A variant holds its own tensors for the groups
 * that it changes and views of the base's for all others. Owns the memory; sessions keep what they use alive by themselves.
 */
import type { AdapterContent } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import type { Checkpoint } from '../models/checkpoint.js';
import type { DecoderConfig } from '../models/config.js';
import { checkServable } from '../models/serving-form.js';
import type { MadeTensors, ServingCache } from '../models/serving-cache.js';
import {
  overlaid, servingWeightGroups, storedLinears, type ReadFloat32, type ReadQuantized, type ServingForm, type ServingWeightGroup, type StoredFormats,
} from '../models/serving-form-weights.js';
import { variantConfig, variantFit, variantOrigin } from '../models/variant-architecture.js';
import type { Runtime, Tensor } from '../runtime/index.js';

/** A variant's tensors by their Hugging Face names, and its architecture where it is not the base's. */
export type VariantContent = Pick<Extract<AdapterContent, { kind: 'variant' }>, 'tensors' | 'architecture'>;

/** Buffers below this are copied: small typed arrays may lie on the moving heap. */
const ADOPTABLE_BYTES = 64;

export class ServingWeights {
  /** Bytes that only this model holds. */
  readonly ownBytes: number;
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Layers whose integers are the checkpoint's own. */
  readonly stored: StoredFormats;

  /** Settles when the cache has the weights (true), or when it was clear that it won't (false). Never rejects. */
  readonly kept: Promise<boolean>;

  private constructor(tensors: ReadonlyMap<string, Tensor>, ownBytes: number, stored: StoredFormats, kept = Promise.resolve(false)) {
    this.tensors = tensors;
    this.ownBytes = ownBytes;
    this.stored = stored;
    this.kept = kept;
  }

  /**
   * An abort ends it between two tensors with the signal's reason. With a cache the weights are read from there if it has them, and kept there
   * otherwise: `kept` says when.
   */
  static async load(
    runtime: Runtime, checkpoint: Checkpoint, form: ServingForm, contextTokens: number, signal?: AbortSignal, cache?: ServingCache,
  ): Promise<ServingWeights> {
    checkServable(checkpoint.config);
    const made = new Made(runtime);
    const { weights, digest } = checkpoint;
    const stored = storedLinears(checkpoint.config, form, (source) => weights.quantizedAs?.(source));
    const groups = servingWeightGroups(checkpoint.config, form, contextTokens, stored);
    const key = { digest, form };
    const keeper = cache?.keeps(key) === true ? cache : undefined;
    const known = await keeper?.read(key, groups);
    for (const group of groups) {
      signal?.throwIfAborted();
      await made.add(known === undefined ? group : fromKnown(group, known), (source) => weights.float32(source), (source) => weights.quantized?.(source));
    }
    signal?.throwIfAborted();
    const kept = keeper === undefined || known !== undefined ? Promise.resolve(known !== undefined) : keeper.write(key, groups, made.data).then(() => true, () => false);
    return new ServingWeights(made.tensors, made.bytes, stored, kept);
  }

  /**
   * The weights of a variant, and its config. A group is shared where all of its sources are the base's and the base has a group of the
   * same sources: inserted copies and layers that moved share too. ADAPTER_INCOMPATIBLE for a name or shape that the variant can't have.
   */
  async vary(
    runtime: Runtime, checkpoint: Checkpoint, form: ServingForm, contextTokens: number, content: VariantContent,
  ): Promise<{ weights: ServingWeights; config: DecoderConfig }> {
    checkVariant(checkpoint, content);
    const { tensors: changed, architecture } = content;
    const config = variantConfig(checkpoint.config, architecture);
    const origin = (source: string): string => variantOrigin(checkpoint.config, architecture, source);
    const read = overlaid((source) => checkpoint.weights.float32(origin(source)), changed);
    const ofBase = servingWeightGroups(checkpoint.config, form, contextTokens, this.stored);
    const own = new Map(ofBase.flatMap((group) => group.tensors.map(({ name }) => [name, group] as const)));
    const made = new Made(runtime);
    const quantized: ReadQuantized = (source) => checkpoint.weights.quantized?.(origin(source));
    const stored = storedLinears(config, form, (source) => (changed.has(source) ? undefined : checkpoint.weights.quantizedAs?.(origin(source))));
    try {
      for (const group of servingWeightGroups(config, form, contextTokens, stored)) {
        const sharing = group.sources.some((source) => changed.has(source)) ? undefined : shared(group, own, origin);
        if (sharing === undefined) await made.add(group, read, quantized);
        else for (const [name, sharedName] of sharing) made.share(name, this.tensors.get(sharedName)!);
      }
    } catch (error) {
      made.dispose();
      throw error;
    }
    return { weights: new ServingWeights(made.tensors, made.bytes, stored), config };
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
  }
}

class Made {
  readonly tensors = new Map<string, Tensor>();
  /** The tensors' elements; tensors that share memory have one object. */
  readonly data = new Map<string, Float32Array | Uint8Array>();
  bytes = 0;

  constructor(private readonly runtime: Runtime) {}

  async add(group: ServingWeightGroup, read: ReadFloat32, quantized: ReadQuantized): Promise<void> {
    const parts = await group.make(read, quantized);
    const adopted = new Map<Float32Array | Uint8Array, Tensor>();
    group.tensors.forEach(({ name, dtype, shape }, i) => {
      const data = parts[i]!;
      const known = adopted.get(data);
      const tensor = known?.view(shape)
        ?? (data.byteLength < ADOPTABLE_BYTES ? this.runtime.from(data, dtype, shape) : this.runtime.adopt(data, dtype, shape));
      if (known === undefined) {
        adopted.set(data, tensor);
        this.bytes += data.byteLength;
      }
      this.tensors.set(name, tensor);
      this.data.set(name, data);
    });
  }

  share(name: string, tensor: Tensor): void {
    this.tensors.set(name, tensor.view(tensor.shape));
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
  }
}

/** The group with its tensors taken from the cache; those that it doesn't keep are made. */
function fromKnown(group: ServingWeightGroup, known: MadeTensors): ServingWeightGroup {
  const parts = group.tensors.map(({ name }) => known.get(name));
  const whole = parts.filter((part) => part !== undefined);
  return whole.length < parts.length ? group : { ...group, make: () => Promise.resolve(whole) };
}

/** Names of the base's tensors by those of a group whose sources are all the base's; undefined where the base has no such group. */
function shared(group: ServingWeightGroup, own: ReadonlyMap<string, ServingWeightGroup>, origin: (source: string) => string): ReadonlyMap<string, string> | undefined {
  const sources = group.sources.map(origin).join();
  const names = new Map<string, string>();
  for (const { name, dtype, shape } of group.tensors) {
    // A layer may be stored in more bits at another place.
    const alike = (group: ServingWeightGroup | undefined, candidate: string): boolean =>
      group?.sources.join() === sources && group.tensors.some((tensor) => tensor.name === candidate && tensor.dtype === dtype && tensor.shape.join() === shape.join());
    const ofBase = [name, origin(name)].find((candidate) => alike(own.get(candidate), candidate));
    if (ofBase === undefined) return undefined;
    names.set(name, ofBase);
  }
  return names;
}

function checkVariant(checkpoint: Checkpoint, { tensors, architecture }: VariantContent): void {
  const { shapes, required } = variantFit(checkpoint.config)(architecture);
  const refuse = (name: string, why: string): LoricaError => new LoricaError('FAILED_PRECONDITION', 'ADAPTER_INCOMPATIBLE', `tensor ${name}: ${why}`);
  for (const name of required) if (!tensors.has(name)) throw refuse(name, 'is missing, and the base has none of its shape');
  for (const [name, { shape }] of tensors) {
    const expected = shapes.get(name);
    if (expected?.join() === shape.join()) continue;
    throw refuse(`${name} [${shape.join(',')}]`, expected === undefined ? 'the base has no such tensor' : `the base's is [${expected.join(',')}]`);
  }
}
