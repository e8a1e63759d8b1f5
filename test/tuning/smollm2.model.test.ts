// The training form of the real SmolLM2-135M-Instruct, its 4-bit file dequantized to float32, against transformers on the same weights.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime } from '../../src/runtime/index.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { TrainingHost, type BaseLease } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';
import { openSmollm2, readGoldenLogits } from '../golden/smollm2.js';

let runtime: Runtime;
let checkpoint: Checkpoint;
let lease: BaseLease;
let pass: ModelPass;

beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openSmollm2();
  lease = new TrainingHost(runtime).lease({ key: checkpoint.digest, config: checkpoint.config, weights: checkpoint.weights });
  pass = await ModelPass.create(lease, new WorkingModel(lease).frozen(), { savedActivations: 'layer', maxLengthTokens: 256 });
}, 300_000);

afterAll(async () => {
  pass.dispose();
  await lease.release();
  await checkpoint.close();
  await runtime.close();
});

test.each(['chat', 'review'] as const)('logits over the %s prompt are within 1e-3 of the reference', async (name) => {
  const golden = await readGoldenLogits(name);
  const { vocabSize } = checkpoint.config;
  const logits = await pass.logits(golden.tokens, golden.tokens.map((_, i) => i));
  const last = logits.subarray(-vocabSize);
  expect(golden.last.reduce((most, want, i) => Math.max(most, Math.abs(want - last[i]!)), 0)).toBeLessThanOrEqual(1e-3);
  const columns = golden.tokens.flatMap((_, row) => golden.columns.map((column) => logits[row * vocabSize + column]!));
  expect(golden.atColumns.reduce((most, want, i) => Math.max(most, Math.abs(want - columns[i]!)), 0)).toBeLessThanOrEqual(1e-3);
  const argmax = golden.tokens.map((_, row) => {
    const values = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    return values.indexOf(values.reduce((most, value) => Math.max(most, value), -Infinity));
  });
  expect(argmax).toEqual(golden.argmax);
});
