/** Variants with an architecture of their own: edited before training, served beside their base, against models built by hand. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { join } from 'node:path';
import type { AdapterContent } from '../../src/adapters/index.js';
import { Engine, type EngineOptions, type ResolvedTarget } from '../../src/engine/index.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import type { ArchitectureEdits } from '../../src/models/architecture.js';
import { exportCheckpoint, openCheckpoint, type Checkpoint, type ExportFormat } from '../../src/models/checkpoint.js';
import { feedForwardSize, weightShapes, type DecoderConfig } from '../../src/models/config.js';
import type { WordVectors } from '../../src/models/pretrained-embeddings.js';
import type { PromptExample } from '../../src/models/prompt.js';
import { variantConfig, variantOrigin } from '../../src/models/variant-architecture.js';
import { Runtime } from '../../src/runtime/index.js';
import { tokenRow } from '../../src/tuning/batches.js';
import { startingModel } from '../../src/tuning/edit-model.js';
import { runTuning, type StageSpecification, type TuningResult } from '../../src/tuning/index.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';
import { largestDifference, openTiny, randomLora } from './support.js';

const folder = temporaryFolder();

type Variant = AdapterContent & { kind: 'variant' };

let runtime: Runtime;
let checkpoint: Checkpoint;
beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openTiny();
});
afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
});

const TOKENS = Array.from({ length: 24 }, (_, i) => (i * i * 7 + i * 11 + 3) % 160);
const ROWS = [0, 1, 2].map((k) => tokenRow({ tokens: TOKENS.slice(k, 12 + 4 * k), lossMask: TOKENS.slice(k, 12 + 4 * k).map((_, i) => i > 0) })!);
let made = 0;

/** The base edited, not trained: as a variant, and its logits [T,V] in the training form. */
async function edited(architecture: ArchitectureEdits, seed = 4): Promise<{ variant: Variant; logits: Float32Array }> {
  const { config, weights, digest } = checkpoint;
  const lease = new TrainingHost(runtime).lease({ key: digest, config, weights });
  const vectors = (): Promise<WordVectors> => Promise.reject(new Error('no vectors'));
  const start = await startingModel({ lease, checkpoint, stage: { architecture }, rows: () => Promise.resolve(ROWS), vectors, seed, signal: undefined });
  const working = new WorkingModel(lease, undefined, start);
  const logits = await logitsOf(working, lease);
  const content = await working.variant();
  for (const [name, origin] of start.unchanged) expect(variantOrigin(config, content.architecture, name)).toBe(origin);
  await lease.release();
  return { variant: { ...content, digest: `sha256:edited-${made++}` }, logits };
}

async function logitsOf(working: WorkingModel, lease: ReturnType<TrainingHost['lease']>): Promise<Float32Array> {
  const pass = await ModelPass.create(lease, working.frozen(), { savedActivations: 'layer', maxLengthTokens: 32 });
  const logits = (await pass.logits(TOKENS, TOKENS.map((_, i) => i))).slice();
  pass.dispose();
  return logits;
}

async function baseLogits(base: Pick<Checkpoint, 'config' | 'weights' | 'digest'> = checkpoint): Promise<Float32Array> {
  const lease = new TrainingHost(runtime).lease({ key: base.digest, config: base.config, weights: base.weights });
  const logits = await logitsOf(new WorkingModel(lease), lease);
  await lease.release();
  return logits;
}

function target(content?: AdapterContent): ResolvedTarget {
  const base = { modelId: checkpoint.id, modelDigest: checkpoint.digest };
  return content === undefined ? base : { ...base, adapter: { name: `tenants/t/adapters/${content.digest.slice(7)}`, tenant: 't', digest: content.digest, load: () => Promise.resolve(content) } };
}

async function withEngine<T>(use: (engine: Engine) => Promise<T>, options: EngineOptions = {}, base = checkpoint): Promise<T> {
  const engine = new Engine({ runtime, metrics: createMetrics(), models: { checkpoint: () => Promise.resolve(base) }, options: { servingForm: 'float32', maxContextTokens: 96, maxVariants: 4, ...options } });
  try {
    return await use(engine);
  } finally {
    await engine.stop({ graceMs: 0 });
  }
}

/** Log-probabilities of every token after the first, in the serving form. */
const scores = async (engine: Engine, on: ResolvedTarget): Promise<Float64Array> => (await engine.score({ target: on, sequences: [{ tokens: TOKENS, scoreFrom: 1 }] }))[0]!.logProbabilities;
const greedy = async (engine: Engine, on: ResolvedTarget, prompt: readonly number[]): Promise<number[]> => {
  const ids: number[] = [];
  for await (const event of engine.generate({ tenant: 't', target: on, promptTokens: prompt, sampling: { maxTokens: 12 } })) if (event.kind === 'token') ids.push(event.id);
  return ids;
};

/** The same base with only some of its layers, as a checkpoint of its own. */
function withLayers(layers: readonly number[]): Checkpoint {
  const source = (name: string): string => name.replace(/^model\.layers\.(\d+)\./, (_, i: string) => `model.layers.${layers[Number(i)]!}.`);
  const config: DecoderConfig = { ...checkpoint.config, layers: layers.length };
  const { weights } = checkpoint;
  return {
    ...checkpoint, config, digest: `sha256:layers-${layers.join('-')}`,
    weights: { names: () => [...weightShapes(config).keys()], shape: (name) => weights.shape(source(name)), storedAs: (name) => weights.storedAs(source(name)), float32: (name) => weights.float32(source(name)) },
  };
}

const bytes = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Buffer => Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
const same = (a: ArrayBufferView, b: ArrayBufferView): boolean => bytes(a).equals(bytes(b));
const bytesOf = (variant: Variant): number => [...variant.tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0);

describe('before training', () => {
  const identities: [string, ArchitectureEdits][] = [
    ['inserted copies, below, between and above', { insert: [{ at: 0 }, { at: 1, count: 2 }, { at: 2 }] }],
    ['inserted fresh layers', { insert: [{ at: 1, initialize: 'fresh' }] }],
    ['grown neurons', { growFeedForward: [{ neurons: 32 }] }],
    ['neurons grown in one layer', { growFeedForward: [{ neurons: 7, layers: [1] }], insert: [{ at: 2, copyOf: 1 }] }],
  ];
  test.each(identities)('%s change no logit in either form', async (_name, edits) => {
    const { variant, logits } = await edited(edits);
    expect(largestDifference(logits, await baseLogits())).toBeLessThan(1e-6);
    for (const servingForm of ['float32', 'int8'] as const) {
      await withEngine(async (engine) => {
        // Log-probabilities near -5 are some 5e-7 apart; the first norm of a layer inserted at 0 adds before it normalizes, and rounds otherwise.
        expect(largestDifference(await scores(engine, target(variant)), await scores(engine, target()))).toBeLessThan(edits.insert?.[0]?.at === 0 ? 2e-6 : 1e-6);
        expect(await greedy(engine, target(variant), TOKENS.slice(0, 5))).toEqual(await greedy(engine, target(), TOKENS.slice(0, 5)));
      }, { servingForm });
    }
  });

  test('an inserted copy holds its two zero matrices alone; all else is shared, moved layers as well', async () => {
    const { variant } = await edited({ insert: [{ at: 0 }] });
    const { hiddenSize: c, intermediateSize: f, heads, headDim } = checkpoint.config;
    expect([...variant.tensors.keys()]).toEqual(['model.layers.0.self_attn.o_proj.weight', 'model.layers.0.mlp.down_proj.weight']);
    expect(variant.architecture).toEqual({ layerOrigins: [0, 0, 1], intermediateSizes: [f, f, f], tieWordEmbeddings: true });
    await withEngine(async (engine) => {
      await scores(engine, target(variant));
      const own = engine.residency().models.find((model) => model.variantDigest === variant.digest)!;
      expect(own.bytes).toBe(4 * (c * heads * headDim + c * f));
      expect(own.bytes).toBe(bytesOf(variant));
    });
  });

  test('removed layers give the smaller model bit for bit, with nothing held', async () => {
    for (const [remove, stay] of [[[0], [1]], [[1], [0]]] as const) {
      const { variant, logits } = await edited({ remove: [...remove] });
      const smaller = withLayers(stay);
      expect(largestDifference(logits, await baseLogits(smaller))).toBe(0);
      expect(variant.tensors.size).toBe(0);
      const expected = await withEngine((engine) => scores(engine, { modelId: smaller.id, modelDigest: smaller.digest }), {}, smaller);
      await withEngine(async (engine) => {
        expect(largestDifference(await scores(engine, target(variant)), expected)).toBe(0);
        expect(engine.residency().models.find((model) => model.variantDigest === variant.digest)!.bytes).toBe(0);
      });
    }
  });

  test('pruned neurons: what the serving form computes is what the training form does', async () => {
    const { variant, logits } = await edited({ pruneFeedForward: [{ neurons: 40, layers: [0] }, { neurons: 8, layers: [1], importance: 'activation' }] });
    const config = variantConfig(checkpoint.config, variant.architecture);
    expect([feedForwardSize(config, 0), feedForwardSize(config, 1)]).toEqual([56, 88]);
    const { vocabSize: v } = config;
    const expected = TOKENS.slice(1).map((token, t) => {
      const row = [...logits.subarray(t * v, (t + 1) * v)];
      return row[token]! - Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0));
    });
    await withEngine(async (engine) => expect(largestDifference(await scores(engine, target(variant)), expected)).toBeLessThan(1e-5));
  });
});

test.each<ExportFormat>([{ kind: 'huggingFace', dtype: 'float32' }, { kind: 'gguf', storage: 'F32' }])('exported as %j, layers of all widths come back as one model with the same logits', async (format) => {
  const { variant, logits } = await edited({ insert: [{ at: 1 }], growFeedForward: [{ neurons: 16, layers: [0] }], pruneFeedForward: [{ neurons: 24, layers: [1] }] });
  const path = join(folder, format.kind === 'gguf' ? 'edited.gguf' : 'edited');
  await exportCheckpoint(checkpoint, path, format, variant);
  const back = await openCheckpoint(path);
  expect([back.config.layers, back.config.intermediateSize, back.config.intermediateSizes]).toEqual([3, 112, undefined]);
  expect(largestDifference(await baseLogits(back), logits)).toBeLessThan(1e-5);
  await back.close();
});

describe('one server', () => {
  test('base, LoRA and variants of other depths decode together as they do alone', async () => {
    const deeper = (await edited({ insert: [{ at: 1, count: 2 }] })).variant;
    const moved = new Map(deeper.tensors);
    const name = 'model.layers.1.self_attn.o_proj.weight';
    moved.set(name, { ...moved.get(name)!, data: (await checkpoint.weights.float32('model.layers.1.self_attn.o_proj.weight')).slice() });
    const contents = [undefined, randomLora(checkpoint, 3, 4), { ...deeper, tensors: moved }, (await edited({ remove: [0] })).variant];
    const prompts = contents.map((_, i) => TOKENS.slice(i, 6 + 2 * i));
    await withEngine(async (engine) => {
      const alone: number[][] = [];
      for (const [i, content] of contents.entries()) alone.push(await greedy(engine, target(content), prompts[i]!));
      const together = await Promise.all(contents.map((content, i) => greedy(engine, target(content), prompts[i]!)));
      expect(together).toEqual(alone);
      const onOnePrompt = await Promise.all(contents.map((content) => greedy(engine, target(content), prompts[0]!)));
      expect(new Set(onOnePrompt.map((ids) => ids.join())).size).toBe(4);
    });
  });

  test('an architecture that the base can not have is refused, and so is a tensor that is missing', async () => {
    const { variant } = await edited({ growFeedForward: [{ neurons: 32 }] });
    const without = { ...variant, digest: 'sha256:without', tensors: new Map([...variant.tensors].slice(1)) };
    const beyond = { ...variant, digest: 'sha256:beyond', architecture: { ...variant.architecture!, layerOrigins: [0, 2] } };
    await withEngine(async (engine) => {
      await expect(scores(engine, target(without))).rejects.toMatchObject({ reason: 'ADAPTER_INCOMPATIBLE', message: expect.stringContaining('gate_proj.weight: is missing') });
      await expect(scores(engine, target(beyond))).rejects.toMatchObject({ reason: 'ADAPTER_INCOMPATIBLE', message: expect.stringContaining('layer 2 of a base with 2') });
    });
  });
});

const EXAMPLES: PromptExample[] = Array.from({ length: 12 }, (_, i) => ({ kind: 'completion', prompt: `The ${'abcdef'[i % 6]!}${i} is `, completion: `${'xyz'[i % 3]!}${i % 4}` }));

async function tune(stage: Partial<StageSpecification>, vectors?: WordVectors): Promise<{ result: TuningResult; losses: number[]; variant: Variant }> {
  const losses: number[] = [];
  const result = await runTuning({
    checkpoint, host: new TrainingHost(runtime), examples: () => EXAMPLES, emit: ({ loss }) => void losses.push(loss),
    specification: { baseModel: 'tiny', seed: 2, stages: [{ dataset: 'd', trainable: { kind: 'full' }, steps: 12, batchSize: 12, learningRate: 2e-3, schedule: { kind: 'constant' }, ...stage }] },
    ...(vectors === undefined ? {} : { vectors: () => Promise.resolve(vectors) }),
  });
  if (result.content.kind !== 'variant') throw new Error('not a variant');
  return { result, losses, variant: { ...result.content, digest: `sha256:tuned-${made++}` } };
}

describe('training', () => {
  const methods: [string, Partial<StageSpecification>][] = [
    ['inserted layers alone (LLaMA Pro)', { architecture: { insert: [{ at: 1 }, { at: 2 }] }, trainable: { kind: 'layers', indices: [1, 3] } }],
    ['grown neurons', { architecture: { growFeedForward: [{ neurons: 16 }] }, trainable: { kind: 'components', components: ['feedForward'] } }],
    ['neurons grown everywhere, one layer trained', { architecture: { growFeedForward: [{ neurons: 16 }] }, trainable: { kind: 'layers', indices: [0] } }],
    ['pruned neurons', { architecture: { pruneFeedForward: [{ neurons: 24, importance: 'activation' }] } }],
    ['a layer removed by measured importance', { architecture: { removeLeastImportant: 1 } }],
    ['dropout everywhere', { architecture: { dropout: { attention: 0.1, residual: 0.1, embedding: 0.1 } } }],
    ['LoRA on an inserted layer', { architecture: { insert: [{ at: 1 }] }, trainable: { kind: 'lora', rank: 4, layers: [1] }, learningRate: 2e-2 }],
  ];
  test.each(methods)('%s: the loss falls, what is frozen stays byte for byte, and the engine serves it', async (_name, stage) => {
    const { losses, variant } = await tune(stage);
    expect(losses.at(-1)!).toBeLessThan(0.97 * losses[0]!);
    const config = variantConfig(checkpoint.config, variant.architecture);
    const { tensors, lora } = selectTrainable(config, stage.trainable ?? { kind: 'full' });
    const trained = (name: string): boolean => tensors.has(name) || lora.has(name.replace(/\.weight$/, ''));
    const before = (await edited(stage.architecture!, 2)).variant;
    for (const [name, { data }] of variant.tensors) if (!trained(name)) expect(same(data, before.tensors.get(name)!.data)).toBe(true);
    expect([...weightShapes(config).keys()].filter((name) => !variant.tensors.has(name) && (trained(name) || before.tensors.has(name)))).toEqual([]);
    await withEngine(async (engine) => expect((await scores(engine, target(variant))).every(Number.isFinite)).toBe(true));
  });

  test('the same seed gives the same bytes, measured importance and dropout included', async () => {
    const stage: Partial<StageSpecification> = { architecture: { insert: [{ at: 2, initialize: 'fresh' }], removeLeastImportant: 1, pruneFeedForward: [{ neurons: 8, importance: 'activation' }], dropout: { attention: 0.2, residual: 0.1 } }, steps: 3 };
    const [first, second] = [await tune(stage), await tune(stage)];
    expect(first.losses).toEqual(second.losses);
    expect(first.variant.architecture).toEqual(second.variant.architecture);
    for (const [name, { data }] of first.variant.tensors) expect(same(data, second.variant.tensors.get(name)!.data)).toBe(true);
  });

  test('replaced embeddings: the head keeps the base\'s rows, the report covers the data, training improves the loss', async () => {
    const letters = Array.from({ length: 26 }, (_, i) => String.fromCharCode(97 + i));
    const vectors: WordVectors = {
      format: 'glove', dimension: 8, duplicates: 0, words: new Map(letters.map((letter, i) => [letter, i])), continuations: new Map(),
      vectors: Float32Array.from({ length: 26 * 8 }, (_, i) => Math.sin(i * 1.7)),
    };
    const { losses, variant, result } = await tune({ embeddings: { source: 'tenants/t/embeddings/e' }, trainable: { kind: 'components', components: ['norms', 'attention'] }, steps: 16, learningRate: 5e-3 }, vectors);
    expect(result.embeddings!.tokens.exact).toBeGreaterThan(20);
    const { exact, lowerCase, prefix, kept } = result.embeddings!.dataShares!;
    expect(exact + lowerCase + prefix + kept).toBeCloseTo(1, 10);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    expect(variant.architecture?.tieWordEmbeddings).toBe(false);
    expect(variant.tensors.has('model.embed_tokens.weight')).toBe(true);
    expect(variant.tensors.has('lm_head.weight')).toBe(false);
    await withEngine(async (engine) => {
      expect((await scores(engine, target(variant))).every(Number.isFinite)).toBe(true);
      const own = engine.residency().models.find((model) => model.variantDigest === variant.digest)!;
      const { vocabSize, hiddenSize } = checkpoint.config;
      expect(own.bytes).toBeLessThan(2 * 4 * vocabSize * hiddenSize + bytesOf(variant) - 4 * vocabSize * hiddenSize);
    });
  });
});
