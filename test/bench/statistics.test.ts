import { describe, expect, test } from '@jest/globals';
import { jointRate, median, quantile, spread, streamRate } from '../../bench/statistics.js';

describe('statistics of measurements', () => {
  test('median', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(median([])).toBeNaN();
    expect(spread([5, 1, 3])).toEqual({ median: 3, least: 1, most: 5, runs: 3 });
  });

  test('quantile', () => {
    expect(quantile([4, 1, 3, 2, 5], 0.5)).toBe(3);
    expect(quantile([1, 2, 3, 4, 5], 0.95)).toBeCloseTo(4.8, 10);
    expect([quantile([7, 9], 0), quantile([7, 9], 1), quantile([7], 0.95)]).toEqual([7, 9, 7]);
    expect(quantile([], 0.95)).toBeNaN();
  });

  test('a stream of 11 tokens in one second after the first', () => {
    expect(streamRate(Array.from({ length: 11 }, (_, i) => 500 + i * 100))).toBe(10);
  });

  test('joint rate counts only while all streams run', () => {
    // Two streams at 10 tokens/s; together from 1,000 to 2,000 ms.
    const first = Array.from({ length: 21 }, (_, i) => i * 100);
    const second = Array.from({ length: 21 }, (_, i) => 1000 + i * 100);
    expect(jointRate([first, second])).toBe(20);
    expect(jointRate([[0, 100], [200, 300]])).toBeNaN();
  });
});
