import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type ServingModel } from '../../src/engine/serving-model.js';
import { readReviews } from '../../src/cli/quickstart/reviews.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime } from '../../src/runtime/index.js';
import { openSmollm2, readGoldenLogits } from '../golden/smollm2.js';
import { largestDifference, oneShotLogits, serve } from './support.js';

// A global looked up in a hot loop is slow in jest's realm.
const { exp, log } = Math;

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

describe('SmolLM2-135M-Instruct in the int8 serving form', () => {
  const WINDOW_TOKENS = 192;
  const WINDOWS = 10;

  /** -log p of one token, from the logits [V] at its place. */
  function negativeLogLikelihood(logits: Float32Array, token: number): number {
    const top = logits.reduce((a, b) => (a > b ? a : b));
    let sum = 0;
    for (let i = 0; i < logits.length; i++) sum += exp(logits[i]! - top);
    return log(sum) + top - logits[token]!;
  }

  /** exp of the mean negative log-likelihood of every token but a window's first. */
  async function perplexity(form: ServingModel, tokens: readonly number[]): Promise<number> {
    const { vocabSize } = checkpoint.config;
    let sum = 0;
    for (let window = 0; window < WINDOWS; window++) {
      const part = tokens.slice(window * WINDOW_TOKENS, (window + 1) * WINDOW_TOKENS);
      const logits = await oneShotLogits(form, part);
      for (let i = 1; i < part.length; i++) sum += negativeLogLikelihood(logits.subarray((i - 1) * vocabSize, i * vocabSize), part[i]!);
    }
    return exp(sum / (WINDOWS * (WINDOW_TOKENS - 1)));
  }

  test('its perplexity on review sentences is float32\'s within 1.5 %', async () => {
    const text = (await readReviews()).slice(0, 300).map((review) => review.text).join(' ');
    const tokens = checkpoint.tokenizer.encode(text);
    expect(tokens.length).toBeGreaterThanOrEqual(WINDOWS * WINDOW_TOKENS);
    const int8 = await serve(runtime, checkpoint, 'int8', 256);
    try {
      const [exact, quantized] = [await perplexity(model, tokens), await perplexity(int8, tokens)];
      process.stdout.write(`SmolLM2 perplexity: float32 ${exact.toFixed(2)}, int8 ${quantized.toFixed(2)}\n`);
      expect(exact).toBeGreaterThan(10);
      expect(exact).toBeLessThan(500);
      expect(Math.abs(quantized / exact - 1)).toBeLessThan(0.015);
      expect(quantized).not.toBe(exact);
    } finally {
      int8.dispose();
    }
  });
});
