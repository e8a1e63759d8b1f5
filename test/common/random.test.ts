import { describe, expect, test } from '@jest/globals';
import { splitMix64, uniformAt, Xoshiro128 } from '../../src/common/random.js';

describe('SplitMix64', () => {
  test('gives the published outputs for seed 1234567', () => {
    const expected = [6457827717110365317n, 3203168211198807973n, 9817491932198370423n, 4593380528125082431n, 16408922859458223821n];
    expect(expected.map((_, i) => splitMix64(1234567n, i))).toEqual(expected);
  });

  test('doubles lie in [0, 1) and average one half', () => {
    let sum = 0;
    for (let i = 0; i < 20_000; i++) {
      const u = uniformAt(7n, i);
      expect(u >= 0 && u < 1).toBe(true);
      sum += u;
    }
    expect(Math.abs(sum / 20_000 - 0.5)).toBeLessThan(0.01);
  });
});

/** xoshiro128** written with BigInt straight from its definition, as the reference. */
function reference(state: bigint[], count: number): number[] {
  const rotl = (x: bigint, k: bigint): bigint => ((x << k) | (x >> (32n - k))) & 0xffffffffn;
  const out: number[] = [];
  for (let i = 0; i < count; i++) {
    out.push(Number((rotl((state[1]! * 5n) & 0xffffffffn, 7n) * 9n) & 0xffffffffn));
    const t = (state[1]! << 9n) & 0xffffffffn;
    state[2]! ^= state[0]!;
    state[3]! ^= state[1]!;
    state[1]! ^= state[2]!;
    state[0]! ^= state[3]!;
    state[2]! ^= t;
    state[3] = rotl(state[3]!, 11n);
  }
  return out;
}

describe('xoshiro128**', () => {
  test('agrees with its definition in exact arithmetic', () => {
    const [first, second] = [splitMix64(42n, 0), splitMix64(42n, 1)];
    const state = [first & 0xffffffffn, first >> 32n, second & 0xffffffffn, second >> 32n];
    const generator = new Xoshiro128(42);
    expect(Array.from({ length: 1000 }, () => generator.nextUint32())).toEqual(reference(state, 1000));
  });

  test('bounded draws are uniform (chi-squared over 7 cells below the 0.1% point)', () => {
    const generator = new Xoshiro128(3);
    const counts = new Array<number>(7).fill(0);
    for (let i = 0; i < 70_000; i++) counts[generator.nextBelow(7)]!++;
    const chi = counts.reduce((sum, n) => sum + (n - 10_000) ** 2 / 10_000, 0);
    expect(chi).toBeLessThan(22.46);
  });
});
