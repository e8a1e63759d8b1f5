import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type ServingModel } from '../../src/engine/serving-model.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime } from '../../src/runtime/index.js';
import { openSmollm2, readGoldenLogits } from '../golden/smollm2.js';
import { largestDifference, oneShotLogits, serve } from './support.js';

let runtime: Runtime;
let checkpoint: Checkpoint;
let model: ServingModel;
beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openSmollm2();
  model = await serve(runtime, checkpoint, 'float32', 256);
}, 180_000);
afterAll(async () => {
  model.dispose();
  await checkpoint.close();
  await runtime.close();
});

describe('SmolLM2-135M-Instruct in the float32 serving form', () => {
  test.each(['chat', 'review'] as const)('%s: logits are transformers\' within 1e-3', async (name) => {
    const golden = await readGoldenLogits(name);
    const logits = await oneShotLogits(model, golden.tokens);
    const { vocabSize } = checkpoint.config;
    const row = (position: number): Float32Array => logits.subarray(position * vocabSize, (position + 1) * vocabSize);
    const all = golden.tokens.flatMap((_, position) => golden.columns.map((column) => row(position)[column]!));
    const difference = Math.max(largestDifference(row(golden.tokens.length - 1), golden.last), largestDifference(all, golden.atColumns));
    expect(difference).toBeLessThan(1e-3);
    golden.argmax.forEach((best, position) => {
      const values = row(position);
      expect(values.indexOf(values.reduce((a, b) => Math.max(a, b)))).toBe(best);
    });
  });
});
