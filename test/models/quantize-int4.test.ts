import { describe, expect, test } from '@jest/globals';
import { Xoshiro128 } from '../../src/common/random.js';
import { dequantizeInt4, INT4_BLOCK, quantizeInt4 } from '../../src/models/quantize-int4.js';

// A global looked up in a hot loop is slow in jest's realm.
const { abs } = Math;

function randomWeight(count: number, seed: number): Float32Array {
  const random = new Xoshiro128(seed);
  return Float32Array.from({ length: count }, () => (random.nextUint32() / 2 ** 32 - 0.5) * 0.2);
}

describe('quantizeInt4', () => {
  test('the element that is largest by magnitude is exact; others are within half a step, a whole one beyond the seventh', async () => {
    const [rows, columns] = [29, 96];
    const weight = randomWeight(rows * columns, 3);
    const quantized = await quantizeInt4(weight, rows, columns);
    const back = dequantizeInt4(quantized);
    for (let block = 0; block < quantized.scales.length; block++) {
      const from = block * INT4_BLOCK;
      const step = abs(quantized.scales[block]!);
      const values = weight.subarray(from, from + INT4_BLOCK);
      const largest = values.reduce((m, v) => (abs(v) > abs(m) ? v : m), 0);
      expect(back[from + values.indexOf(largest)]).toBeCloseTo(largest, 7);
      values.forEach((value, i) => {
        const clipped = value / quantized.scales[block]! > 7.5;
        expect(abs(back[from + i]! - value)).toBeLessThanOrEqual(step * (clipped ? 1.0001 : 0.5001));
      });
    }
  });

  test('a known block: whole numbers from -8 to 7, the earlier of two in the low half', async () => {
    const weight = Float32Array.from({ length: 32 }, (_, i) => (i % 16) - 8);
    const { values, scales } = await quantizeInt4(weight, 1, 32);
    expect([...scales]).toEqual([1]);
    expect([...values]).toEqual([...Array.from({ length: 8 }, (_, i) => 2 * i + 16 * (2 * i + 1)), ...Array.from({ length: 8 }, (_, i) => 2 * i + 16 * (2 * i + 1))]);
    expect(dequantizeInt4({ rows: 1, columns: 32, values, scales })).toEqual(weight);
  });

  test('the last block of a row is padded with the value that means zero, an odd row too; zeros stay zeros', async () => {
    const columns = 35;
    const weight = Float32Array.from({ length: 2 * columns }, (_, i) => (i >= columns ? 0 : i % 8 === 0 ? -8 : 1));
    const quantized = await quantizeInt4(weight, 2, columns);
    expect(quantized.values).toHaveLength(2 * 2 * 16);
    expect([...quantized.values.subarray(16, 32)].slice(2)).toEqual(new Array(14).fill(0x88));
    expect(quantized.values[17]! >> 4).toBe(8);
    expect([...quantized.scales].map((scale) => scale === 0)).toEqual([false, false, true, true]);
    expect(dequantizeInt4(quantized)[32]).toBe(-8);
    expect([...dequantizeInt4(quantized).subarray(columns)].every((value) => value === 0)).toBe(true);
  });

  test('the error of normally distributed weights is that of the step', async () => {
    const random = new Xoshiro128(8);
    const uniform = (): number => (random.nextUint32() + 0.5) / 2 ** 32;
    const weight = Float32Array.from({ length: 512 * 64 }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
    const back = dequantizeInt4(await quantizeInt4(weight, 512, 64));
    let squares = 0;
    for (let i = 0; i < weight.length; i++) squares += (weight[i]! - back[i]!) ** 2;
    const error = Math.sqrt(squares / weight.length);
    // A step is about 2.1 / 8 standard deviations, so a rounding error about 0.26 / √12.
    expect(error).toBeGreaterThan(0.06);
    expect(error).toBeLessThan(0.1);
  });

  test('a weight of another size is refused', async () => {
    await expect(quantizeInt4(new Float32Array(10), 2, 4)).rejects.toThrow('[2,4]');
  });
});
