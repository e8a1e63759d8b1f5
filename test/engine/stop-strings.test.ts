import { describe, expect, test } from '@jest/globals';
import { Xoshiro128 } from '../../src/common/random.js';
import { StopStrings } from '../../src/engine/stop-strings.js';

describe('StopStrings', () => {
  test('a stop string across three pieces is found and nothing of it leaks', () => {
    const stops = new StopStrings(['END']);
    expect(stops.push('one E')).toEqual({ text: 'one ', stopped: false });
    expect(stops.push('N')).toEqual({ text: '', stopped: false });
    expect(stops.push('D two')).toEqual({ text: '', stopped: true });
  });

  test('held text is released when it turns out to be something else', () => {
    const stops = new StopStrings(['END']);
    expect(stops.push('E').text).toBe('');
    expect(stops.push('N').text).toBe('');
    expect(stops.push('E').text).toBe('EN');
    expect(stops.flush()).toBe('E');
    expect(stops.flush()).toBe('');
  });

  test('the earliest of several stop strings wins', () => {
    expect(new StopStrings(['b', 'ab']).push('xxab')).toEqual({ text: 'xx', stopped: true });
  });

  test('without stop strings the text passes', () => {
    const stops = new StopStrings([]);
    expect(stops.push('abc')).toEqual({ text: 'abc', stopped: false });
    expect(stops.flush()).toBe('');
  });

  test('for random cuts the text given out is the text before the first stop string', () => {
    const random = new Xoshiro128(5);
    for (let round = 0; round < 2000; round++) {
      const full = Array.from({ length: 1 + random.nextBelow(14) }, () => 'ab'[random.nextBelow(2)]).join('');
      const stopList = Array.from({ length: 1 + random.nextBelow(2) }, () =>
        Array.from({ length: 1 + random.nextBelow(4) }, () => 'ab'[random.nextBelow(2)]).join(''));
      const stops = new StopStrings(stopList);
      let out = '';
      let stopped = false;
      for (let at = 0; at < full.length && !stopped; ) {
        const size = 1 + random.nextBelow(3);
        const step = stops.push(full.slice(at, at + size));
        out += step.text;
        stopped = step.stopped;
        at += size;
        if (!stopped) expect(stopList.some((s) => out.includes(s))).toBe(false);
      }
      if (!stopped) out += stops.flush();
      const ends = stopList.map((s) => full.indexOf(s)).filter((i) => i >= 0);
      if (!stopped) expect(out).toBe(full);
      else expect(ends).toContain(out.length);
    }
  });
});
