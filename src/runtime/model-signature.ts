/** Reads the inputs and outputs of a native session: names, dtypes and shapes with their symbolic dimensions. */
import koffi from 'koffi';
import { LoricaError } from '../common/errors.js';
import { DTYPES, type DType } from '../tensor/dtype.js';
import type { Environment } from './environment.js';
import type { Api } from './library.js';
import { call, create, readNumber } from './status.js';
import type { ValueInfo } from './types.js';

const BY_CODE: ReadonlyMap<number, DType> = new Map(Object.entries(DTYPES).map(([name, { onnx }]) => [onnx, name as DType]));

/** DType of an ONNXTensorElementDataType; throws INVALID_ARGUMENT for one that Lorica has no host type for (strings, 4-bit types). */
export function dtypeOf(code: number, what: string): DType {
  const dtype = BY_CODE.get(code);
  if (dtype === undefined) throw new LoricaError('INVALID_ARGUMENT', 'GRAPH_INVALID', `${what} has element type ${code}, which is not supported`);
  return dtype;
}

/** Reads an allocator-owned C string and frees it. */
export function takeString(environment: Environment, pointer: bigint): string {
  const text = koffi.decode.string(pointer);
  call(environment.api, 'AllocatorFree', environment.defaultAllocator, pointer);
  return text;
}

/** Element type and dimensions (-1 where not fixed) of an OrtTensorTypeAndShapeInfo. */
export function readTensorInfo(api: Api, info: bigint, what: string): { dtype: DType; dims: number[] } {
  const rank = readNumber(api, 'GetDimensionsCount', info);
  const dims = new BigInt64Array(rank + 1);
  call(api, 'GetDimensions', info, dims, rank);
  return { dtype: dtypeOf(readNumber(api, 'GetTensorElementType', info), what), dims: Array.from(dims.subarray(0, rank), Number) };
}

function valueInfo(environment: Environment, name: string, typeInfo: bigint): ValueInfo {
  const { api } = environment;
  try {
    const info = create(api, 'CastTypeInfoToTensorInfo', typeInfo) as bigint | null;
    if (info === null) throw new LoricaError('INVALID_ARGUMENT', 'GRAPH_INVALID', `${name} is not a tensor`);
    const { dtype, dims } = readTensorInfo(api, info, name);
    const symbols = new BigUint64Array(dims.length + 1);
    call(api, 'GetSymbolicDimensions', info, symbols, dims.length);
    const shape = dims.map((dim, axis) => (dim >= 0 ? dim : koffi.decode.string(symbols[axis]) || '?'));
    return { name, dtype, shape };
  } finally {
    api.ReleaseTypeInfo(typeInfo);
  }
}

export function readInputs(environment: Environment, session: bigint): ValueInfo[] {
  const { api } = environment;
  return Array.from({ length: readNumber(api, 'SessionGetInputCount', session) }, (_, i) => {
    const name = takeString(environment, create(api, 'SessionGetInputName', session, i, environment.defaultAllocator));
    return valueInfo(environment, name, create(api, 'SessionGetInputTypeInfo', session, i));
  });
}

export function readOutputs(environment: Environment, session: bigint): ValueInfo[] {
  const { api } = environment;
  return Array.from({ length: readNumber(api, 'SessionGetOutputCount', session) }, (_, i) => {
    const name = takeString(environment, create(api, 'SessionGetOutputName', session, i, environment.defaultAllocator));
    return valueInfo(environment, name, create(api, 'SessionGetOutputTypeInfo', session, i));
  });
}
