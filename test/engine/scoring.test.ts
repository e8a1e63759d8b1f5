import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { AdapterContent } from '../../src/adapters/index.js';
import { Engine } from '../../src/engine/index.js';
import type { EngineOptions, ResolvedTarget } from '../../src/engine/index.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { loraModules } from '../../src/models/serving-form-lora.js';
import { overlaid } from '../../src/models/serving-form-weights.js';
import { Runtime } from '../../src/runtime/index.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';
import { largestDifference, logSoftmax, openTiny, randomLora } from './support.js';

let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open();
});
afterAll(() => runtime.close());

/** Logits [T,V] of the training form, with an adapter or changed tensors on top of the base. */
async function trainingLogits(checkpoint: Checkpoint, tokens: readonly number[], content?: AdapterContent): Promise<Float32Array> {
  const { config, weights } = checkpoint;
  const changed = content?.kind === 'variant' ? content.tensors : new Map<string, never>();
  const base = { names: () => weights.names(), shape: (n: string) => weights.shape(n), storedAs: (n: string) => weights.storedAs(n), float32: overlaid((n) => weights.float32(n), changed) };
  const lease = new TrainingHost(runtime).lease({ key: checkpoint.digest, config, weights: base });
  const working = new WorkingModel(lease);
  if (content?.kind === 'lora') working.load(content);
  const pass = await ModelPass.create(lease, working.frozen(), { savedActivations: 'linear', maxLengthTokens: 128 });
  const logits = (await pass.logits(tokens, tokens.map((_, i) => i))).slice();
  pass.dispose();
  await lease.release();
  return logits;
}

/** Log-probabilities of tokens[1…] under logits [T,V]. */
function likelihoods(logits: Float32Array, tokens: readonly number[], vocabSize: number): Float64Array {
  return Float64Array.from(tokens.slice(1), (id, i) => logSoftmax(logits.subarray(i * vocabSize, (i + 1) * vocabSize))[id]!);
}

function target(checkpoint: Checkpoint, content?: AdapterContent): ResolvedTarget {
  const base = { modelId: checkpoint.id, modelDigest: checkpoint.digest };
  return content === undefined ? base : { ...base, adapter: { name: 'tenants/t/adapters/a', tenant: 't', digest: content.digest, load: () => Promise.resolve(content) } };
}

async function withEngine<T>(checkpoint: Checkpoint, options: EngineOptions, use: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = new Engine({ runtime, metrics: createMetrics(), models: { checkpoint: () => Promise.resolve(checkpoint) }, options: { servingForm: 'float32', maxContextTokens: 128, ...options } });
  try {
    return await use(engine);
  } finally {
    await engine.stop({ graceMs: 0 });
  }
}

const tokensOf = (length: number, seed: number): number[] => Array.from({ length }, (_, i) => (i * i * 7 + i * (11 + seed) + 5 * seed) % 160);

/** The base's weights with an adapter's product added: W + scaling·B·A. */
async function merged(checkpoint: Checkpoint, lora: AdapterContent & { kind: 'lora' }): Promise<AdapterContent> {
  const tensors = new Map<string, { dtype: 'float32'; shape: number[]; data: Float32Array }>();
  for (const { module, inputs, outputs } of loraModules(checkpoint.config)) {
    const matrices = lora.modules.get(module);
    if (matrices === undefined) continue;
    const data = (await checkpoint.weights.float32(`${module}.weight`)).slice();
    const { rank, scaling, a, b } = matrices;
    for (let o = 0; o < outputs; o++) for (let i = 0; i < inputs; i++) for (let r = 0; r < rank; r++) data[o * inputs + i]! += scaling * b[o * rank + r]! * a[r * inputs + i]!;
    tensors.set(`${module}.weight`, { dtype: 'float32', shape: [outputs, inputs], data });
  }
  return { kind: 'variant', digest: `${lora.digest}-merged`, tensors };
}

describe('the serving form equals the training form within 1e-5', () => {
  test.each(['tiny-serving', 'tiny-serving-bias', 'tiny-serving-window'])('%s: base and adapter, log-probabilities of every token', async (name) => {
    const checkpoint = await openTiny(name);
    const { vocabSize } = checkpoint.config;
    const lora = randomLora(checkpoint, 21, 4, (module) => !module.includes('k_proj'));
    const sequences = [40, 3, 17, 2, 23].map((length, i) => tokensOf(length, i));
    await withEngine(checkpoint, {}, async (engine) => {
      for (const content of [undefined, lora]) {
        const found = await engine.score({ target: target(checkpoint, content), sequences: sequences.map((tokens) => ({ tokens, scoreFrom: 1 })) });
        for (const [i, tokens] of sequences.entries()) {
          const expected = likelihoods(await trainingLogits(checkpoint, tokens, content), tokens, vocabSize);
          expect(largestDifference(found[i]!.logProbabilities, expected)).toBeLessThan(1e-5);
        }
      }
    });
    await checkpoint.close();
  });

  test('a sequence longer than a batch, in pieces over a slot', async () => {
    const checkpoint = await openTiny('tiny-serving-window');
    const tokens = tokensOf(120, 3);
    await withEngine(checkpoint, { scoringBatchTokens: 32 }, async (engine) => {
      const [whole] = await engine.score({ target: target(checkpoint), sequences: [{ tokens, scoreFrom: 50 }] });
      const expected = likelihoods(await trainingLogits(checkpoint, tokens), tokens, checkpoint.config.vocabSize);
      expect(largestDifference(whole!.logProbabilities, expected.subarray(49))).toBeLessThan(1e-5);
    });
    await checkpoint.close();
  });
});

describe('scoring', () => {
  let checkpoint: Checkpoint;
  beforeAll(async () => {
    checkpoint = await openTiny();
  });
  afterAll(() => checkpoint.close());

  test('one pass over prompts gives every candidate what a full sequence gives it', async () => {
    await withEngine(checkpoint, {}, async (engine) => {
      const prompts = [7, 3, 12, 1].map((length, i) => tokensOf(length, i));
      const candidates = [4, 77, 150];
      const next = await engine.scoreNext({ target: target(checkpoint), prompts, candidates });
      const full = await engine.score({ target: target(checkpoint), sequences: prompts.flatMap((p) => candidates.map((c) => ({ tokens: [...p, c], scoreFrom: p.length }))) });
      expect(largestDifference(next.flatMap((row) => [...row]), full.map((s) => s.logProbabilities[0]!))).toBeLessThan(1e-6);
    });
  });

  test('a variant (here: an adapter merged into its base) equals the adapter within 1e-5, and shares what it does not change', async () => {
    const lora = randomLora(checkpoint, 5, 4, (module) => /layers\.1.*(q_proj|up_proj|down_proj)/.test(module));
    const variant = await merged(checkpoint, lora);
    await withEngine(checkpoint, {}, async (engine) => {
      const sequences = [{ tokens: tokensOf(30, 1), scoreFrom: 1 }];
      const [onAdapter] = await engine.score({ target: target(checkpoint, lora), sequences });
      const [onVariant] = await engine.score({ target: target(checkpoint, variant), sequences });
      const [onBase] = await engine.score({ target: target(checkpoint), sequences });
      expect(largestDifference(onAdapter!.logProbabilities, onVariant!.logProbabilities)).toBeLessThan(1e-5);
      expect(largestDifference(onAdapter!.logProbabilities, onBase!.logProbabilities)).toBeGreaterThan(0.01);
      const expected = likelihoods(await trainingLogits(checkpoint, sequences[0]!.tokens, variant), sequences[0]!.tokens, checkpoint.config.vocabSize);
      expect(largestDifference(onVariant!.logProbabilities, expected)).toBeLessThan(1e-5);
      const [base, own] = engine.residency().models;
      const { hiddenSize: c, intermediateSize: f, heads, kvHeads, headDim } = checkpoint.config;
      expect(own).toMatchObject({ variantDigest: variant.digest, name: 'tenants/t/adapters/a', bytes: 4 * ((heads + 2 * kvHeads) * headDim * c + 3 * f * c) });
      expect(base!.bytes).toBeGreaterThan(own!.bytes);
    });
  });

  test('variants above the limit go, least recently used first, and come back when asked for', async () => {
    const variants = await Promise.all([1, 2].map((seed) => merged(checkpoint, randomLora(checkpoint, seed, 2, (module) => module.includes('layers.0.mlp.down')))));
    await withEngine(checkpoint, { maxVariants: 1 }, async (engine) => {
      const sequences = [{ tokens: tokensOf(9, 1), scoreFrom: 1 }];
      const first = await engine.score({ target: target(checkpoint, variants[0]), sequences });
      await engine.score({ target: target(checkpoint, variants[1]), sequences });
      expect(engine.residency().models.map((m) => m.variantDigest)).toEqual([undefined, variants[1]!.digest]);
      const again = await engine.score({ target: target(checkpoint, variants[0]), sequences });
      expect([...again[0]!.logProbabilities]).toEqual([...first[0]!.logProbabilities]);
    });
  });

  test('a variant with a tensor that the base has not is refused by name', async () => {
    const bad: AdapterContent = { kind: 'variant', digest: 'sha256:bad', tensors: new Map([['model.norm.weight', { dtype: 'float32', shape: [3], data: new Float32Array(3) }]]) };
    await withEngine(checkpoint, {}, async (engine) => {
      await expect(engine.score({ target: target(checkpoint, bad), sequences: [{ tokens: [1, 2], scoreFrom: 1 }] }))
        .rejects.toMatchObject({ reason: 'ADAPTER_INCOMPATIBLE', message: expect.stringContaining('model.norm.weight') });
    });
  });

  test('int8 stays close to float32', async () => {
    const sequences = [{ tokens: tokensOf(60, 2), scoreFrom: 1 }];
    const mean = (values: Float64Array): number => values.reduce((a, b) => a + b) / values.length;
    const [exact, rounded] = await Promise.all((['float32', 'int8'] as const).map((servingForm) =>
      withEngine(checkpoint, { servingForm }, async (engine) => (await engine.score({ target: target(checkpoint), sequences }))[0]!.logProbabilities)));
    expect(Math.abs(mean(exact!) - mean(rounded!))).toBeLessThan(0.02);
    expect(largestDifference(exact!, rounded!)).toBeGreaterThan(0);
  });

  test('bad positions, foreign tokens, too long sequences, an abort', async () => {
    await withEngine(checkpoint, { maxContextTokens: 8 }, async (engine) => {
      const score = (tokens: number[], scoreFrom: number, signal?: AbortSignal): Promise<unknown> =>
        engine.score({ target: target(checkpoint), sequences: [{ tokens, scoreFrom }], ...(signal === undefined ? {} : { signal }) });
      await expect(score([1, 2], 0)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      await expect(score([1, 2], 2)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      await expect(score([1, 160], 1)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      await expect(score(tokensOf(10, 1), 1)).rejects.toMatchObject({ reason: 'CONTEXT_LENGTH_EXCEEDED' });
      await expect(score([1, 2, 3], 1, AbortSignal.abort())).rejects.toMatchObject({ code: 'CANCELLED' });
      await expect(engine.scoreNext({ target: target(checkpoint), prompts: [[]], candidates: [1] })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      expect(await score([1, 2, 3], 1)).toHaveLength(1);
    });
  });
});
