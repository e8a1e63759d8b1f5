/**
 * The paired bootstrap (Efron & Tibshirani 1993, chapters 13 and 15): rows are drawn with replacement, both systems are measured on
 * the same draw, and the interval is the percentile interval of the differences. Seeded and reproducible; yields to the event loop.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LoricaError } from '../common/errors.js';
import { Xoshiro128 } from '../common/random.js';

export const MINIMUM_RESAMPLES = 2_000;
export const DEFAULT_RESAMPLES = 10_000;

/** A difference of two systems as a function of how often each row is counted. */
export interface PairedStatistic {
  readonly rows: number;
  /** Forgets all rows. */
  reset(): void;
  /** Counts row `row` once more. */
  add(row: number): void;
  /** The difference over the rows counted since reset. */
  value(): number;
}

export interface BootstrapOptions {
  readonly seed: number;
  readonly resamples: number;
  readonly confidence?: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Interval {
  readonly difference: number;
  readonly low: number;
  readonly high: number;
  readonly confidence: number;
  readonly pValue: number;
  readonly resamples: number;
}

const DRAWS_PER_TURN = 400_000;

export async function pairedBootstrap(statistic: PairedStatistic, options: BootstrapOptions): Promise<Interval> {
  const { resamples, confidence = 0.95 } = options;
  if (!(resamples >= MINIMUM_RESAMPLES)) throw new RangeError(`a percentile interval needs at least ${MINIMUM_RESAMPLES} resamples`);
  if (statistic.rows === 0) throw new RangeError('no rows to resample');
  statistic.reset();
  for (let row = 0; row < statistic.rows; row++) statistic.add(row);
  const difference = statistic.value();
  const random = new Xoshiro128(options.seed);
  const differences = new Float64Array(resamples);
  let draws = 0;
  for (let i = 0; i < resamples; i++) {
    statistic.reset();
    for (let k = 0; k < statistic.rows; k++) statistic.add(random.nextBelow(statistic.rows));
    differences[i] = statistic.value();
    draws += statistic.rows;
    if (draws >= DRAWS_PER_TURN) {
      draws = 0;
      await nextTurn();
      if (options.signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', 'the evaluation was cancelled');
    }
  }
  differences.sort();
  const atMostZero = differences.filter((d) => d <= 0).length;
  const atLeastZero = differences.filter((d) => d >= 0).length;
  const tail = (1 - confidence) / 2;
  return {
    difference, confidence, resamples,
    low: quantile(differences, tail),
    high: quantile(differences, 1 - tail),
    pValue: Math.min(1, Math.max(1 / (resamples + 1), (2 * Math.min(atMostZero, atLeastZero)) / resamples)),
  };
}

/** Quantile of sorted values by linear interpolation between order statistics (Hyndman & Fan type 7). */
export function quantile(sorted: Float64Array, probability: number): number {
  const position = probability * (sorted.length - 1);
  const below = Math.floor(position);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (high - low) * (position - below);
}
