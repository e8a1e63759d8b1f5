import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { Runtime } from '../../src/runtime/index.js';
import { goldenPath, largestDifference, oneShotLogits, openTiny, serve } from './support.js';

const golden = JSON.parse(readFileSync(goldenPath('tiny-serving-logits.json'), 'utf8')) as Record<string, { tokens: number[]; logits: number[][] }>;
let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open();
});
afterAll(() => runtime.close());

describe('the float32 serving form', () => {
  test.each(['tiny-serving', 'tiny-serving-bias', 'tiny-serving-window'])('%s: logits equal transformers\' within 1e-5', async (name) => {
    const checkpoint = await openTiny(name);
    const model = await serve(runtime, checkpoint, 'float32', 64);
    const { tokens, logits } = golden[name]!;
    const all = await oneShotLogits(model, tokens);
    const wanted = logits.flat();
    expect(largestDifference(all.subarray(all.length - wanted.length), wanted)).toBeLessThan(1e-5);
    model.dispose();
    await checkpoint.close();
  });
});
