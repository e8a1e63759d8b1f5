import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { weightShapes, type DecoderConfig } from '../../src/models/config.js';
import { padded } from '../../src/tuning/batches.js';
import { headRows, layerTokens, queryBlocks } from '../../src/tuning/segment-size.js';

let checkpoint: Checkpoint;
let smollm2: DecoderConfig;

beforeAll(async () => {
  checkpoint = await openCheckpoint('test/golden/tiny-llama');
  smollm2 = { ...checkpoint.config, hiddenSize: 576, intermediateSize: 1536, layers: 30, heads: 9, kvHeads: 3, headDim: 64, vocabSize: 49_152 };
});
afterAll(() => checkpoint.close());

describe('the tokens of a micro-batch', () => {
  const few = new Map([['model.layers.3.self_attn.q_proj.lora_A.weight', [16, 576]]]);

  test('SmolLM2 keeps its 4 x 256 together, trained whole or in part, and is cut where everything is recomputed for whole training', () => {
    const whole = weightShapes(smollm2);
    expect(layerTokens(smollm2, few, false)).toBeGreaterThan(1536);
    for (const tokens of [layerTokens(smollm2, whole, false), layerTokens(smollm2, few, true)]) {
      expect(tokens).toBeGreaterThanOrEqual(1024);
      expect(tokens).toBeLessThan(1280);
    }
    expect(layerTokens(smollm2, whole, true)).toBeLessThan(1024);
  });

  test('small models are bounded by memory only, large ones keep products of a length that pays', () => {
    expect(layerTokens(checkpoint.config, weightShapes(checkpoint.config), true)).toBe(4096);
    expect(layerTokens({ ...smollm2, hiddenSize: 4096, intermediateSize: 14_336, heads: 32, kvHeads: 8, headDim: 128 }, few, true)).toBe(512);
  });
});

test('rows of a piece of the head: whole blocks of 16, fewer the more outputs and width there are', () => {
  expect(headRows(49_152, 576)).toBe(160);
  expect(headRows(128_256, 4096)).toBe(64);
  expect(headRows(3, 576)).toBe(1024);
  for (const outputs of [32_000, 50_257, 151_936]) expect(headRows(outputs, 576) % 16).toBe(0);
});

test('blocks of attention: a power of two, at least 64 queries each, and a divisor of every padded length', () => {
  expect([8, 64, 120, 128, 256, 504, 512, 1024, 8192].map(queryBlocks)).toEqual([1, 1, 1, 2, 4, 4, 8, 8, 8]);
  for (const length of [1, 9, 130, 1001].map(padded)) for (const longest of [128, 256, 8192]) expect(length % queryBlocks(longest)).toBe(0);
});
