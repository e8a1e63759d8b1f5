/**
 * Constants of a graph: numbers to typed arrays of a dtype, and the key under which equal constants are one.
 * A typed array given by the caller is copied, so that nobody can change a constant afterwards.
 */
import { createHash } from 'node:crypto';
import { DTYPES, type DType, type TypedArray } from '../tensor/dtype.js';
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16, float32ToFloat16 } from '../tensor/half.js';

export type ConstantData = number | readonly number[] | TypedArray;

/** Values as `dtype` stores them; float16 and bfloat16 numbers are rounded, a Uint16Array is taken as their bit patterns. */
export function encodeConstant(data: ConstantData, dtype: DType): TypedArray {
  if (typeof data === 'number') return encodeConstant([data], dtype);
  const bytes = DTYPES[dtype].bytes;
  if (!Array.isArray(data)) {
    const typed = data as TypedArray;
    const expected = DTYPES[dtype].array;
    if (typed.BYTES_PER_ELEMENT !== bytes || typed.constructor.name !== expected.name) {
      throw new RangeError(`a ${typed.constructor.name} does not hold ${dtype}`);
    }
    return typed.slice();
  }
  const numbers = data as readonly number[];
  if (dtype === 'float16') return float32ToFloat16(Float32Array.from(numbers));
  if (dtype === 'bfloat16') return float32ToBfloat16(Float32Array.from(numbers));
  const out = new DTYPES[dtype].array(new ArrayBuffer(numbers.length * bytes));
  numbers.forEach((value, i) => {
    if (out instanceof BigInt64Array || out instanceof BigUint64Array) out[i] = BigInt(value);
    else out[i] = value;
  });
  return out;
}

/** The raw little-endian bytes of a typed array. */
export function rawBytes(data: TypedArray): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Equal for equal dtype, shape and bits. */
export function constantKey(data: TypedArray, dtype: DType, shape: readonly number[]): string {
  return `${dtype}[${shape.join(',')}]${createHash('sha256').update(rawBytes(data)).digest('base64')}`;
}

/** Elements as numbers, for printing and for shape arithmetic. */
export function constantNumbers(data: TypedArray, dtype: DType): number[] {
  if (dtype === 'float16') return Array.from(float16ToFloat32(data as Uint16Array));
  if (dtype === 'bfloat16') return Array.from(bfloat16ToFloat32(data as Uint16Array));
  return Array.from(data as ArrayLike<number | bigint>, Number);
}
