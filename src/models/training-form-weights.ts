/**
 * Integer forms of frozen linear weights in the training form: as graph inputs, and what is computed from them. 'int8' and 'int4' hold a
 * weight in less memory and give it back in float32 inside the segment; 'int8ByInput' and 'int8ByOutput' are operands of products of
 * eight-bit integers. The host's side, which makes them, is frozen-weights.ts.
 * Invariant: nothing here is differentiated; a weight that is trained is float32.
 */
import { ops, type Dim, type Graph, type Value } from '../onnx/index.js';
import type { DType } from '../tensor/dtype.js';
import type { LinearModule } from './decoder.js';

/** How a frozen base's linear weights are held while training. */
export type BaseWeightForm = 'float32' | 'int8' | 'int4';
export type IntegerForm = 'int8' | 'int4' | 'int8ByInput' | 'int8ByOutput';

/**
 * Forms in which the frozen weights of a layer come in: 'int8' or 'int4' in the place of float32, or the others beside it, for the products
 * of eight-bit integers that they stand for. A module that is absent has its float32 weight alone.
 */
export type FrozenWeights = ReadonlyMap<LinearModule, readonly IntegerForm[]>;

/** Inputs of one output that share a scale in 'int8' and 'int4'. */
export const FROZEN_BLOCK = 32;
/** What a stored nibble of 'int4' is above its value. */
export const NIBBLE_ZERO = 8;

export interface IntegerShapes {
  readonly dtype: Extract<DType, 'int8' | 'uint8'>;
  readonly values: readonly [number, number];
  readonly scales: readonly number[];
}

/**
 * Shapes for a weight [out, in]. 'int8': values [out, in], scales [out, in/32]. 'int4': uint8 [out/2, in], row n in the low nibbles and row
 * n + out/2 in the high ones, scales [out, in/32]. 'int8ByInput': [out, in] with scales [in]. 'int8ByOutput': [in, out] with scales [out].
 */
export function integerShapes(form: IntegerForm, [out, input]: readonly [number, number]): IntegerShapes {
  switch (form) {
    case 'int8':
      return { dtype: 'int8', values: [out, input], scales: [out, input / FROZEN_BLOCK] };
    case 'int4':
      return { dtype: 'uint8', values: [out / 2, input], scales: [out, input / FROZEN_BLOCK] };
    case 'int8ByInput':
      return { dtype: 'int8', values: [out, input], scales: [input] };
    case 'int8ByOutput':
      return { dtype: 'int8', values: [input, out], scales: [out] };
  }
}

/** The form in which a weight [out, in] is held: float32 where blocks of 32 inputs, or pairs of rows, do not fit it. */
export function heldForm(form: BaseWeightForm, [out, input]: readonly [number, number]): BaseWeightForm {
  return input % FROZEN_BLOCK !== 0 || (form === 'int4' && out % 2 !== 0) ? 'float32' : form;
}

/** Names of the inputs that a form of a weight comes in as. */
export const integerInputs = (weight: string, form: IntegerForm): { readonly values: string; readonly scales: string } => ({
  values: `${weight}.${form}`,
  scales: `${weight}.${form}.scales`,
});

/** Makes the inputs of a weight [out, in]: those of its forms, and float32 where none holds it. */
export function declareWeight(graph: Graph, weight: string, shape: readonly number[], forms: readonly IntegerForm[]): void {
  if (!forms.includes('int8') && !forms.includes('int4')) graph.input(weight, 'float32', shape);
  for (const form of forms) declareInteger(graph, weight, form, shape as readonly [number, number]);
}

function declareInteger(graph: Graph, weight: string, form: IntegerForm, shape: readonly [number, number]): void {
  const names = integerInputs(weight, form);
  const { dtype, values, scales } = integerShapes(form, shape);
  graph.input(names.values, dtype, values);
  graph.input(names.scales, 'float32', scales);
}

/** The float32 weight [out, in] that 'int8' or 'int4' stands for: value · scale of its block. */
export function dequantizedWeight(graph: Graph, weight: string, form: 'int8' | 'int4', [out, input]: readonly [number, number]): Value {
  const { values, scales } = integerInputs(weight, form);
  const integers = form === 'int8' ? ops.cast(graph.value(values), 'float32') : nibbles(ops.cast(graph.value(values), 'float32'));
  const blocks: Dim[] = [out, input / FROZEN_BLOCK, FROZEN_BLOCK];
  return ops.reshape(ops.mul(ops.reshape(integers, blocks), ops.unsqueeze(graph.value(scales), [2])), [out, input]);
}

/** Bytes as float32 [out/2, in] → the signed nibbles [out, in]: all low ones, then all high ones. Exact. */
function nibbles(bytes: Value): Value {
  const high = ops.floor(ops.mul(bytes, 1 / 16));
  const low = ops.sub(bytes, ops.mul(high, 16));
  return ops.sub(ops.concat([low, high], 0), NIBBLE_ZERO);
}

/** Channels of an activation that an eight-bit product leaves to float32. */
const OUTLIERS = 16;
/** Rows of zeros (padding has no gradient) must not divide by zero. */
const LEAST_SCALE = 1e-30;

/** Unsigned values around 128 and a scale for every row [M,1] of a matrix [M,N]: t ≈ (values − 128) · scale, scale = max|t| / 127. */
function quantizedRows(t: Value): { readonly values: Value; readonly scale: Value } {
  const { graph } = t;
  const scale = ops.add(ops.mul(ops.reduceMax(ops.abs(t), [1], true), 1 / 127), LEAST_SCALE);
  const flat = ops.squeeze(scale, [1]);
  const zero = ops.expand(graph.constant([128], 'uint8', [1]), flat);
  return { values: ops.quantizeLinear(t, flat, zero, 0), scale };
}

/** t [M,K] times the integers [K,N] of a form whose scales are [N], in float32. */
function integerProduct(t: Value, values: Value, scales: Value): Value {
  const { graph } = t;
  const rows = quantizedRows(t);
  const product = ops.matMulIntegerToFloat(rows.values, values, graph.constant([1], 'float32', []), scales, graph.constant([128], 'uint8', []));
  return ops.mul(product, rows.scale);
}

/** dz [M,out] · W [out,in] with W as 'int8ByInput'. */
export function integerBackwardProduct(dz: Value, weight: string): Value {
  const { values, scales } = integerInputs(weight, 'int8ByInput');
  return integerProduct(dz, dz.graph.value(values), dz.graph.value(scales));
}

/**
 * x [M,in] · Wᵀ with W as 'int8ByOutput', but for the 16 input channels with the largest elements, which take part in float32
 * (as in LLM.int8(), Dettmers et al. 2022): one such channel would leave the others a few levels of the row's scale.
 */
export function integerForwardProduct(x: Value, weight: Value): Value {
  const { graph } = x;
  const width = x.shape[1] as number;
  const count = Math.min(OUTLIERS, width);
  const largest = ops.reduceMax(ops.abs(x), [0], false);
  const { indices } = ops.topK(largest, count, 0);
  const others = ops.scatterElements(graph.constant(Array.from({ length: width }, () => 1), 'float32', [width]), indices, graph.constant(Array.from({ length: count }, () => 0), 'float32', [count]), 0);
  const { values, scales } = integerInputs(weight.name, 'int8ByOutput');
  const product = integerProduct(ops.mul(x, others), graph.value(values), graph.value(scales));
  return ops.gemm(ops.gather(x, indices, 1), ops.gather(weight, indices, 1), product, { transB: true });
}
