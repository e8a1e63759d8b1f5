import { describe, expect, test } from '@jest/globals';
import { jointRate, median, spread, streamRate } from '../../bench/statistics.js';

describe('statistics of measurements', () => {
  test('median', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(median([])).toBeNaN();
    expect(spread([5, 1, 3])).toEqual({ median: 3, least: 1, most: 5, runs: 3 });
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
