/**
 * A tensor in host memory: element type, shape and the typed array that holds it, row-major and dense. A plain value: it owns
 * nothing native, knows no runtime and is never resized.
 */
import { DTYPES, elementCount, type DType, type TypedArray } from './dtype.js';
import { bfloat16ToFloat32, float16ToFloat32 } from './half.js';
import { LoricaError } from '../common/errors.js';

export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** `elementCount(shape)` elements; float16 and bfloat16 as bit patterns in a Uint16Array. */
  readonly data: TypedArray;
}

/** Makes a tensor of `shape` over `data` (shared, not copied). Throws GRAPH_INVALID when length or array type disagree with dtype and shape. */
export function hostTensor(dtype: DType, shape: readonly number[], data: TypedArray): HostTensor {
  const expected = DTYPES[dtype].array.name;
  if (data.constructor.name !== expected) {
    throw new LoricaError('INTERNAL', 'GRAPH_INVALID', `a ${dtype} tensor needs a ${expected}, not a ${data.constructor.name}`);
  }
  if (data.length !== elementCount(shape)) {
    throw new LoricaError('INTERNAL', 'GRAPH_INVALID', `shape [${shape.join(',')}] has ${elementCount(shape)} elements, the array ${data.length}`);
  }
  return { dtype, shape, data };
}

/** The values of a floating point tensor (float32, float64, float16, bfloat16) as float32; float32 data is returned as it is, not copied. */
export function toFloat32(tensor: HostTensor): Float32Array {
  switch (tensor.dtype) {
    case 'float32':
      return tensor.data as Float32Array;
    case 'float64':
      return Float32Array.from(tensor.data as Float64Array);
    case 'float16':
      return float16ToFloat32(tensor.data as Uint16Array);
    case 'bfloat16':
      return bfloat16ToFloat32(tensor.data as Uint16Array);
    default:
      throw new LoricaError('INVALID_ARGUMENT', 'MODEL_UNSUPPORTED', `a ${tensor.dtype} tensor can't be read as float32`);
  }
}
