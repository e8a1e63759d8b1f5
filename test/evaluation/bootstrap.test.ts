import { describe, expect, test } from '@jest/globals';
import { Xoshiro128 } from '../../src/common/random.js';
import { pairedBootstrap, quantile } from '../../src/evaluation/bootstrap.js';
import { accuracyDifference, logProbabilityDifference, macroF1Difference } from '../../src/evaluation/statistics.js';

const options = { seed: 1, resamples: 20_000 };

/** Every one of the n^n equally likely resamples, sorted: the distribution that the bootstrap draws from. */
function exhaustive(values: readonly number[]): Float64Array {
  const n = values.length;
  return Float64Array.from({ length: n ** n }, (_, code) => {
    let sum = 0;
    for (let k = 0, rest = code; k < n; k++, rest = Math.floor(rest / n)) sum += values[rest % n]!;
    return sum / n;
  }).sort();
}

describe('pairedBootstrap', () => {
  test('agrees with the exhaustive distribution of all resamples (6 rows, 46,656 of them)', async () => {
    const gains = [0.31, -0.12, 0.05, 0.4, -0.22, 0.17];
    const statistic = logProbabilityDifference(Float64Array.from(gains), new Float64Array(6), new Int32Array(6).fill(1));
    const found = await pairedBootstrap(statistic, options);
    const exact = exhaustive(gains);
    expect(found.difference).toBeCloseTo(gains.reduce((a, b) => a + b) / 6, 12);
    expect(Math.abs(found.low - quantile(exact, 0.025))).toBeLessThan(0.006);
    expect(Math.abs(found.high - quantile(exact, 0.975))).toBeLessThan(0.006);
    const pValue = (2 * Math.min(exact.filter((d) => d <= 0).length, exact.filter((d) => d >= 0).length)) / exact.length;
    expect(Math.abs(found.pValue - pValue)).toBeLessThan(0.015);
  });

  test('on many rows the interval is the normal one: ±1.96 standard errors', async () => {
    const random = new Xoshiro128(8);
    const n = 1000;
    const truth = new Int32Array(n);
    const baseline = Int32Array.from({ length: n }, () => Number(random.nextBelow(100) < 20));
    const candidate = Int32Array.from({ length: n }, () => Number(random.nextBelow(100) < 10));
    const found = await pairedBootstrap(accuracyDifference(truth, candidate, baseline), { seed: 2, resamples: 5_000 });
    const gains = Array.from(truth, (_, i) => baseline[i]! - candidate[i]!);
    const mean = gains.reduce((a, b) => a + b) / n;
    const error = Math.sqrt(gains.reduce((s, g) => s + (g - mean) ** 2, 0) / n / n);
    expect(found.difference).toBeCloseTo(mean, 12);
    expect(Math.abs(found.low - (mean - 1.96 * error))).toBeLessThan(0.15 * error);
    expect(Math.abs(found.high - (mean + 1.96 * error))).toBeLessThan(0.15 * error);
  });

  test('covers the true difference about 95 times in 100', async () => {
    const random = new Xoshiro128(4);
    let covered = 0;
    for (let round = 0; round < 100; round++) {
      const gains = Float64Array.from({ length: 60 }, () => random.nextUint32() / 2 ** 32 - 0.5);
      const found = await pairedBootstrap(logProbabilityDifference(gains, new Float64Array(60), new Int32Array(60).fill(1)), { seed: round, resamples: 2_000 });
      if (found.low <= 0 && 0 <= found.high) covered++;
    }
    expect(covered).toBeGreaterThanOrEqual(86);
  });

  test('the same seed gives the same interval, equal systems give zero', async () => {
    const truth = Int32Array.from({ length: 50 }, (_, i) => i % 2);
    const all = new Int32Array(50);
    const once = await pairedBootstrap(accuracyDifference(truth, truth, all), options);
    expect(await pairedBootstrap(accuracyDifference(truth, truth, all), options)).toEqual(once);
    expect(await pairedBootstrap(accuracyDifference(truth, all, all), options)).toMatchObject({ difference: 0, low: 0, high: 0, pValue: 1 });
  });

  test('macro-F1 is recomputed per resample', async () => {
    const truth = Int32Array.of(0, 0, 1, 1);
    const found = await pairedBootstrap(macroF1Difference(2, truth, truth, new Int32Array(4)), options);
    // Candidate 1; constant answer: F1 of label 0 is 2·2/(2+4) = 2/3, of label 1 0.
    expect(found.difference).toBeCloseTo(1 - 1 / 3, 12);
    expect(found.high).toBe(1);
  });

  test('too few resamples and no rows are refused, an abort ends it', async () => {
    const statistic = accuracyDifference(new Int32Array(3000), new Int32Array(3000), new Int32Array(3000));
    await expect(pairedBootstrap(statistic, { seed: 1, resamples: 1_999 })).rejects.toThrow('2000');
    await expect(pairedBootstrap({ ...statistic, rows: 0 }, options)).rejects.toThrow('no rows');
    await expect(pairedBootstrap(statistic, { ...options, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

test('quantile interpolates between order statistics', () => {
  expect(quantile(Float64Array.of(1, 2, 3, 4), 0.5)).toBe(2.5);
  expect(quantile(Float64Array.of(1, 2, 3, 4), 1)).toBe(4);
  expect(quantile(Float64Array.of(7), 0.3)).toBe(7);
});
