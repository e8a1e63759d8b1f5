/**
 * The tensors of an edited model: which are the base's under another name, and the data of those that are not. Invariants: base
 * tensors are never copied or written to; inserted layers and grown neurons add exactly nothing to the residual stream.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LoricaError } from '../common/errors.js';
import { gaussian, labelledStream } from '../common/random-streams.js';
import { activationImportance, leastImportant, magnitudeImportance } from './architecture-importance.js';
import { planArchitecture, type ArchitecturePlan, type LayerPlan } from './architecture-plan.js';
import type { ArchitectureEdits, ArchitectureMeasurements } from './architecture-types.js';
import { familyOf, feedForwardSize, normShapes, weightShapes, type DecoderConfig } from './config.js';
import { layerPrefix } from './decoder.js';

/** Weights by Hugging Face name, as a checkpoint's WeightSource has them; linear weights are [out,in]. */
export interface WeightsByName {
  float32(name: string): Promise<Float32Array>;
}

export interface EditedModel extends ArchitecturePlan {
  /** Every tensor of the edited model. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Tensors that are the base's as they are: name in the edited model → name in the base. Several may share one. */
  readonly unchanged: ReadonlyMap<string, string>;
  /** All others. Two names may share one array: copy before writing. */
  readonly made: ReadonlyMap<string, Float32Array>;
}

export interface EditArchitectureInput {
  readonly config: DecoderConfig;
  readonly edits: ArchitectureEdits;
  readonly weights: WeightsByName;
  readonly measured?: ArchitectureMeasurements;
  readonly seed: number;
  readonly signal?: AbortSignal;
}

/** What adds to the stream: zero in an inserted layer. */
const OUTPUT_MODULES: readonly string[] = ['self_attn.o_proj', 'mlp.down_proj'];

/** Applies edits. Throws INVALID_FIELD with paths below `path` as `planArchitecture`, CANCELLED, and what reading weights throws. */
export async function editArchitecture(input: EditArchitectureInput, path = 'architecture'): Promise<EditedModel> {
  const plan = planArchitecture(input.config, input.edits, input.measured, path);
  const shapes = weightShapes(plan.config);
  const unchanged = new Map<string, string>();
  const made = new Map<string, Float32Array>();
  const maker = new TensorMaker(input);
  const names = new Map<string, string[]>();
  for (const name of shapes.keys()) {
    const match = /^(model\.layers\.\d+)\./.exec(name);
    if (match === null) unchanged.set(name, name);
    else names.set(match[1]!, [...(names.get(match[1]!) ?? []), name]);
  }
  for (const [index, layer] of plan.layers.entries()) {
    for (const name of names.get(layerPrefix(index))!) {
      const local = name.slice(layerPrefix(index).length + 1);
      const data = await maker.make(layer, local, shapes.get(name)!, name);
      if (data === undefined) unchanged.set(name, `${layerPrefix(layer.base)}.${local}`);
      else made.set(name, data);
    }
  }
  return { ...plan, shapes, unchanged, made };
}

/** Weights of the edited model by name, read from the base where they are its own; each in memory of its own. */
export function editedWeights(base: WeightsByName, edited: Pick<EditedModel, 'shapes' | 'unchanged' | 'made'>): WeightsByName & { names(): string[]; shape(name: string): readonly number[] } {
  const unknown = (name: string): LoricaError => new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `the edited model has no tensor "${name}"`);
  return {
    names: () => [...edited.shapes.keys()],
    shape(name) {
      const shape = edited.shapes.get(name);
      if (shape === undefined) throw unknown(name);
      return shape;
    },
    async float32(name) {
      const origin = edited.unchanged.get(name);
      if (origin !== undefined) return base.float32(origin);
      const data = edited.made.get(name);
      if (data === undefined) throw unknown(name);
      return data.slice();
    },
  };
}

class TensorMaker {
  /** Data of width-edited tensors by base name, shared by a layer and its copies. */
  private readonly resized = new Map<string, Float32Array>();
  /** Neurons that stay, ascending, by layer of the base. */
  private readonly kept = new Map<number, readonly number[]>();

  constructor(private readonly input: EditArchitectureInput) {}

  /** Data of a tensor of the new layer, or undefined where it is the base layer's. `local` is its name inside the layer. */
  async make(layer: LayerPlan, local: string, shape: readonly number[], name: string): Promise<Float32Array | undefined> {
    const { signal } = this.input;
    if (signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', 'editing the architecture was cancelled', { cause: signal.reason });
    const count = shape.reduce((product, size) => product * size, 1);
    if (layer.inserted !== false) {
      const module = local.slice(0, local.lastIndexOf('.'));
      if (OUTPUT_MODULES.includes(module) || (layer.inserted === 'fresh' && local.endsWith('.bias'))) return new Float32Array(count);
      // A gain that is one plus its weight begins at one with zeros.
      if (layer.inserted === 'fresh') return normShapes(this.input.config).has(local) ? new Float32Array(count).fill(familyOf(this.input.config).norm === 'rmsPlusOne' ? 0 : 1) : this.fresh(layer, local, count, name);
    }
    const { added, removed } = layer.feedForward;
    if (!local.startsWith('mlp.') || added + removed === 0) return undefined;
    if (local === 'mlp.down_proj.bias') return undefined;
    const origin = `${layerPrefix(layer.base)}.${local}`;
    const known = this.resized.get(origin);
    if (known !== undefined) return known;
    const data = removed > 0 ? await this.pruned(layer, local) : await this.grown(layer, local, origin);
    this.resized.set(origin, data);
    return data;
  }

  private base(layer: LayerPlan, local: string): Promise<Float32Array> {
    return this.input.weights.float32(`${layerPrefix(layer.base)}.${local}`);
  }

  private async fresh(layer: LayerPlan, local: string, count: number, name: string): Promise<Float32Array> {
    return this.normal(new Float32Array(count), 0, rootMeanSquare(await this.base(layer, local)), name);
  }

  /** Fills `values` from `start` with normal numbers of the stream that belongs to `label`. */
  private async normal(values: Float32Array, start: number, deviation: number, label: string): Promise<Float32Array> {
    const draw = gaussian(labelledStream(this.input.seed, `architecture/${label}`));
    for (let i = start; i < values.length; i++) {
      values[i] = draw() * deviation;
      if (i % (1 << 18) === 0) await nextTurn();
    }
    return values;
  }

  /** gate, up [F,C] and their biases [F] get rows behind; down [C,F] gets zero columns behind. */
  private async grown(layer: LayerPlan, local: string, origin: string): Promise<Float32Array> {
    const old = await this.base(layer, local);
    const { added } = layer.feedForward;
    const size = feedForwardSize(this.input.config, layer.base);
    const larger = new Float32Array((old.length / size) * (size + added));
    if (local === 'mlp.down_proj.weight') {
      for (let row = 0; row < old.length / size; row++) larger.set(old.subarray(row * size, (row + 1) * size), row * (size + added));
      return larger;
    }
    larger.set(old);
    return local.endsWith('.bias') ? larger : this.normal(larger, old.length, rootMeanSquare(old), origin);
  }

  private async pruned(layer: LayerPlan, local: string): Promise<Float32Array> {
    const old = await this.base(layer, local);
    const kept = await this.keptNeurons(layer);
    const size = feedForwardSize(this.input.config, layer.base);
    const width = old.length / size;
    const smaller = new Float32Array(width * kept.length);
    if (local === 'mlp.down_proj.weight') {
      for (let row = 0, to = 0; row < width; row++) for (const neuron of kept) smaller[to++] = old[row * size + neuron]!;
    } else {
      for (const [to, neuron] of kept.entries()) smaller.set(old.subarray(neuron * width, (neuron + 1) * width), to * width);
    }
    return smaller;
  }

  private async keptNeurons(layer: LayerPlan): Promise<readonly number[]> {
    const known = this.kept.get(layer.base);
    if (known !== undefined) return known;
    const size = feedForwardSize(this.input.config, layer.base);
    const down = await this.base(layer, 'mlp.down_proj.weight');
    const scores = layer.feedForward.importance === 'activation'
      ? activationImportance(this.input.measured!.neuronActivity!.get(layer.base)!, down, size)
      : magnitudeImportance(familyOf(this.input.config).gated ? await this.base(layer, 'mlp.gate_proj.weight') : undefined, await this.base(layer, 'mlp.up_proj.weight'), down, size);
    const gone = new Set(leastImportant(scores, layer.feedForward.removed));
    const kept = Array.from({ length: size }, (_, i) => i).filter((neuron) => !gone.has(neuron));
    this.kept.set(layer.base, kept);
    return kept;
  }
}

/** 0.02, the usual deviation of fresh weights, for a matrix of zeros. */
function rootMeanSquare(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return sum > 0 ? Math.sqrt(sum / values.length) : 0.02;
}
