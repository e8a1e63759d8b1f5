import { describe, expect, test } from '@jest/globals';
import { learningRateAt } from '../../src/tuning/schedule.js';

const rates = (kind: 'constant' | 'linear' | 'cosine', total: number, warmupSteps = 0, warmupRatio = 0, leastRatio = 0): number[] =>
  Array.from({ length: total }, (_, i) => learningRateAt(i + 1, total, 1, { kind, warmupSteps, warmupRatio, leastRatio }));

describe('learning rates', () => {
  test('constant, with warm-up that moves from the first step and reaches the peak', () => {
    expect(rates('constant', 5, 4)).toEqual([0.25, 0.5, 0.75, 1, 1]);
  });

  test('linear decay over the steps after the warm-up', () => {
    expect(rates('linear', 6, 2)).toEqual([0.5, 1, 1, 0.75, 0.5, 0.25]);
  });

  test('cosine is at half the peak half-way', () => {
    const cosine = rates('cosine', 4);
    expect(cosine[0]).toBe(1);
    expect(cosine[2]).toBeCloseTo(0.5, 12);
    expect(cosine[3]).toBeCloseTo((1 - Math.SQRT1_2) / 2, 12);
  });

  test('a least rate raises the end, not the peak', () => {
    expect(rates('linear', 5, 1, 0, 0.2)).toEqual([1, 1, 0.8, 0.6000000000000001, 0.4]);
    const cosine = rates('cosine', 1000, 0, 0, 0.1);
    expect(cosine[0]).toBe(1);
    expect(cosine[500]).toBeCloseTo(0.55, 12);
    expect(cosine[999]).toBeCloseTo(0.1, 4);
    expect(rates('constant', 2, 0, 0, 0.1)).toEqual([1, 1]);
  });

  test('a ratio is rounded up to steps; a warm-up longer than the stage ends at the peak', () => {
    expect(rates('linear', 10, 0, 0.15)[1]).toBe(1);
    expect(rates('linear', 10, 0, 0.15)[0]).toBe(0.5);
    expect(rates('linear', 2, 100)).toEqual([0.5, 1]);
  });
});
