/**
 * Random streams of a tuning job: one stream per purpose, derived from the job's seed and a label, so that what one consumer
 * draws (the order of rows, say) never changes what another gets (a module's initial matrix). The numbers are common/random.ts's.
 */
import { createHash } from 'node:crypto';
import { Xoshiro128 } from '../common/random.js';

/** The stream of `seed` for one purpose, such as 'shuffle/0' or a module's name: seeded with the first 8 bytes of SHA-256('seed:label'). */
export function randomStream(seed: number, label: string): Xoshiro128 {
  return new Xoshiro128(createHash('sha256').update(`${seed}:${label}`).digest().readBigUInt64LE());
}

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
