import { describe, expect, test } from '@jest/globals';
import { runChild } from './child-process.js';

interface SharedResult { readonly weightBytes: number; readonly addedBytes: readonly [number, number, number]; readonly y: readonly number[] }

describe.each([['float32', 153_600], ['int8', 153_600]])('three sessions over 100 MB of %s weights', (kind, product) => {
  test('with one container of prepacked weights, the second and third add about nothing', async () => {
    const { weightBytes, addedBytes, y } = await runChild<SharedResult>('shared-weights-child.ts', [kind, 'shared']);
    expect(weightBytes).toBeGreaterThan(90e6);
    expect(addedBytes[0]).toBeGreaterThan(0.5 * weightBytes);
    expect(addedBytes[1] + addedBytes[2]).toBeLessThan(0.3 * weightBytes);
    for (const value of y) expect(Math.abs(value - product)).toBeLessThan(0.01 * product);
  });

  test('without it, each packs a copy of its own', async () => {
    const { weightBytes, addedBytes } = await runChild<SharedResult>('shared-weights-child.ts', [kind, 'alone']);
    expect(addedBytes[1]).toBeGreaterThan(0.5 * weightBytes);
    expect(addedBytes[2]).toBeGreaterThan(0.5 * weightBytes);
  });
});
