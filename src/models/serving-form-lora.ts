/**
 * LoRA in the serving form: where an adapter's matrices lie in memory and how they enter a graph, y += (x·Aᵀ)·B with the scaling
 * folded into B (Hu et al. 2021).
 * Two shapes of graph inputs. `shared`: one adapter for all rows, A [R,in] and B [R,out] per module, straight from where the adapter
 * lives. `rows`: one token a row, each row with its own adapter, stacked so that a merged layer needs two products.
 * Invariant: a module that an adapter does not touch is zero, and a rank below the batch's is padded with zeros; neither changes y.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ops, type Graph, type Value } from '../onnx/index.js';
import type { DecoderConfig } from './config.js';
import { mergedLinears, type MergedLinear } from './serving-form-weights.js';

/** How adapters enter a graph. */
export type AdapterForm = 'none' | 'shared' | 'rows';

/** What packing needs of an adapter's module; a is [rank,in], b is [out,rank]. */
export interface LoraMatrices {
  readonly rank: number;
  readonly scaling: number;
  readonly a: Float32Array;
  readonly b: Float32Array;
}

/** A tensor of a packed adapter: where it starts and its shape at the packed rank. */
export interface LoraTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Elements. */
  readonly offset: number;
}

/** Elements. */
const ALIGNMENT = 16;
/** About 2 ms of packing between turns of the event loop. */
const ELEMENTS_PER_TURN = 1 << 19;

/** Graph input names of `shared`. */
export const loraAName = (module: string): string => `${module}.lora_A`;
export const loraBName = (module: string): string => `${module}.lora_B`;
/** Graph input names of `rows`, per merged layer. */
export const stackedAName = (linear: string): string => `${linear}.lora_A`;
export const stackedBName = (linear: string): string => `${linear}.lora_B`;

/** All linear modules of the model, by full name, with their sizes. */
export function loraModules(config: DecoderConfig): readonly { module: string; inputs: number; outputs: number }[] {
  return Array.from({ length: config.layers }, (_, layer) =>
    Object.values(mergedLinears(config, layer)).flatMap((linear) =>
      linear.modules.map((module, i) => ({ module, inputs: linear.inputs, outputs: linear.outputs[i]! })))).flat();
}

/** Where the matrices of a packed adapter of this rank lie: per module A [rank,in], then B [rank,out], each aligned to 64 bytes. */
export function loraLayout(config: DecoderConfig, rank: number): { tensors: readonly LoraTensor[]; elements: number } {
  const tensors: LoraTensor[] = [];
  let offset = 0;
  const place = (name: string, shape: readonly number[]): void => {
    tensors.push({ name, shape, offset });
    offset += Math.ceil((shape[0]! * shape[1]!) / ALIGNMENT) * ALIGNMENT;
  };
  for (const { module, inputs, outputs } of loraModules(config)) {
    place(loraAName(module), [rank, inputs]);
    place(loraBName(module), [rank, outputs]);
  }
  return { tensors, elements: offset };
}

/** Packs an adapter into `target` (zero-filled, `loraLayout(config, rank).elements` long): b transposed, scaling folded in; yields to the event loop. */
export async function packLora(config: DecoderConfig, rank: number, modules: ReadonlyMap<string, LoraMatrices>, target: Float32Array): Promise<void> {
  const places = new Map(loraLayout(config, rank).tensors.map((tensor) => [tensor.name, tensor.offset]));
  let packed = 0;
  for (const { module, outputs } of loraModules(config)) {
    const matrices = modules.get(module);
    if (matrices === undefined) continue;
    target.set(matrices.a, places.get(loraAName(module)));
    const at = places.get(loraBName(module))!;
    for (let out = 0; out < outputs; out++) {
      for (let r = 0; r < matrices.rank; r++) target[at + r * outputs + out] = matrices.b[out * matrices.rank + r]! * matrices.scaling;
    }
    packed += outputs * matrices.rank;
    if (packed > ELEMENTS_PER_TURN) {
      packed = 0;
      await nextTurn();
    }
  }
}

/** A stacked input of `rows` for one row: A [modules·R, in] or B [blocks, R, width], [R, out] where there is one block. */
export interface StackedTensor {
  readonly name: string;
  readonly kind: 'A' | 'B';
  readonly linear: MergedLinear;
  /** Without the leading dimension of rows. */
  readonly shape: readonly number[];
}

/** Width of the blocks that the outputs of a merged layer's modules are cut into: the largest that divides them all. */
export function blockWidth(linear: MergedLinear): number {
  return linear.outputs.reduce(greatestCommonDivisor);
}

/** The stacked inputs of `rows` at a rank, layer by layer. */
export function stackedTensors(config: DecoderConfig, rank: number): readonly StackedTensor[] {
  return Array.from({ length: config.layers }, (_, layer) =>
    Object.values(mergedLinears(config, layer)).flatMap((linear): StackedTensor[] => {
      const blocks = linear.outputs.reduce((total, outputs) => total + outputs / blockWidth(linear), 0);
      return [
        { name: stackedAName(linear.name), kind: 'A', linear, shape: [linear.modules.length * rank, linear.inputs] },
        { name: stackedBName(linear.name), kind: 'B', linear, shape: blocks === 1 ? [rank, blockWidth(linear)] : [blocks, rank, blockWidth(linear)] },
      ];
    })).flat();
}

/**
 * Copies one row of one stacked tensor out of a packed adapter. `source` is the packed adapter with its layout's offsets by name
 * and its rank (at most `rank`); `target` is the row's part, wholly overwritten.
 */
export function fillStacked(tensor: StackedTensor, rank: number, source: Float32Array, sourceRank: number, offsets: ReadonlyMap<string, number>, target: Float32Array): void {
  if (sourceRank < rank) target.fill(0);
  const { linear } = tensor;
  if (tensor.kind === 'A') {
    linear.modules.forEach((module, i) => {
      const from = offsets.get(loraAName(module))!;
      target.set(source.subarray(from, from + sourceRank * linear.inputs), i * rank * linear.inputs);
    });
    return;
  }
  const width = blockWidth(linear);
  let block = 0;
  linear.modules.forEach((module, i) => {
    const from = offsets.get(loraBName(module))!;
    const outputs = linear.outputs[i]!;
    for (let column = 0; column < outputs; column += width, block++) {
      const to = block * rank * width;
      if (width === outputs) target.set(source.subarray(from, from + sourceRank * width), to);
      else for (let r = 0; r < sourceRank; r++) target.set(source.subarray(from + r * outputs + column, from + r * outputs + column + width), to + r * width);
    }
  });
}

/** Declares the adapter inputs of one merged layer and adds its product: x [B,T,K], base [B,T,N]. R is the symbolic rank. */
export function withLora(graph: Graph, form: AdapterForm, linear: MergedLinear, x: Value, base: Value): Value {
  if (form === 'none') return base;
  return form === 'shared' ? ops.add(base, sharedDelta(graph, linear, x)) : ops.add(base, rowsDelta(graph, linear, x));
}

function sharedDelta(graph: Graph, linear: MergedLinear, x: Value): Value {
  const parts = linear.modules.map((module, i) => {
    const a = graph.input(loraAName(module), 'float32', ['R', linear.inputs]);
    const b = graph.input(loraBName(module), 'float32', ['R', linear.outputs[i]!]);
    return ops.matMul(ops.fusedMatMul(x, a, { transB: true }), b);
  });
  return ops.concat(parts, -1);
}

/** x [B,1,K]: all modules' x·Aᵀ in one product, then each block of outputs with its module's R values. */
function rowsDelta(graph: Graph, linear: MergedLinear, x: Value): Value {
  const modules = linear.modules.length;
  const width = blockWidth(linear);
  const owner = linear.outputs.flatMap((outputs, i) => new Array<number>(outputs / width).fill(i));
  const a = graph.input(stackedAName(linear.name), 'float32', ['B', modules === 1 ? 'R' : `${modules}*R`, linear.inputs]);
  const b = graph.input(stackedBName(linear.name), 'float32', owner.length === 1 ? ['B', 'R', width] : ['B', owner.length, 'R', width]);
  const low = ops.fusedMatMul(x, a, { transB: true });
  if (owner.length === 1) return ops.matMul(low, b);
  const split = ops.reshape(low, ['B', modules, 1, 'R']);
  const perBlock = owner.length === modules ? split : ops.gather(split, graph.constant(owner, 'int64'), 1);
  return ops.reshape(ops.matMul(perBlock, b), ['B', 1, owner.length * width]);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
