import { describe, expect, test } from '@jest/globals';
import { causalMask, cutQueries, packedMask } from '../../src/tuning/activations.js';
import { layOut, pack, planEpoch, stepsPerEpoch, tokenRow } from '../../src/tuning/batches.js';
import { labelledStream } from '../../src/common/random-streams.js';

const row = (tokens: number[], from: number) => tokenRow({ tokens, lossMask: tokens.map((_, i) => i >= from) })!;

describe('token rows', () => {
  test('inputs and targets are shifted by one, and what follows the last counted token is not fed', () => {
    const made = tokenRow({ tokens: [5, 6, 7, 8, 9], lossMask: [false, false, true, true, false] })!;
    expect([...made.inputs]).toEqual([5, 6, 7]);
    expect([...made.targets]).toEqual([6, 7, 8]);
    expect([...made.counts]).toEqual([0, 1, 1]);
    expect(made.lossTokens).toBe(2);
  });

  test('a row without a token that counts is no row', () => {
    expect(tokenRow({ tokens: [1, 2], lossMask: [false, false] })).toBeUndefined();
    expect(tokenRow({ tokens: [1], lossMask: [true] })).toBeUndefined();
  });
});

describe('the order of a pass', () => {
  const lengths = Array.from({ length: 103 }, (_, i) => 5 + ((i * 37) % 60));

  test('every row comes once; the last step is smaller', () => {
    const plan = planEpoch(lengths, 4, 3, labelledStream(1, 'shuffle'));
    expect(plan.flat(2).sort((a, b) => a - b)).toEqual(lengths.map((_, i) => i));
    expect(plan).toHaveLength(stepsPerEpoch(103, 4, 3));
    expect(plan.slice(0, -1).every((step) => step.length === 3)).toBe(true);
  });

  test('the same seed gives the same order, another seed another', () => {
    const order = (seed: number): string => JSON.stringify(planEpoch(lengths, 4, 1, labelledStream(seed, 'shuffle')));
    expect(order(7)).toBe(order(7));
    expect(order(7)).not.toBe(order(8));
  });

  test('rows of like length share a micro-batch', () => {
    const padding = (plan: ReturnType<typeof planEpoch>): number =>
      plan.flat().reduce((sum, batch) => sum + batch.reduce((s, i) => s + Math.max(...batch.map((j) => lengths[j]!)) - lengths[i]!, 0), 0);
    const bucketed = padding(planEpoch(lengths, 4, 1, labelledStream(3, 'shuffle')));
    const unsorted = padding([Array.from({ length: 26 }, (_, b) => lengths.map((_, i) => i).slice(4 * b, 4 * b + 4))]);
    expect(bucketed).toBeLessThan(0.3 * unsorted);
  });
});

test('a micro-batch is padded on the right to a multiple of 8, and loss positions are flat', () => {
  const batch = layOut([row([1, 2, 3, 4], 2), row(Array.from({ length: 11 }, (_, i) => 10 + i), 10)]);
  expect([batch.rows, batch.length, batch.fedTokens]).toEqual([2, 16, 13]);
  expect([...batch.tokens.slice(0, 5)]).toEqual([1n, 2n, 3n, 0n, 0n]);
  expect([...batch.lossPositions]).toEqual([1n, 2n, 25n]);
  expect([...batch.lossTargets]).toEqual([3n, 4n, 20n]);
});

test('packing puts rows one after another into the length of the longest, first fit, and keeps their order in `places`', () => {
  const rows = [3, 16, 9, 5].map((length, i) => row(Array.from({ length: length + 1 }, (_, t) => 100 * (i + 1) + t), length));
  const batch = pack(rows);
  expect([batch.rows, batch.length, batch.fedTokens]).toEqual([3, 16, 33]);
  expect(batch.places).toEqual([{ start: 32, length: 3 }, { start: 0, length: 16 }, { start: 16, length: 9 }, { start: 25, length: 5 }]);
  batch.places.forEach(({ start, length }, i) => expect([...batch.tokens.slice(start, start + length)]).toEqual([...rows[i]!.inputs].map(BigInt)));
  expect([...batch.lossPositions]).toEqual([15n, 24n, 29n, 34n]);
  expect([...batch.lossTargets]).toEqual([216n, 309n, 405n, 103n]);
});

test('the mask of packed rows is causal within a sequence and closed between them; padding sees itself', () => {
  const places = [{ start: 0, length: 2 }, { start: 2, length: 2 }, { start: 4, length: 3 }];
  const open = (blocks: number, window?: number): string[][] => cutQueries(4, blocks).map((block) => {
    const mask = packedMask(2, 4, places, block, window);
    return Array.from({ length: 2 * block.rows }, (_, i) => [...mask.slice(block.keys * i, block.keys * (i + 1))].map((value) => (value === 0 ? 'x' : '.')).join(''));
  });
  expect(open(1)).toEqual([['x...', 'xx..', '..x.', '..xx', 'x...', 'xx..', 'xxx.', '...x']]);
  expect(open(1, 2)).toEqual([['x...', 'xx..', '..x.', '..xx', 'x...', 'xx..', '.xx.', '...x']]);
  expect(open(2)).toEqual([['x.', 'xx', 'x.', 'xx'], ['..x.', '..xx', 'xxx.', '...x']]);
  expect(open(2, 2)).toEqual([['x.', 'xx', 'x.', 'xx'], ['..x.', '..xx', '.xx.', '...x']]);
});

test('masks of blocks are the rows of the mask of all queries, as far as their keys go', () => {
  for (const window of [undefined, 3]) {
    const whole = causalMask(cutQueries(16, 1)[0]!, window);
    for (const block of cutQueries(16, 4)) {
      const mask = causalMask(block, window);
      for (let row = 0; row < block.rows; row++) {
        expect([...mask.slice(row * block.keys, (row + 1) * block.keys)]).toEqual([...whole.slice((block.first + row) * 16, (block.first + row) * 16 + block.keys)]);
        expect(whole.slice((block.first + row) * 16 + block.keys, (block.first + row + 1) * 16).every((value) => value < 0)).toBe(true);
      }
    }
  }
  expect(() => cutQueries(10, 4)).toThrow('10 queries');
});
