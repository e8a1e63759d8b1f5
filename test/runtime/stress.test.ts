import { expect, test } from '@jest/globals';
import { runChild } from './child-process.js';

interface StressResult { readonly tensors: number; readonly sessions: number; readonly runs: number; readonly wrong: number; readonly residentBytes: readonly number[] }

const GROWTH_LIMIT_BYTES = 32e6;

test('thousands of tensors and hundreds of sessions: every result right, memory bounded', async () => {
  const { tensors, sessions, runs, wrong, residentBytes } = await runChild<StressResult>('stress-child.ts');
  expect(wrong).toBe(0);
  expect(tensors).toBeGreaterThan(5000);
  expect(sessions).toBeGreaterThanOrEqual(240);
  expect(runs).toBeGreaterThan(2000);
  const settled = residentBytes.slice(2);
  expect((settled.at(-1) as number) - (settled[0] as number)).toBeLessThan(GROWTH_LIMIT_BYTES);
});
