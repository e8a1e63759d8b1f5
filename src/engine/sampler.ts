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

/**
 * weights[i] = e^((logits[i] − largest) · inverse), 0 where it changes nothing; gives their sum. expNegative is written out: as a
 * call this loop takes nearly twice as long.
 */
function exponentials(logits: Float32Array, largest: number, inverse: number, weights: Float64Array): number {
  let total = 0;
  for (let i = 0; i < logits.length; i++) {
    const x = (logits[i]! - largest) * inverse;
    let weight = 0;
    if (x > NEGLIGIBLE) {
      const steps = x * STEPS_PER_UNIT;
      const whole = floor(steps);
      const rest = (steps - whole) * REST_TO_NATURAL;
      weight = COARSE_POWERS[-(whole >> FINE_BITS)]! * FINE_POWERS[whole & (FINE - 1)]! * (1 + rest * (1 + rest * 0.5));
    }
    weights[i] = weight;
    total += weight;
  }
  return total;
}

/** The k-th largest logit: a heap of the k largest so far, the smallest on top. `heap` is scratch of at least k. */
function kthLargest(logits: Float32Array, k: number, heap: Float64Array): number {
  for (let size = 0; size < k; size++) {
    const value = logits[size]!;
    let at = size;
    for (; at > 0 && heap[(at - 1) >> 1]! > value; at = (at - 1) >> 1) heap[at] = heap[(at - 1) >> 1]!;
    heap[at] = value;
  }
  let least = heap[0]!;
  for (let i = k; i < logits.length; i++) {
    const value = logits[i]!;
    if (value <= least) continue;
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
    least = heap[0]!;
  }
  return least;
}

/** Bins of weights from 2^-94 up to 1: a factor of two in 64 steps, by exponent and first bits of the fraction of a float64. */
const BIN_SHIFT = 14;
const FIRST_BIN = (1023 - 94) << (20 - BIN_SHIFT);
const BINS = (95 << (20 - BIN_SHIFT)) + 1;
/** Where a float64's sign, exponent and first bits are among its two 32-bit words. */
const HIGH_WORD = new Uint32Array(Float64Array.of(1).buffer)[1] === 0 ? 0 : 1;

/** Rises with the weight whose high word it is; smaller weights, and 0, are in bin 0. */
function binOf(highWord: number): number {
  const bin = (highWord >>> BIN_SHIFT) - FIRST_BIN;
  return bin < 0 ? 0 : bin;
}

/** One per serving model; holds scratch of the vocabulary's size. Not for use by two rows at once. */
export class Sampler {
  readonly #weights: Float64Array;
  readonly #scratch: Float64Array;
  /** The weights as pairs of 32-bit words. */
  readonly #highWords: Uint32Array;
  /** Sum of the weights of each bin. */
  readonly #binMass = new Float64Array(BINS);
  /** Tokens that may be drawn, in the order of their ids, where they are fewer than all; their weights are the first of #weights. */
  readonly #ids: Int32Array;
  /** Sum of all weights, which `#likely` found. */
  #total = 0;

  constructor(vocabSize: number) {
    this.#weights = new Float64Array(vocabSize);
    this.#highWords = new Uint32Array(this.#weights.buffer);
    this.#scratch = new Float64Array(vocabSize);
    this.#ids = new Int32Array(vocabSize);
  }

  /** The token for `logits` [V] as number `index` (from 0) of its sequence. */
  sample(logits: Float32Array, settings: SamplerSettings, index: number): number {
    const { temperature, topK, topP, seed } = settings;
    const best = argMax(logits);
    if (temperature === 0 || topK === 1) return best;
    const inverse = 1 / temperature;
    const draw = uniformAt(seed, index);
    const cut = topK > 0 && topK < logits.length;
    if (!cut && topP === 1) {
      const total = exponentials(logits, logits[best]!, inverse, this.#weights);
      return this.#pick(total * draw, logits.length) ?? best;
    }
    let count = cut ? this.#largest(logits, topK, logits[best]!, inverse) : this.#likely(logits, topP, logits[best]!, inverse);
    if (topP < 1) count = this.#nucleus(count, topP, cut ? sumOf(this.#weights, count) : this.#total);
    const at = this.#pick(sumOf(this.#weights, count) * draw, count);
    return at === undefined ? best : this.#ids[at]!;
  }

  /** Natural log-probability of a token under the logits as they are, normalized in float64. */
  logProbability(logits: Float32Array, id: number): number {
    const largest = logits[argMax(logits)]!;
    return logits[id]! - largest - Math.log(exponentials(logits, largest, 1, this.#weights));
  }

  /** Keeps the k largest logits, the lower ids among equals; gives how many. */
  #largest(logits: Float32Array, k: number, largest: number, inverse: number): number {
    const least = kthLargest(logits, k, this.#scratch);
    let ties = k;
    for (let i = 0; i < k; i++) if (this.#scratch[i]! > least) ties--;
    let count = 0;
    for (let i = 0; i < logits.length; i++) {
      const logit = logits[i]!;
      if (logit < least || (logit === least && ties-- <= 0)) continue;
      const x = (logit - largest) * inverse;
      this.#ids[count] = i;
      this.#weights[count++] = x > NEGLIGIBLE ? expNegative(x) : 0;
    }
    return count;
  }

  /** Keeps every token that the nucleus of all tokens can hold; gives how many. */
  #likely(logits: Float32Array, topP: number, largest: number, inverse: number): number {
    const weights = this.#weights;
    this.#total = exponentials(logits, largest, inverse, weights);
    // All weights below this one together hold less than 1 − topP, so none of them is needed.
    const least = (this.#total * (1 - topP)) / weights.length;
    let count = 0;
    for (let i = 0; i < weights.length; i++) {
      const weight = weights[i]!;
      if (weight === 0 || weight < least) continue;
      this.#ids[count] = i;
      weights[count++] = weight;
    }
    return count;
  }

  /** Keeps the smallest set of the largest weights that holds topP of `total`, the lower ids among equals; gives how many. */
  #nucleus(count: number, topP: number, total: number): number {
    const weights = this.#weights;
    const high = this.#highWords;
    const mass = this.#binMass.fill(0);
    for (let i = 0; i < count; i++) mass[binOf(high[2 * i + HIGH_WORD]!)]! += weights[i]!;
    let held = 0;
    let bin = BINS - 1;
    while (bin > 0 && held + mass[bin]! < total * topP) held += mass[bin--]!;
    // Weights of higher bins are all in; only those of this one are put in order.
    let size = 0;
    for (let i = 0; i < count; i++) if (binOf(high[2 * i + HIGH_WORD]!) === bin) this.#scratch[size++] = weights[i]!;
    if (size === 0) return count;
    const sorted = this.#scratch.subarray(0, size).sort();
    let at = size;
    while (at > 0 && held < total * topP) held += sorted[--at]!;
    const least = sorted[at]!;
    let ties = 0;
    for (let i = at; i < size && sorted[i] === least; i++) ties++;
    let kept = 0;
    for (let i = 0; i < count; i++) {
      const weight = weights[i]!;
      if (weight < least || (weight === least && ties-- <= 0)) continue;
      this.#ids[kept] = this.#ids[i]!;
      weights[kept++] = weight;
    }
    return kept;
  }

  /** The first of `count` weights at which their running sum passes the threshold. */
  #pick(threshold: number, count: number): number | undefined {
    const weights = this.#weights;
    let sum = 0;
    for (let i = 0; i < count; i++) {
      sum += weights[i]!;
      if (sum > threshold) return i;
    }
    return undefined;
  }
}

function sumOf(values: Float64Array, count: number): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += values[i]!;
  return sum;
}
