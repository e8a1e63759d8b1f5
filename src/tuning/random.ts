/** What a tuning job draws from its random streams (common/random-streams.ts): orders and initial matrices. */
import type { Xoshiro128 } from '../common/random.js';

/** Shuffles in place (Fisher–Yates). */
export function shuffle<T>(values: T[], random: Xoshiro128): T[] {
  for (let i = values.length - 1; i > 0; i--) {
    const j = random.nextBelow(i + 1);
    [values[i], values[j]] = [values[j]!, values[i]!];
  }
  return values;
}

/** Fills with values uniform in [-bound, bound), each of 32 random bits. */
export function fillUniform(values: Float32Array, bound: number, random: Xoshiro128): Float32Array {
  for (let i = 0; i < values.length; i++) values[i] = (random.nextUint32() / 2 ** 31 - 1) * bound;
  return values;
}
