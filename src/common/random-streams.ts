/**
 * Streams of random numbers, one per purpose, so that what one consumer draws never changes what another gets, and normally
 * distributed numbers from them. Reproducible by seed; not for secrets.
 */
import { createHash } from 'node:crypto';
import { Xoshiro128 } from './random.js';

/** The stream of `seed` for one purpose, such as a tensor's name: seeded with the first 8 bytes of SHA-256('seed:label'). */
export function labelledStream(seed: number, label: string): Xoshiro128 {
  return new Xoshiro128(createHash('sha256').update(`${seed}:${label}`).digest().readBigUInt64LE());
}

/** Draws from the standard normal distribution (Box & Muller 1958), two numbers of the stream each. */
export function gaussian(random: Xoshiro128): () => number {
  const uniform = (): number => (random.nextUint32() + 0.5) / 2 ** 32;
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}
