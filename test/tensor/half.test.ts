import { describe, expect, test } from '@jest/globals';
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16, float32ToFloat16, toFloat16Bits } from '../../src/tensor/half.js';

const ALL = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

function narrowToWide(name: string, widen: (bits: Uint16Array) => Float32Array, narrow: (values: Float32Array) => Uint16Array): void {
  test(`every ${name} pattern survives widening and narrowing, NaN as a NaN`, () => {
    const wide = widen(ALL);
    const back = narrow(wide);
    for (let bits = 0; bits < 65536; bits++) {
      if (Number.isNaN(wide[bits])) expect(widen(back.subarray(bits, bits + 1))[0]).toBeNaN();
      else if (back[bits] !== bits) throw new Error(`pattern ${bits} came back as ${String(back[bits])}`);
    }
  });
  test(`${name} narrowing rounds to nearest, ties to even, between every two neighbours`, () => {
    const wide = widen(ALL);
    for (let bits = 0; bits < 0x8000; bits++) {
      const low = wide[bits] as number;
      const high = wide[bits + 1] as number;
      if (!Number.isFinite(high) || Number.isNaN(low)) continue;
      const middle = (low + high) / 2;
      const even = bits % 2 === 0 ? bits : bits + 1;
      const at = Float32Array.of(middle);
      if (at[0] !== middle) continue;
      if (narrow(at)[0] !== even) throw new Error(`the tie above pattern ${bits} went to ${String(narrow(at)[0])}`);
      const word = new Uint32Array(at.buffer);
      word[0] = (word[0] as number) + 1;
      if (narrow(at)[0] !== bits + 1) throw new Error(`just above the tie above pattern ${bits} went to ${String(narrow(at)[0])}`);
      word[0] = (word[0]) - 2;
      if (narrow(at)[0] !== bits) throw new Error(`just below the tie above pattern ${bits} went to ${String(narrow(at)[0])}`);
    }
  });
}

describe('half precision', () => {
  narrowToWide('float16', float16ToFloat32, float32ToFloat16);
  narrowToWide('bfloat16', bfloat16ToFloat32, float32ToBfloat16);

  test('known float16 values', () => {
    const known: [number, number][] = [[0x3c00, 1], [0xc000, -2], [0x7bff, 65504], [0x0400, 2 ** -14], [0x0001, 2 ** -24], [0x3555, 0.333251953125], [0x7c00, Infinity], [0x8000, -0]];
    for (const [bits, value] of known) {
      expect(float16ToFloat32(Uint16Array.of(bits))[0]).toBe(value);
      expect(toFloat16Bits(value)).toBe(bits);
    }
    expect(toFloat16Bits(65520)).toBe(0x7c00);
    expect(toFloat16Bits(65519)).toBe(0x7bff);
    expect(toFloat16Bits(1e-8)).toBe(0);
    expect(toFloat16Bits(-1e30)).toBe(0xfc00);
  });

  test('widening writes into a part of a larger array', () => {
    const out = new Float32Array(4);
    bfloat16ToFloat32(Uint16Array.of(0x3f80, 0x4000), out.subarray(1, 3));
    expect([...out]).toEqual([0, 1, 2, 0]);
  });
});
