/**
 * A tensor: a dtype, a concrete row-major shape, and a place in counted memory on the host or the device.
 * Invariant: byteLength bytes from its address are valid as long as it is not disposed. A host tensor holds nothing native, so
 * one that is dropped instead of disposed is only collected later. Must not run anything.
 */
import { LoricaError, invalidFields } from '../common/errors.js';
import { DTYPES, byteLength, elementCount, type DType, type TypedArray } from '../tensor/dtype.js';
import { HostStorage, type Storage } from './host-memory.js';

/** Throws INVALID_ARGUMENT unless every dimension is a non-negative safe integer and the product is one too. */
export function checkShape(shape: readonly number[], what = 'shape'): void {
  const valid = shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0) && Number.isSafeInteger(elementCount(shape) * 8);
  if (!valid) throw invalidFields([{ field: what, description: `[${shape.join(',')}] is not a shape: dimensions are non-negative integers` }]);
}

export function describe(tensor: { dtype: DType; shape: readonly (number | string)[] }): string {
  return `${tensor.dtype} [${tensor.shape.join(',')}]`;
}

export class Tensor {
  readonly byteLength: number;
  private array: TypedArray | undefined;
  private disposed = false;

  /** Takes over one reference of `storage`. Made by Runtime and by `view`. */
  constructor(readonly storage: Storage, readonly dtype: DType, readonly shape: readonly number[], private readonly byteOffset = 0) {
    this.byteLength = byteLength(dtype, shape);
  }

  get where(): 'host' | 'device' {
    return this.storage.where;
  }

  /** False once disposed, or once the buffer under it was detached by somebody. */
  get alive(): boolean {
    return !this.disposed && this.storage.alive;
  }

  /** Address of the first element. Only for native calls made while the storage is retained. */
  get address(): bigint {
    return this.storage.address + BigInt(this.byteOffset);
  }

  /** The elements, host only, without a copy; empty after `dispose`. float16 and bfloat16 are bit patterns, bool is bytes. */
  get data(): TypedArray {
    this.assertAlive('data');
    if (this.array === undefined) {
      if (!(this.storage instanceof HostStorage)) {
        throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_FAILED', `a device tensor (${describe(this)}) has no data on the host; copy it first`);
      }
      const { bytes } = this.storage;
      this.array = new DTYPES[this.dtype].array(bytes.buffer, bytes.byteOffset + this.byteOffset, elementCount(this.shape));
    }
    return this.array;
  }

  /** `data` of a float32 tensor. */
  f32(): Float32Array {
    if (this.dtype !== 'float32') throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `expected a float32 tensor, got ${describe(this)}`);
    return this.data as Float32Array;
  }

  /** A tensor over the same memory, `elementOffset` elements further on. It keeps the memory alive by itself. */
  view(shape: readonly number[], elementOffset = 0): Tensor {
    this.assertAlive('view');
    checkShape(shape);
    const total = elementCount(this.shape);
    if (!Number.isSafeInteger(elementOffset) || elementOffset < 0 || elementOffset + elementCount(shape) > total) {
      throw invalidFields([{ field: 'shape', description: `a view [${shape.join(',')}] at ${elementOffset} leaves the ${total} elements of ${describe(this)}` }]);
    }
    this.storage.retain();
    return new Tensor(this.storage, this.dtype, [...shape], this.byteOffset + elementOffset * DTYPES[this.dtype].bytes);
  }

  /** Gives the memory back when no view and no run uses it any more. Disposing twice is allowed. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.array = undefined;
    this.storage.release();
  }

  assertAlive(use: string): void {
    if (!this.alive) {
      throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_FAILED', `${use}: the tensor ${describe(this)} is disposed or its buffer was detached`);
    }
  }
}
