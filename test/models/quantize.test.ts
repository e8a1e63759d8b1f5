import { describe, expect, test } from '@jest/globals';
import { Xoshiro128 } from '../../src/common/random.js';
import { dequantizeInt8, quantizeInt8, QUANTIZATION_BLOCK } from '../../src/models/quantize.js';

function randomWeight(count: number, seed: number): Float32Array {
  const random = new Xoshiro128(seed);
  return Float32Array.from({ length: count }, () => (random.nextUint32() / 2 ** 32 - 0.5) * 0.2);
}

describe('quantizeInt8', () => {
  test('every element is within half a scale of its block, and the largest is exact', async () => {
    const [rows, columns] = [37, 96];
    const weight = randomWeight(rows * columns, 1);
    const quantized = await quantizeInt8(weight, rows, columns);
    const back = dequantizeInt8(quantized);
    for (let i = 0; i < weight.length; i++) {
      const scale = quantized.scales[Math.floor(i / QUANTIZATION_BLOCK)]!;
      expect(Math.abs(back[i]! - weight[i]!)).toBeLessThanOrEqual(scale * 0.5001);
    }
    for (let block = 0; block < quantized.scales.length; block++) {
      const values = weight.subarray(block * 32, block * 32 + 32);
      const largest = values.reduce((m, v) => (Math.abs(v) > Math.abs(m) ? v : m), 0);
      expect(back[block * 32 + values.indexOf(largest)]).toBeCloseTo(largest, 7);
    }
  });

  test('a known block: scale 1 keeps whole numbers', async () => {
    const weight = Float32Array.from({ length: 32 }, (_, i) => (i === 0 ? -127 : i - 16));
    const { values, scales } = await quantizeInt8(weight, 1, 32);
    expect(scales[0]).toBe(1);
    expect([...values]).toEqual([1, ...Array.from({ length: 31 }, (_, i) => 128 + i + 1 - 16)]);
  });

  test('columns that do not fill a block are padded with zero, and a block of zeros stays zero', async () => {
    const weight = new Float32Array(2 * 40);
    weight[0] = 1;
    const quantized = await quantizeInt8(weight, 2, 40);
    expect(quantized.values.length).toBe(2 * 2 * 32);
    expect([...quantized.values.subarray(32 + 8, 64)]).toEqual(new Array(24).fill(128));
    expect([...dequantizeInt8(quantized)]).toEqual([...weight]);
  });

  test('a wrong shape is refused', async () => {
    await expect(quantizeInt8(new Float32Array(10), 2, 4)).rejects.toThrow('[2,4]');
  });
});
