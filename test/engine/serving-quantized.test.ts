import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ServingModel } from '../../src/engine/serving-model.js';
import { ServingWeights } from '../../src/engine/serving-weights.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { dequantizeInt8, quantizeInt8 } from '../../src/models/quantize.js';
import { dequantizeInt4, quantizeInt4 } from '../../src/models/quantize-int4.js';
import { servingModel, type ServingSessionKind } from '../../src/models/serving-form.js';
import { embeddingIsQuantized, type ServingForm } from '../../src/models/serving-form-weights.js';
import { Runtime } from '../../src/runtime/index.js';
import type { HostTensor } from '../../src/tensor/host-tensor.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';
import { goldenPath, largestDifference, oneShotLogits, openTiny, serve } from './support.js';

const TOKENS = [1, 17, 90, 4, 33, 150, 8, 61, 72, 5, 119, 44];
const CONTEXT = 64;
let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open();
});
afterAll(() => runtime.close());

/** Logits [T,V] of a form whose quantized products compute at `accuracyLevel`. */
async function logitsAt(accuracyLevel: 1 | 4, checkpoint: Checkpoint, form: ServingForm): Promise<Float32Array> {
  const weights = await ServingWeights.load(runtime, checkpoint, form, CONTEXT);
  const session = (kind: ServingSessionKind): ReturnType<Runtime['loadSession']> => {
    const { model, weights: names } = servingModel(kind, { config: checkpoint.config, form, contextTokens: CONTEXT, stored: weights.stored, accuracyLevel });
    return runtime.loadSession(model, { name: kind, initializers: new Map(names.map((name) => [name, weights.tensors.get(name)!])) });
  };
  const logits = await oneShotLogits({ runtime, session }, TOKENS);
  weights.dispose();
  return logits;
}

async function float32Logits(checkpoint: Checkpoint): Promise<Float32Array> {
  const model = await serve(runtime, checkpoint, 'float32', CONTEXT);
  const logits = await oneShotLogits(model, TOKENS);
  model.dispose();
  return logits;
}

const range = (values: Float32Array): number => values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);

/** The checkpoint with each matrix as the form rounds it. */
function rounded(checkpoint: Checkpoint, form: 'int4' | 'int8'): Checkpoint {
  const { weights } = checkpoint;
  return {
    ...checkpoint,
    weights: {
      ...weights,
      async float32(name) {
        const values = await weights.float32(name);
        const [rows = 0, columns] = weights.shape(name);
        if (columns === undefined || (name.includes('embed_tokens') && !embeddingIsQuantized(checkpoint.config, form))) return values;
        const fourBits = form === 'int4' && !name.includes('embed_tokens') && !name.includes('lm_head') && !name.includes('down_proj');
        return fourBits ? dequantizeInt4(await quantizeInt4(values, rows, columns)) : dequantizeInt8(await quantizeInt8(values, rows, columns));
      },
    },
  };
}

describe.each(['int4', 'int8'] as const)('the %s serving form', (form) => {
  test.each(['tiny-serving', 'tiny-serving-bias', 'tiny-serving-window'])('%s: computes with exactly the rounded weights', async (name) => {
    const checkpoint = await openTiny(name);
    const wanted = await float32Logits(rounded(checkpoint, form));
    const original = await float32Logits(checkpoint);
    expect(largestDifference(await logitsAt(1, checkpoint, form), wanted)).toBeLessThan(1e-5 * range(wanted));
    // Activations in 8 bits per block: a difference of another order, and far below that of the weights' rounding in 4 bits.
    const served = largestDifference(await logitsAt(4, checkpoint, form), wanted);
    expect(served).toBeLessThan(0.03 * range(wanted));
    if (form === 'int4') expect(largestDifference(original, wanted)).toBeGreaterThan(2 * served);
    await checkpoint.close();
  });
});

describe('a GPTQ or AWQ folder', () => {
  const root = temporaryFolder();

  /** A golden layer of small integers under a config whose heads can be served; its matrices have the same shapes. */
  async function openQuantized(name: string): Promise<Checkpoint> {
    const path = join(root, name);
    mkdirSync(path, { recursive: true });
    const config = JSON.parse(readFileSync(goldenPath(`int4/${name}.json`), 'utf8')) as Record<string, unknown>;
    writeFileSync(join(path, 'config.json'), JSON.stringify({ ...config, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16 }));
    cpSync(goldenPath(`int4/${name}.safetensors`), join(path, 'model.safetensors'));
    for (const file of ['tokenizer.json', 'tokenizer_config.json']) cpSync(goldenPath(`tiny-llama/${file}`), join(path, file));
    return openCheckpoint(path);
  }
  const LAYER = 'model.layers.0';
  const LINEARS = { 'self_attn.qkv': ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'], 'self_attn.o': ['self_attn.o_proj'], 'mlp.gate_up': ['mlp.gate_proj', 'mlp.up_proj'], 'mlp.down': ['mlp.down_proj'] };

  test.each([['gptq', 'int4'], ['gptq', 'int8'], ['gptq-8bit-whole', 'int8'], ['awq', 'int4']] as const)('%s is served in the %s form with the very integers that it stores', async (name, form) => {
    const checkpoint = await openQuantized(name);
    const weights = await ServingWeights.load(runtime, checkpoint, form, CONTEXT);
    expect([...weights.stored.keys()]).toEqual(Object.keys(LINEARS).map((linear) => `${LAYER}.${linear}`));
    for (const [linear, modules] of Object.entries(LINEARS)) {
      const parts = await Promise.all(modules.map((module) => checkpoint.weights.quantized!(`${LAYER}.${module}.weight`)!));
      const joined = (pick: (part: (typeof parts)[number]) => ArrayLike<number>): number[] => parts.flatMap((part) => Array.from(pick(part)));
      const served = (part: string): number[] => Array.from(weights.tensors.get(`${LAYER}.${linear}.${part}`)!.data as Uint8Array | Float32Array);
      expect(served('values')).toEqual(joined(({ packed }) => packed));
      expect(served('scales')).toEqual(joined(({ scales }) => scales));
      expect(served('zero_points')).toEqual(joined(({ zeroPoints }) => zeroPoints));
    }
    weights.dispose();
    await checkpoint.close();
  });

  test.each(['gptq', 'gptq-8bit-whole', 'awq'])('%s: logits are those of the dequantized model', async (name) => {
    const checkpoint = await openQuantized(name);
    // The embedding has no integers in the file, so the form rounds it.
    const { weights } = checkpoint;
    const embedding = 'model.embed_tokens.weight';
    const [rows = 0, columns = 0] = weights.shape(embedding);
    const table = dequantizeInt8(await quantizeInt8(await weights.float32(embedding), rows, columns));
    const wanted = await float32Logits({ ...checkpoint, weights: { ...weights, float32: (tensor) => (tensor === embedding ? Promise.resolve(table.slice()) : weights.float32(tensor)) } });
    expect(range(wanted)).toBeGreaterThan(0.1);
    expect(largestDifference(await logitsAt(1, checkpoint, 'int4'), wanted)).toBeLessThan(1e-5 * range(wanted));
    expect(largestDifference(await logitsAt(4, checkpoint, 'int4'), wanted)).toBeLessThan(0.03 * range(wanted));
    await checkpoint.close();
  });

  test('a variant that changes one of three merged layers rounds that group anew and shares the others', async () => {
    const checkpoint = await openQuantized('gptq');
    const base = await ServingWeights.load(runtime, checkpoint, 'int4', CONTEXT);
    const changed = new Map<string, HostTensor>([[`${LAYER}.self_attn.k_proj.weight`, { dtype: 'float32', shape: [16, 32], data: new Float32Array(512).fill(0.25) }]]);
    const { weights: variant, config } = await base.vary(runtime, checkpoint, 'int4', CONTEXT, { tensors: changed });
    expect([...variant.stored.keys()]).toEqual(['self_attn.o', 'mlp.gate_up', 'mlp.down'].map((linear) => `${LAYER}.${linear}`));
    expect(variant.tensors.has(`${LAYER}.self_attn.qkv.zero_points`)).toBe(false);
    expect(variant.tensors.get(`${LAYER}.mlp.down.values`)!.address).toBe(base.tensors.get(`${LAYER}.mlp.down.values`)!.address);
    const model = new ServingModel({ runtime, checkpoint, config, weights: variant, form: 'int4', contextTokens: CONTEXT });
    expect((await oneShotLogits(model, TOKENS)).every(Number.isFinite)).toBe(true);
    model.dispose();
    base.dispose();
    await checkpoint.close();
  });
});
