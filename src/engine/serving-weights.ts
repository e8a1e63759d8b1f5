/**
 * The weights of one serving model as tensors of the runtime, by initializer name. A variant holds its own tensors for the groups
 * that it changes and views of the base's for all others. Owns the memory; sessions keep what they use alive by themselves.
 */
import type { AdapterContent } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import type { Checkpoint } from '../models/checkpoint.js';
import { weightShapes } from '../models/config.js';
import { checkServable } from '../models/serving-form.js';
import { overlaid, servingWeightGroups, type ServingForm, type ServingWeightGroup } from '../models/serving-form-weights.js';
import type { Runtime, Tensor } from '../runtime/index.js';

/** A variant's tensors by their Hugging Face names. */
export type ChangedTensors = Extract<AdapterContent, { kind: 'variant' }>['tensors'];

/** Buffers below this are copied: small typed arrays may lie on the moving heap. */
const ADOPTABLE_BYTES = 64;

export class ServingWeights {
  /** Bytes that only this model holds. */
  readonly ownBytes: number;
  readonly tensors: ReadonlyMap<string, Tensor>;

  private constructor(tensors: ReadonlyMap<string, Tensor>, ownBytes: number) {
    this.tensors = tensors;
    this.ownBytes = ownBytes;
  }

  /** An abort ends it between two tensors with the signal's reason. */
  static async load(runtime: Runtime, checkpoint: Checkpoint, form: ServingForm, contextTokens: number, signal?: AbortSignal): Promise<ServingWeights> {
    checkServable(checkpoint.config);
    const made = new Made(runtime);
    for (const group of servingWeightGroups(checkpoint.config, form, contextTokens)) {
      signal?.throwIfAborted();
      await made.add(group, (source) => checkpoint.weights.float32(source));
    }
    signal?.throwIfAborted();
    return new ServingWeights(made.tensors, made.bytes);
  }

  /** The weights with some of the checkpoint's tensors replaced. ADAPTER_INCOMPATIBLE for a name or shape that the base hasn't. */
  async vary(
    runtime: Runtime, checkpoint: Checkpoint, form: ServingForm, contextTokens: number, changed: ChangedTensors,
  ): Promise<ServingWeights> {
    checkVariant(checkpoint, changed);
    const made = new Made(runtime);
    const read = overlaid((source) => checkpoint.weights.float32(source), changed);
    try {
      for (const group of servingWeightGroups(checkpoint.config, form, contextTokens)) {
        if (group.sources.some((source) => changed.has(source))) await made.add(group, read);
        else for (const { name } of group.tensors) made.share(name, this.tensors.get(name)!);
      }
    } catch (error) {
      made.dispose();
      throw error;
    }
    return new ServingWeights(made.tensors, made.bytes);
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
  }
}

class Made {
  readonly tensors = new Map<string, Tensor>();
  bytes = 0;

  constructor(private readonly runtime: Runtime) {}

  async add(group: ServingWeightGroup, read: (source: string) => Promise<Float32Array>): Promise<void> {
    const parts = await group.make(read);
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
    });
  }

  share(name: string, tensor: Tensor): void {
    this.tensors.set(name, tensor.view(tensor.shape));
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
  }
}

function checkVariant(checkpoint: Checkpoint, changed: ChangedTensors): void {
  const shapes = weightShapes(checkpoint.config);
  for (const [name, tensor] of changed) {
    const expected = shapes.get(name);
    if (expected?.join() === tensor.shape.join()) continue;
    const why = expected === undefined ? 'the base has no such tensor' : `the base's is [${expected.join(',')}]`;
    throw new LoricaError('FAILED_PRECONDITION', 'ADAPTER_INCOMPATIBLE', `tensor ${name} [${tensor.shape.join(',')}]: ${why}`);
  }
}
