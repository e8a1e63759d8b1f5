/**
 * Element types, their ONNX codes and widths, and the typed arrays that hold them on the host.
 * float16 and bfloat16 are stored as their 16-bit patterns in a Uint16Array; bool as one byte.
 */
export type DType =
  | 'float32' | 'float64' | 'float16' | 'bfloat16'
  | 'int8' | 'uint8' | 'int16' | 'uint16' | 'int32' | 'uint32' | 'int64' | 'uint64' | 'bool';

export type TypedArray =
  | Float32Array | Float64Array | Uint16Array | Int16Array | Int8Array | Uint8Array
  | Int32Array | Uint32Array | BigInt64Array | BigUint64Array;

interface DTypeInfo {
  /** onnx.TensorProto.DataType; ONNXTensorElementDataType has the same values for these types. */
  readonly onnx: number;
  readonly bytes: number;
  readonly array: { new (buffer: ArrayBufferLike, byteOffset?: number, length?: number): TypedArray };
}

export const DTYPES: Readonly<Record<DType, DTypeInfo>> = {
  float32: { onnx: 1, bytes: 4, array: Float32Array },
  uint8: { onnx: 2, bytes: 1, array: Uint8Array },
  int8: { onnx: 3, bytes: 1, array: Int8Array },
  uint16: { onnx: 4, bytes: 2, array: Uint16Array },
  int16: { onnx: 5, bytes: 2, array: Int16Array },
  int32: { onnx: 6, bytes: 4, array: Int32Array },
  int64: { onnx: 7, bytes: 8, array: BigInt64Array },
  bool: { onnx: 9, bytes: 1, array: Uint8Array },
  float16: { onnx: 10, bytes: 2, array: Uint16Array },
  float64: { onnx: 11, bytes: 8, array: Float64Array },
  uint32: { onnx: 12, bytes: 4, array: Uint32Array },
  uint64: { onnx: 13, bytes: 8, array: BigUint64Array },
  bfloat16: { onnx: 16, bytes: 2, array: Uint16Array },
};

/** Number of elements of a concrete shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** Bytes of a concrete shape of `dtype`. */
export function byteLength(dtype: DType, shape: readonly number[]): number {
  return elementCount(shape) * DTYPES[dtype].bytes;
}
