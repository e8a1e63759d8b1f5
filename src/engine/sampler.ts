/**
 * From a row of logits to a token. Temperature, then top-k (Fan et al. 2018), then top-p (Holtzman et al. 2020) over what top-k left;
 * the draw comes from SplitMix64 with the sequence's seed and the token's number, so it does not depend on batch mates.
 * Runs on the event loop between two steps: a row of 49,152 logits must cost well under a millisecond, whatever the settings.
 */
import { LoricaError } from '../common/errors.js';
import { uniformAt } from '../common/random.js';

export interface SamplerSettings {
  /** 0 = greedy. */
  readonly temperature: number;
  /** 1 = off. */
  readonly topP: number;
  /** 0 = off. */
  readonly topK: number;
  /** Modulo 2^64. */
  readonly seed: bigint;
}

// Looked up once: a global in a hot loop is slow where code runs in a context of its own, as under jest.
const { floor } = Math;
const { NEGATIVE_INFINITY, POSITIVE_INFINITY } = Number;

const FINE_BITS = 10;
const FINE = 1 << FINE_BITS;
const STEPS_PER_UNIT = FINE * Math.LOG2E;
const REST_TO_NATURAL = Math.LN2 / FINE;
/** e^-64 of a term changes no sum of a vocabulary in float64. */
const NEGLIGIBLE = -64;
const FINE_POWERS = Float64Array.from({ length: FINE }, (_, i) => 2 ** (i / FINE));
const COARSE_POWERS = Float64Array.from({ length: 96 }, (_, i) => 2 ** -i);

/** e^x for −64 ≤ x ≤ 0 within 1e-10 relative: 2^-n · 2^(k/1024) · second-order rest. Three times as fast as Math.exp. */
export function expNegative(x: number): number {
  const steps = x * STEPS_PER_UNIT;
  const whole = floor(steps);
  const rest = (steps - whole) * REST_TO_NATURAL;
  return COARSE_POWERS[-(whole >> FINE_BITS)]! * FINE_POWERS[whole & (FINE - 1)]! * (1 + rest * (1 + rest * 0.5));
}

/** Index of the largest logit, the lowest on ties; NaN never wins. Throws when no logit is finite. */
export function argMax(logits: Float32Array): number {
  let best = -1;
  let value = NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) {
    if (logits[i]! > value) {
      value = logits[i]!;
      best = i;
    }
  }
  if (best < 0 || value === POSITIVE_INFINITY) {
    throw new LoricaError('INTERNAL', 'RUNTIME_FAILED', 'the model gave logits that are not finite', {
      hint: 'Check the base model and the adapter for values that are not finite.',
    });
  }
  return best;
}

/** log Σ e^logit, accumulated in float64. */
export function logSumExp(logits: Float32Array, largest: number): number {
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    const x = logits[i]! - largest;
    if (x > NEGLIGIBLE) sum += expNegative(x);
  }
  return largest + Math.log(sum);
}

/** One per serving model; holds scratch of the vocabulary's size. Not for use by two rows at once. */
export class Sampler {
  readonly #weights: Float64Array;
  readonly #candidates: Float64Array;

  constructor(vocabSize: number) {
    this.#weights = new Float64Array(vocabSize);
    this.#candidates = new Float64Array(vocabSize);
  }

  /** The token for `logits` [V] as number `index` (from 0) of its sequence. */
  sample(logits: Float32Array, settings: SamplerSettings, index: number): number {
    const best = argMax(logits);
    if (settings.temperature === 0 || settings.topK === 1) return best;
    const weights = this.#weights;
    const largest = logits[best]!;
    const inverse = 1 / settings.temperature;
    const least = settings.topK > 0 && settings.topK < logits.length ? this.#kthLargest(logits, settings.topK) : { value: NEGATIVE_INFINITY, ties: 0 };
    let ties = least.ties;
    let total = 0;
    for (let i = 0; i < logits.length; i++) {
      const logit = logits[i]!;
      let weight = 0;
      if (logit > least.value || (logit === least.value && ties-- > 0)) {
        const x = (logit - largest) * inverse;
        if (x > NEGLIGIBLE) weight = expNegative(x);
      }
      weights[i] = weight;
      total += weight;
    }
    if (settings.topP < 1) total = this.#keepNucleus(total, settings.topP);
    return this.#draw(total * uniformAt(settings.seed, index), best);
  }

  /** The k-th largest logit, and how many of the logits equal to it belong to the k largest (the first ones do). */
  #kthLargest(logits: Float32Array, k: number): { value: number; ties: number } {
    // A heap of the k largest so far, the smallest on top.
    const heap = this.#candidates;
    let size = 0;
    for (let i = 0; i < logits.length; i++) {
      const value = logits[i]!;
      if (size < k) {
        let at = size++;
        for (; at > 0 && heap[(at - 1) >> 1]! > value; at = (at - 1) >> 1) heap[at] = heap[(at - 1) >> 1]!;
        heap[at] = value;
      } else if (value > heap[0]!) {
        let at = 0;
        for (;;) {
          let child = 2 * at + 1;
          if (child >= k) break;
          if (child + 1 < k && heap[child + 1]! < heap[child]!) child++;
          if (heap[child]! >= value) break;
          heap[at] = heap[child]!;
          at = child;
        }
        heap[at] = value;
      }
    }
    const value = heap[0]!;
    let ties = 0;
    for (let i = 0; i < k; i++) if (heap[i] === value) ties++;
    return { value, ties };
  }

  /** Zeroes every weight outside the smallest set of largest weights that holds topP of the total; gives the set's sum. */
  #keepNucleus(total: number, topP: number): number {
    const weights = this.#weights;
    const target = total * topP;
    // All weights below this one together hold less than 1 − topP, so none of them is needed.
    const least = (total - target) / weights.length;
    let count = 0;
    for (let i = 0; i < weights.length; i++) if (weights[i]! >= least && weights[i]! > 0) this.#candidates[count++] = weights[i]!;
    const sorted = this.#candidates.subarray(0, count).sort();
    let kept = 0;
    let at = count;
    while (at > 0 && kept < target) kept += sorted[--at]!;
    const smallest = sorted[at] ?? 0;
    let ties = 0;
    for (let i = at; i < count && sorted[i] === smallest; i++) ties++;
    let sum = 0;
    for (let i = 0; i < weights.length; i++) {
      const weight = weights[i]!;
      if (weight > smallest || (weight === smallest && ties-- > 0)) sum += weight;
      else weights[i] = 0;
    }
    return sum;
  }

  #draw(threshold: number, fallback: number): number {
    const weights = this.#weights;
    let sum = 0;
    for (let i = 0; i < weights.length; i++) {
      sum += weights[i]!;
      if (sum > threshold) return i;
    }
    return fallback;
  }
}
