import { describe, expect, test } from '@jest/globals';
import { dropoutStream, fillMask } from '../../src/tuning/dropout.js';

type Where = Parameters<typeof dropoutStream>;
const mask = (rate: number, ...where: Where): Uint8Array => {
  const result = new Uint8Array(20_000);
  fillMask(result, Math.round(rate * 65536), dropoutStream(...where));
  return result;
};
const kept = (values: Uint8Array): number => values.reduce((sum, value) => sum + value, 0);

describe('dropout masks', () => {
  test('drop the given share, within five deviations', () => {
    for (const rate of [0.05, 0.5, 0.9]) {
      const deviation = Math.sqrt(20_000 * rate * (1 - rate));
      expect(Math.abs(kept(mask(rate, 1, 0, 1, 0, 'q')) - 20_000 * (1 - rate))).toBeLessThan(5 * deviation);
    }
  });

  test('are the same for the same seed, stage, step, row and module, and unrelated where one of them differs', () => {
    const reference = mask(0.5, 1, 0, 1, 0, 'q');
    expect(mask(0.5, 1, 0, 1, 0, 'q')).toEqual(reference);
    for (const where of [
      [2, 0, 1, 0, 'q'],
      [1, 1, 1, 0, 'q'],
      [1, 0, 2, 0, 'q'],
      [1, 0, 1, 1, 'q'],
      [1, 0, 1, 0, 'k'],
    ] satisfies Where[]) {
      const equal = mask(0.5, ...where).reduce((sum, value, i) => sum + (value === reference[i] ? 1 : 0), 0);
      expect(Math.abs(equal - 10_000)).toBeLessThan(5 * Math.sqrt(5000));
    }
  });

  test('of a longer row begin with those of a shorter one, whatever its length', () => {
    const odd = new Uint8Array(7);
    fillMask(odd, 32768, dropoutStream(1, 0, 1, 0, 'q'));
    expect([...odd]).toEqual([...mask(0.5, 1, 0, 1, 0, 'q').slice(0, 7)]);
  });
});
