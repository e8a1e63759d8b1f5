// Every family against transformers (scripts/golden/families.py), with each variant of rope and attention that its configs can name:
// logits of both forms at 200 positions, cached decoding, and greedy tokens of the two forms.
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Decode } from '../../src/engine/decode.js';
import { KvCache } from '../../src/engine/kv-cache.js';
import { Prefill } from '../../src/engine/prefill.js';
import type { ServingModel } from '../../src/engine/serving-model.js';
import { exportCheckpoint } from '../../src/models/checkpoint-export.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { parseHfConfig, toHfConfig } from '../../src/models/config.js';
import { Runtime } from '../../src/runtime/index.js';
import { parseSafetensors } from '../../src/tensor/safetensors.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';
import { goldenPath, oneShotLogits, serve } from '../engine/support.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

interface Golden {
  readonly tokens: number[];
  readonly column: number;
  readonly configs: Record<string, Record<string, unknown>>;
}

const { abs, exp, log, max } = Math;
const TOLERANCE = 1e-4;
const CONTEXT = 256;
const PROMPT = 150;
const VOCABULARY = 160;
const folder = temporaryFolder();
const families = readdirSync(goldenPath('families')).filter((name) => name.endsWith('.json')).map((name) => name.slice(0, -'.json'.length));
const goldenOf = (family: string): Golden => JSON.parse(readFileSync(goldenPath(`families/${family}.json`), 'utf8')) as Golden;
const variants = families.flatMap((family) => Object.keys(goldenOf(family).configs).map((variant) => [family, variant] as const));

let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open();
});
afterAll(() => runtime.close());

/** The family's checkpoint with the variant's config.json. */
async function open(family: string, variant: string): Promise<Checkpoint> {
  const path = join(folder, `${family}-${variant}`);
  mkdirSync(path, { recursive: true });
  cpSync(goldenPath(`families/${family}`), path, { recursive: true });
  writeFileSync(join(path, 'config.json'), JSON.stringify(goldenOf(family).configs[variant]));
  return openCheckpoint(path);
}

function logSumExp(row: Float32Array): number {
  let most = -Infinity;
  let sum = 0;
  for (const value of row) most = max(most, value);
  for (const value of row) sum += exp(value - most);
  return most + log(sum);
}

/** Largest difference of rows of logits [.., V] from transformers' at positions from `first` on. */
function difference(family: string, variant: string, rows: Float32Array, first: number): number {
  const { column } = goldenOf(family);
  const tensors = parseSafetensors(readFileSync(goldenPath(`families/${family}.safetensors`)));
  const logits = tensors.get(`${variant}/logits`)!.data as Float32Array;
  const sums = tensors.get(`${variant}/logSumExp`)!.data as Float32Array;
  const columns = VOCABULARY / column;
  let most = 0;
  for (let at = 0; at < rows.length / VOCABULARY; at++) {
    const row = rows.subarray(at * VOCABULARY, (at + 1) * VOCABULARY);
    for (let i = 0; i < columns; i++) most = max(most, abs(row[i * column]! - logits[(first + at) * columns + i]!));
    most = max(most, abs(logSumExp(row) - sums[first + at]!));
  }
  return most;
}

const largest = (row: Float32Array): number => row.reduce((best, value, i) => (value > row[best]! ? i : best), 0);

async function trainingPass(checkpoint: Checkpoint): Promise<{ pass: ModelPass; release: () => Promise<void> }> {
  const lease = new TrainingHost(runtime).lease({ key: checkpoint.digest, config: checkpoint.config, weights: checkpoint.weights });
  const pass = await ModelPass.create(lease, new WorkingModel(lease).frozen(), { savedActivations: 'linear', maxLengthTokens: CONTEXT });
  return {
    pass,
    release: () => {
      pass.dispose();
      return lease.release();
    },
  };
}

/** The prompt in pieces, then token after token: `next` gives what follows from the last row of logits. Gives all rows after the prompt's end. */
async function decoded(model: ServingModel, prompt: readonly number[], next: (row: Float32Array, step: number) => number | undefined): Promise<Float32Array> {
  const cache = new KvCache(model.runtime, model.config, 1, CONTEXT);
  const prefill = new Prefill(model, cache, 64);
  const decode = new Decode(model, cache);
  const rows: Float32Array[] = [];
  for (let done = 0; done < prompt.length;) done = await prefill.chunk(prompt, done, 0, undefined, undefined);
  rows.push((await prefill.logits()).slice());
  for (let position = prompt.length; ; position++) {
    const token = next(rows.at(-1)!, rows.length - 1);
    if (token === undefined) break;
    const [row] = await decode.step([{ token, position, adapter: undefined }]);
    rows.push(row!.slice());
  }
  prefill.dispose();
  decode.dispose();
  cache.dispose();
  return Float32Array.from(rows.flatMap((row) => [...row]));
}

describe.each(variants)('%s, %s', (family, variant) => {
  const { tokens } = goldenOf(family);

  test('both forms give the logits of transformers, in one pass and token after token', async () => {
    const checkpoint = await open(family, variant);
    const { pass, release } = await trainingPass(checkpoint);
    const training = await pass.logits(tokens, tokens.map((_, i) => i));
    const model = await serve(runtime, checkpoint, 'float32', CONTEXT);
    const oneShot = await oneShotLogits(model, tokens);
    const steps = await decoded(model, tokens.slice(0, PROMPT), (_, step) => tokens[PROMPT + step]);
    const differences = { training: difference(family, variant, training, 0), serving: difference(family, variant, oneShot, 0), decoding: difference(family, variant, steps, PROMPT - 1) };
    expect(Object.entries(differences).filter(([, most]) => !(most <= TOLERANCE))).toEqual([]);
    model.dispose();
    await release();
    await checkpoint.close();
  });

  test('its config survives being written', () => {
    const config = parseHfConfig(goldenOf(family).configs[variant]);
    expect(parseHfConfig(JSON.parse(JSON.stringify(toHfConfig(config, 'float32'))))).toEqual(config);
  });
});

test.each(families)('%s: what is read and written again is the file that transformers wrote', async (family) => {
  const checkpoint = await openCheckpoint(goldenPath(`families/${family}`));
  const path = join(folder, `${family}-written`);
  await exportCheckpoint(checkpoint, path, { kind: 'huggingFace', dtype: 'float16' });
  const [written, original] = [path, goldenPath(`families/${family}`)].map((from) => parseSafetensors(readFileSync(join(from, 'model.safetensors'))));
  expect([...written!.keys()].sort()).toEqual([...original!.keys()].sort());
  for (const [name, tensor] of original!) expect(written!.get(name)).toEqual(tensor);
  await checkpoint.close();
});

test.each(['qwen2', 'qwen3'])('%s: a GGUF file holds the same model', async (family) => {
  const checkpoint = await openCheckpoint(goldenPath(`families/${family}`));
  const path = join(folder, `${family}.gguf`);
  await exportCheckpoint(checkpoint, path, { kind: 'gguf', storage: 'F32' });
  const read = await openCheckpoint(path);
  // The file holds float32.
  expect(read.config).toEqual({ ...checkpoint.config, rmsNormEpsilon: Math.fround(checkpoint.config.rmsNormEpsilon) });
  for (const name of checkpoint.weights.names()) expect(await read.weights.float32(name)).toEqual(await checkpoint.weights.float32(name));
  await Promise.all([read.close(), checkpoint.close()]);
});

test('families that are not written as GGUF, and what its architectures lack, are refused by name', async () => {
  for (const [family, variant, why] of [['gpt2', 'plain', /models of the GPT-2 family/], ['qwen2', 'yarn', /yarn rotary scalings of the Qwen2 family/], ['qwen3', 'upper-window', /sliding windows of the Qwen3 family/]] as const) {
    const checkpoint = await open(family, variant);
    await expect(exportCheckpoint(checkpoint, join(folder, 'refused.gguf'), { kind: 'gguf', storage: 'F32' })).rejects.toMatchObject({ reason: 'MODEL_UNSUPPORTED', message: expect.stringMatching(why) });
    await checkpoint.close();
  }
});

test.each(families)('%s: greedy tokens of the engine are those of the training form', async (family) => {
  const checkpoint = await openCheckpoint(goldenPath(`families/${family}`));
  const { pass, release } = await trainingPass(checkpoint);
  const model = await serve(runtime, checkpoint, 'float32', CONTEXT);
  const prompt = goldenOf(family).tokens.slice(0, 20);
  const served: number[] = [];
  await decoded(model, prompt, (row) => {
    if (served.length === 24) return undefined;
    served.push(largest(row));
    return served.at(-1);
  });
  const trained: number[] = [];
  for (let i = 0; i < served.length; i++) {
    const text = [...prompt, ...trained];
    trained.push(largest(await pass.logits(text, [text.length - 1])));
  }
  expect(served).toEqual(trained);
  model.dispose();
  await release();
  await checkpoint.close();
});
