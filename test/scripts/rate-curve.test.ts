/** Verdicts, the search for the best rate, and source losses at equal target loss, on curves whose answers are known. */
import { describe, expect, test } from '@jest/globals';
import { atEqualLoss, climb, sourceLossAt, verdictOf, type RatePoint } from '../../scripts/methods/rate-curve.js';

const point = (factor: number, loss: number | undefined, sourceLoss = 4): RatePoint => ({
  factor, rate: factor * 1e-3, steps: 10, quality: loss === undefined ? undefined : { loss, accuracy: 0.5, sourceLoss },
});
const BASE = { loss: 8, accuracy: 0.5, sourceLoss: 4 };

describe('climb', () => {
  /** Losses with their least at the factor `best`. */
  const valley = (best: number, asked: number[] = []) => (factor: number, autoRate: number | undefined): Promise<RatePoint> => {
    expect(autoRate).toBe(asked.length === 0 ? undefined : 1e-3);
    asked.push(factor);
    return Promise.resolve(point(factor, 1 + Math.log2(factor / best) ** 2));
  };
  const FACTORS = [1 / 2, 1, 2];

  test('measures auto first and stays where the best is inside', async () => {
    const asked: number[] = [];
    const curve = await climb(BASE, FACTORS, 64, valley(1, asked));
    expect(asked).toEqual([1, 1 / 2, 2]);
    expect(curve.map(({ factor }) => factor)).toEqual(FACTORS);
  });

  test('goes on past either end until the best lies inside, and no further than it may', async () => {
    expect((await climb(BASE, FACTORS, 64, valley(8))).map(({ factor }) => factor)).toEqual([1 / 2, 1, 2, 4, 8, 16]);
    expect((await climb(BASE, FACTORS, 64, valley(1 / 4))).map(({ factor }) => factor)).toEqual([1 / 8, 1 / 4, 1 / 2, 1, 2]);
    expect((await climb(BASE, FACTORS, 4, valley(1000))).map(({ factor }) => factor)).toEqual([1 / 2, 1, 2, 4]);
  });
});

describe('verdicts', () => {
  test('name the best rate and how far auto is from it', () => {
    const verdict = verdictOf(BASE, [point(1, 1.5), point(2, 1.2), point(4, 1), point(8, undefined)]);
    expect([verdict.best.factor, verdict.rateFactor, verdict.lossRatio, verdict.within]).toEqual([4, 4, 1.5, false]);
  });

  test('a rate within a factor of 2 or a loss within 5 % is close', () => {
    expect(verdictOf(BASE, [point(1 / 2, 1), point(1, 1.5)]).within).toBe(true);
    expect(verdictOf(BASE, [point(1, 1.04), point(4, 1)]).within).toBe(true);
    expect(verdictOf(BASE, [point(1, undefined), point(4, 1)]).within).toBe(false);
  });

  test('a rate that costs the source domain more than a nat is not the best', () => {
    expect(verdictOf(BASE, [point(1, 1.5), point(2, 1.2, 4.9), point(4, 1, 5.1)]).best.factor).toBe(2);
  });
});

describe('forgetting at equal target loss', () => {
  test('lies on the line between neighbours, over the logarithm of the loss', () => {
    const curve = [point(1, 2, 5), point(2, 0.5, 6)];
    expect(sourceLossAt(BASE, curve, 1)).toBeCloseTo(5.5, 12);
    expect(sourceLossAt(BASE, curve, 4)).toBeCloseTo(4.5, 12);
    expect(sourceLossAt(BASE, curve, 0.4)).toBeUndefined();
  });

  test('is the least where several rates reach the loss, and ends at a rate that diverged', () => {
    const curve = [point(1, 0.5, 5), point(2, 2, 9), point(4, undefined)];
    expect(sourceLossAt(BASE, curve, 1)).toBeCloseTo(4.75, 12);
  });

  test('is compared from the lowest loss that all reach', () => {
    const curves = new Map([['a', [point(1, 2, 5), point(2, 1, 5)]], ['b', [point(1, 2, 6)]]]);
    expect(atEqualLoss(BASE, curves, [1, 2, 4])).toEqual([
      { loss: 2, sourceLoss: { a: 5, b: 6 } },
      { loss: 4, sourceLoss: { a: 4.5, b: 5 } },
    ]);
  });
});
