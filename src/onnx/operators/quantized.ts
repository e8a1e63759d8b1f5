/** Quantized weights and products of the serving form. No gradient rules: a training form wraps them in customVjp. */
import type { DType } from '../../tensor/dtype.js';
import { equalShapes, multiplyDims, type Dim } from '../dims.js';
import type { Value } from '../graph.js';
import { axisOf, check, dimAt, floating, int, one, sameDType } from './node.js';

export interface BlockQuantization {
  /** Columns of the weight: inputs of the linear layer. */
  readonly K: number;
  /** Rows of the weight: outputs. */
  readonly N: number;
  readonly bits: 4 | 8;
  readonly blockSize: number;
  /** 0 as the operator likes, 1 float32, 2 float16, 3 bfloat16, 4 int8 arithmetic. */
  readonly accuracyLevel?: number;
}

/**
 * x [...,K] times the transposed weight [N,K], block-quantized along K: `quantized` uint8 [N, K/blockSize, blockSize·bits/8], scales
 * [N·K/blockSize] or [N, K/blockSize]; without zero points the middle of the range is zero. com.microsoft MatMulNBits.
 */
export function matMulNBits(x: Value, quantized: Value, scales: Value, zeroPoints: Value | null, options: BlockQuantization): Value {
  const operator = 'MatMulNBits';
  const { K, N, bits, blockSize, accuracyLevel = 0 } = options;
  floating(operator, x);
  sameDType(operator, x, scales);
  const blocks = Math.ceil(K / blockSize);
  check(x.shape.at(-1) === K, operator, `x does not end in K = ${K}`, x);
  check(
    quantized.dtype === 'uint8' && equalShapes(quantized.shape, [N, blocks, (blockSize * bits) / 8]),
    operator,
    `the weight is not uint8 [${N},${blocks},${(blockSize * bits) / 8}]`,
    quantized,
  );
  check(
    equalShapes(scales.shape, [N * blocks]) || equalShapes(scales.shape, [N, blocks]),
    operator,
    `scales are not [${N * blocks}]`,
    scales,
  );
  const attributes = { K: int(K), N: int(N), bits: int(bits), block_size: int(blockSize), accuracy_level: int(accuracyLevel) };
  const inputs = zeroPoints === null ? [x, quantized, scales] : [x, quantized, scales, zeroPoints];
  return one(x.graph, {
    operator,
    domain: 'com.microsoft',
    inputs,
    output: { dtype: x.dtype, shape: [...x.shape.slice(0, -1), N] },
    attributes,
  });
}

/**
 * Rows of a block-quantized table, dequantized: data uint8 [V, C·bits/8], indices [...], scales [V, C/blockSize] give [..., C].
 * com.microsoft GatherBlockQuantized along axis 0, blocks along the last axis.
 */
export function gatherBlockQuantized(
  data: Value,
  indices: Value,
  scales: Value,
  zeroPoints: Value | null,
  options: { readonly bits: 4 | 8; readonly blockSize: number },
): Value {
  const operator = 'GatherBlockQuantized';
  const { bits, blockSize } = options;
  check(data.dtype === 'uint8' && data.shape.length === 2, operator, 'data is not uint8 [V, C*bits/8]', data);
  floating(operator, scales);
  const width = multiplyDims(8 / bits, dimAt(data, 1));
  check(
    typeof width === 'number' && equalShapes(scales.shape, [dimAt(data, 0), Math.ceil(width / blockSize)]),
    operator,
    'scales are not [V, C/blockSize]',
    data,
    scales,
  );
  const attributes = { gather_axis: int(0), quantize_axis: int(1), block_size: int(blockSize), bits: int(bits) };
  const inputs = zeroPoints === null ? [data, indices, scales] : [data, indices, scales, zeroPoints];
  return one(data.graph, {
    operator,
    domain: 'com.microsoft',
    inputs,
    output: { dtype: scales.dtype, shape: [...indices.shape, width] },
    attributes,
  });
}

/** saturate(round(x / scale) + zeroPoint) in the zero point's dtype; scale and zero point [] or along `axis`. */
export function quantizeLinear(x: Value, scale: Value, zeroPoint: Value, axis = 1): Value {
  const operator = 'QuantizeLinear';
  sameDType(operator, x, scale);
  check(equalShapes(scale.shape, zeroPoint.shape), operator, 'scale and zero point differ in shape', scale, zeroPoint);
  const attributes = scale.shape.length === 0 ? {} : { axis: int(axisOf(operator, axis, x)) };
  return one(x.graph, { operator, inputs: [x, scale, zeroPoint], output: { dtype: zeroPoint.dtype, shape: x.shape }, attributes });
}

/** (x − zeroPoint)·scale. */
export function dequantizeLinear(x: Value, scale: Value, zeroPoint: Value | null, axis = 1): Value {
  const operator = 'DequantizeLinear';
  const attributes = scale.shape.length === 0 ? {} : { axis: int(axisOf(operator, axis, x)) };
  return one(x.graph, {
    operator,
    inputs: zeroPoint === null ? [x, scale] : [x, scale, zeroPoint],
    output: { dtype: scale.dtype, shape: x.shape },
    attributes,
  });
}

/** One scale for the whole tensor, taken from its range: uint8 values, scale [] and zero point []. */
export function dynamicQuantizeLinear(x: Value): { readonly y: Value; readonly scale: Value; readonly zeroPoint: Value } {
  check(x.dtype === 'float32', 'DynamicQuantizeLinear', 'needs float32', x);
  const [y, scale, zeroPoint] = x.graph.emit({
    operator: 'DynamicQuantizeLinear',
    inputs: [x],
    outputs: [
      { dtype: 'uint8', shape: x.shape },
      { dtype: 'float32', shape: [] },
      { dtype: 'uint8', shape: [] },
    ],
  }) as [Value, Value, Value];
  return { y, scale, zeroPoint };
}

/**
 * (a − aZero)·(b − bZero) in int32, times aScale·bScale: a [...,K] and b [K,N] int8 or uint8; scales [] or, for b, [N].
 * com.microsoft MatMulIntegerToFloat.
 */
export function matMulIntegerToFloat(
  a: Value,
  b: Value,
  aScale: Value,
  bScale: Value,
  aZeroPoint: Value | null = null,
  bZeroPoint: Value | null = null,
): Value {
  const operator = 'MatMulIntegerToFloat';
  const eightBit: readonly DType[] = ['int8', 'uint8'];
  check(eightBit.includes(a.dtype) && eightBit.includes(b.dtype), operator, 'needs int8 or uint8 operands', a, b);
  check(b.shape.length === 2 && a.shape.at(-1) === b.shape[0], operator, 'inner dimensions differ', a, b);
  sameDType(operator, aScale, bScale);
  const shape: Dim[] = [...a.shape.slice(0, -1), dimAt(b, 1)];
  const inputs = [a, b, aScale, bScale, ...(bZeroPoint !== null ? [aZeroPoint, bZeroPoint] : aZeroPoint !== null ? [aZeroPoint] : [])];
  return one(a.graph, { operator, domain: 'com.microsoft', inputs, output: { dtype: aScale.dtype, shape } });
}
