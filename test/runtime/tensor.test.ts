import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Runtime } from '../../src/runtime/index.js';

let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open();
});
afterAll(() => runtime.close());

const DISPOSED = { code: 'FAILED_PRECONDITION', reason: 'RUNTIME_FAILED' };
const INVALID = { code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' };

/** Runs `action` and gives back what it threw. */
function thrown(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}

describe('tensors', () => {
  test('are zero-filled, 64-byte aligned, in a buffer of their own, whatever their size', () => {
    for (const count of [0, 1, 3, 15, 16, 17, 1000, 100_000]) {
      const tensor = runtime.empty('float32', [count]);
      expect(tensor.address % 64n).toBe(0n);
      expect(tensor.data.buffer.byteLength).toBeGreaterThanOrEqual(64);
      expect(tensor.f32()).toHaveLength(count);
      expect(tensor.f32().every((x) => x === 0)).toBe(true);
    }
    expect(runtime.empty('float32', []).f32()).toHaveLength(1);
    expect(runtime.empty('float32', [4], 'device').where).toBe('host');
  });

  test('from copies and converts; 64-bit integers from numbers', () => {
    const source = Float32Array.of(1, 2, 3);
    const tensor = runtime.from(source, 'float32', [3]);
    source[0] = 9;
    expect([...tensor.f32()]).toEqual([1, 2, 3]);
    expect(runtime.from([1, -2], 'int64', [2]).data).toEqual(BigInt64Array.of(1n, -2n));
    expect(runtime.from(Int32Array.of(1, -2), 'int64', [1, 2]).data).toEqual(BigInt64Array.of(1n, -2n));
    expect(runtime.from([1, 0], 'bool', [2]).data).toEqual(Uint8Array.of(1, 0));
    expect(thrown(() => runtime.from([1, 2], 'float32', [3]))).toMatchObject(INVALID);
  });

  test('shapes that are none are refused', () => {
    for (const shape of [[-1], [1.5], [Number.NaN], [2 ** 40, 2 ** 40], [Infinity]]) {
      expect(thrown(() => runtime.empty('float32', shape))).toMatchObject(INVALID);
    }
    expect(thrown(() => runtime.empty('float32', [2 ** 45]))).toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
  });

  test('f32 is for float32 only', () => {
    expect(thrown(() => runtime.empty('float64', [1]).f32())).toMatchObject(INVALID);
  });

  test('a view shares memory, may not leave it, and outlives its parent', () => {
    const parent = runtime.from([0, 1, 2, 3, 4, 5], 'float32', [2, 3]);
    const row = parent.view([3], 3);
    expect([...row.f32()]).toEqual([3, 4, 5]);
    row.f32()[0] = 7;
    expect(parent.f32()[3]).toBe(7);
    expect([...row.view([2], 1).f32()]).toEqual([4, 5]);
    for (const [shape, offset] of [[[3], 4], [[7], 0], [[1], -1], [[1], 0.5]] as const) {
      expect(thrown(() => parent.view([...shape], offset))).toMatchObject(INVALID);
    }
    expect(thrown(() => row.view([3], 1))).toMatchObject(INVALID);
    parent.dispose();
    expect([...row.f32()]).toEqual([7, 4, 5]);
  });

  test('use after dispose is an error, and a typed array that was kept is empty', () => {
    const tensor = runtime.empty('float32', [8]);
    const kept = tensor.f32();
    tensor.dispose();
    tensor.dispose();
    expect(kept).toHaveLength(0);
    expect(thrown(() => tensor.data)).toMatchObject(DISPOSED);
    expect(thrown(() => tensor.view([1]))).toMatchObject(DISPOSED);
  });

  test('adopt shares the memory given and never detaches it', () => {
    const owner = new Float32Array(64);
    const tensor = runtime.adopt(owner.subarray(8, 24), 'float32', [4, 4]);
    tensor.f32()[0] = 5;
    expect(owner[8]).toBe(5);
    tensor.dispose();
    expect(owner).toHaveLength(64);
    expect(thrown(() => runtime.adopt(new Float32Array(4), 'float32', [4]))).toMatchObject(INVALID);
    expect(thrown(() => runtime.adopt(owner, 'float32', [63]))).toMatchObject(INVALID);
    expect(thrown(() => runtime.adopt(owner, 'int32', [64]))).toMatchObject(INVALID);
    expect(thrown(() => runtime.adopt(new Float32Array(new SharedArrayBuffer(256)), 'float32', [64]))).toMatchObject(INVALID);
  });

  test('a tensor whose buffer somebody transferred away is not used', async () => {
    const owner = new Float32Array(64);
    const tensor = runtime.adopt(owner, 'float32', [64]);
    structuredClone(owner.buffer, { transfer: [owner.buffer] });
    expect(tensor.alive).toBe(false);
    await expect(runtime.copy(tensor, runtime.empty('float32', [64]))).rejects.toMatchObject(DISPOSED);
  });

  test('copy moves all bytes between equal dtypes and counts', async () => {
    const from = runtime.from([1, 2, 3, 4], 'float32', [4]);
    const to = runtime.empty('float32', [2, 2]);
    await runtime.copy(from.view([4]), to);
    expect([...to.f32()]).toEqual([1, 2, 3, 4]);
    await expect(runtime.copy(from, runtime.empty('float32', [5]))).rejects.toMatchObject(INVALID);
    await expect(runtime.copy(from, runtime.empty('int32', [4]))).rejects.toMatchObject(INVALID);
  });
});
