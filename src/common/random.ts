/**
 * The project's pseudo-random numbers, fully specified so that a seed means the same on every machine and in every version.
 * Not for secrets (use node:crypto).
 */

const MASK64 = (1n << 64n) - 1n;
const GOLDEN = 0x9e3779b97f4a7c15n;

/**
 * Output number `index` (from 0) of SplitMix64 (Steele, Lea, Flood 2014) seeded with `seed` modulo 2^64. A counter, not a
 * state: draws can be taken in any order.
 */
export function splitMix64(seed: bigint, index: number): bigint {
  let z = (seed + GOLDEN * (BigInt(index) + 1n)) & MASK64;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK64;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK64;
  return z ^ (z >> 31n);
}

/** splitMix64 as a double in [0, 1) with 53 random bits. */
export function uniformAt(seed: bigint, index: number): number {
  return Number(splitMix64(seed, index) >> 11n) / 2 ** 53;
}

/** xoshiro128** 1.1 (Blackman, Vigna 2018), its state filled from SplitMix64: a fast stream of 32-bit numbers. */
export class Xoshiro128 {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: bigint | number) {
    const first = splitMix64(BigInt(seed), 0);
    const second = splitMix64(BigInt(seed), 1);
    this.#a = Number(first & 0xffffffffn) | 0;
    this.#b = Number(first >> 32n) | 0;
    this.#c = Number(second & 0xffffffffn) | 0;
    this.#d = Number(second >> 32n) | 0;
  }

  /** An integer in [0, 2^32). */
  nextUint32(): number {
    const times5 = Math.imul(this.#b, 5);
    const result = Math.imul((times5 << 7) | (times5 >>> 25), 9) >>> 0;
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result;
  }

  /** An unbiased integer in [0, bound), 1 ≤ bound ≤ 2^32 (rejection of the incomplete last interval). */
  nextBelow(bound: number): number {
    const limit = 2 ** 32 - (2 ** 32 % bound);
    for (;;) {
      const value = this.nextUint32();
      if (value < limit) return value % bound;
    }
  }
}
