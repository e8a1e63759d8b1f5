import { afterEach, describe, expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { exportCheckpoint, openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { ropeFrequencies } from '../../src/models/config-rope.js';
import { createTokenizer } from '../../src/models/tokenizer.js';
import { tokenizerJsonFromGguf } from '../../src/models/tokenizer-gguf.js';
import { ggufTokenizerFields } from '../../src/models/tokenizer-gguf-write.js';
import { readGgufHeader, type GgufValue } from '../../src/tensor/gguf.js';
import { quantize } from '../../src/tensor/gguf-quantize.js';
import { hostTensor } from '../../src/tensor/host-tensor.js';
import { readSafetensorsHeader, readTensor } from '../../src/tensor/safetensors.js';
import { GOLDEN } from '../golden/smollm2.js';
import { metadataMap } from '../tensor/gguf-writer.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const folder = temporaryFolder();
const opened: Checkpoint[] = [];
const open = async (path: string): Promise<Checkpoint> => {
  const checkpoint = await openCheckpoint(path);
  opened.push(checkpoint);
  return checkpoint;
};
afterEach(async () => {
  await Promise.all(opened.splice(0).map((checkpoint) => checkpoint.close()));
});

const weights = async (checkpoint: Checkpoint): Promise<Map<string, Float32Array>> => {
  const out = new Map<string, Float32Array>();
  for (const name of checkpoint.weights.names()) out.set(name, await checkpoint.weights.float32(name));
  return out;
};

function largest(values: Iterable<number>): number {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

describe('a checkpoint written as GGUF', () => {
  test.each(['tiny-llama', 'tiny-llama-float16'])('in F32 comes back as it was: %s', async (name) => {
    const source = await open(join(GOLDEN, name));
    const path = join(folder, `${name}.gguf`);
    await exportCheckpoint(source, path, { kind: 'gguf', storage: 'F32' });
    const back = await open(path);
    expect(back.config).toEqual({ ...source.config, rmsNormEpsilon: Math.fround(source.config.rmsNormEpsilon) });
    expect(await weights(back)).toEqual(await weights(source));
    for (const text of ['The quick 12.50 (not bad!)\n\tfine', '<s>x</s>', 'é', "I'm   here "]) {
      for (const options of [{}, { addSpecialTokens: true }, { parseSpecial: false }]) {
        expect(back.tokenizer.encode(text, options)).toEqual(source.tokenizer.encode(text, options));
      }
    }
    expect(back.chatTemplate?.source).toBe(source.chatTemplate?.source);
  });

  test('in F16 and Q8_0 is near, norms and biases exact; rows that are no whole blocks stay F16', async () => {
    const seen = new Set<string>();
    for (const model of ['tiny-llama', 'tiny-serving']) {
      const source = await open(join(GOLDEN, model));
      const wanted = await weights(source);
      for (const [storage, error] of [['F16', 2 ** -11], ['Q8_0', 1 / 127]] as const) {
        const path = join(folder, `${storage}.gguf`);
        await exportCheckpoint(source, path, { kind: 'gguf', storage });
        const back = await open(path);
        for (const [name, values] of await weights(back)) {
          const columns = source.weights.shape(name).at(-1) as number;
          const stored = source.weights.shape(name).length === 1 ? 'F32' : storage === 'Q8_0' && columns % 32 === 0 ? 'Q8_0' : 'F16';
          expect([name, back.weights.storedAs(name)]).toEqual([name, stored]);
          seen.add(`${storage} ${stored}`);
          const given = wanted.get(name) as Float32Array;
          const difference = largest(values.map((value, i) => value - (given[i] as number)));
          expect(difference).toBeLessThanOrEqual(stored === 'F32' ? 0 : error * largest(given));
        }
      }
    }
    expect([...seen].sort()).toEqual(['F16 F16', 'F16 F32', 'Q8_0 F16', 'Q8_0 F32', 'Q8_0 Q8_0']);
  });

  test('in Q8_0 holds the bytes that the gguf package quantizes to', async () => {
    const golden = await readSafetensorsHeader(join(GOLDEN, 'blocks.safetensors'));
    const values = (await readTensor(golden, 'q8_0.source')).data as Float32Array;
    const { tensors } = await readGgufHeader(join(GOLDEN, 'blocks.gguf'));
    const info = tensors.get('q8_0');
    const bytes = readFileSync(join(GOLDEN, 'blocks.gguf')).subarray(info?.offsetBytes, (info?.offsetBytes ?? 0) + (info?.lengthBytes ?? 0));
    expect(Buffer.from(quantize('Q8_0', values, 'x')).toString('hex')).toBe(bytes.toString('hex'));
    expect([...quantize('Q8_0', new Float32Array(32), 'x')]).toEqual(Array(34).fill(0));
  });

  test('replaces the file that was there', async () => {
    const source = await open(join(GOLDEN, 'tiny-llama'));
    const path = join(folder, 'twice.gguf');
    for (const storage of ['F16', 'F32'] as const) await exportCheckpoint(source, path, { kind: 'gguf', storage });
    expect((await open(path)).weights.storedAs('model.embed_tokens.weight')).toBe('F32');
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  test('carries a llama3 rotary scaling as divisors', async () => {
    const source = await open(join(GOLDEN, 'tiny-llama-sharded'));
    const path = join(folder, 'scaled.gguf');
    await exportCheckpoint(source, path, { kind: 'gguf', storage: 'F32' });
    const back = await open(path);
    expect(back.config.ropeScaling?.kind).toBe('divisors');
    const [got, wanted] = [ropeFrequencies(back.config), ropeFrequencies(source.config)];
    got.forEach((frequency, i) => expect(Math.abs(frequency / (wanted[i] as number) - 1)).toBeLessThan(1e-6));
    expect([...wanted]).not.toEqual([...ropeFrequencies({ headDim: source.config.headDim, ropeTheta: source.config.ropeTheta })]);
    expect(await weights(back)).toEqual(await weights(source));
  });

  test.each([['F16', 70_000], ['F16', NaN], ['Q8_0', 1e7], ['Q8_0', NaN]] as const)('in %s refuses the value %s by tensor, leaving no file', async (storage, value) => {
    const source = await open(join(GOLDEN, 'tiny-serving'));
    const name = 'model.layers.0.self_attn.q_proj.weight';
    const shape = source.weights.shape(name);
    const tensor = hostTensor('float32', shape, (await source.weights.float32(name)).fill(value, 3, 4));
    const path = join(folder, 'refused.gguf');
    const change = { kind: 'variant', tensors: new Map([[name, tensor]]) } as const;
    await expect(exportCheckpoint(source, path, { kind: 'gguf', storage }, change)).rejects.toMatchObject({ reason: 'MODEL_UNSUPPORTED', message: expect.stringContaining('blk.0.attn_q.weight') });
    expect(readdirSync(folder).filter((file) => file.startsWith('refused'))).toEqual([]);
  });
});

describe('a merged checkpoint', () => {
  const module = 'model.layers.1.mlp.down_proj';
  const name = `${module}.weight`;
  const formats = [['gguf', { kind: 'gguf', storage: 'F32' }], ['huggingFace', { kind: 'huggingFace', dtype: 'float32' }]] as const;

  test.each(formats)('adds scaling · B · A to its modules and nothing else (%s)', async (kind, format) => {
    const source = await open(join(GOLDEN, 'tiny-llama'));
    const [outputs, inputs] = source.weights.shape(name) as [number, number];
    const a = Float32Array.from({ length: 2 * inputs }, (_, i) => Math.sin(i));
    const b = Float32Array.from({ length: outputs * 2 }, (_, i) => Math.cos(i));
    const path = join(folder, `merged-${kind}`);
    await exportCheckpoint(source, path, format, { kind: 'lora', modules: new Map([[module, { rank: 2, scaling: 0.5, a, b }]]) });
    const back = await weights(await open(path));
    for (const [tensor, values] of await weights(source)) {
      const wanted = values.map((value, at) => {
        const [row, column] = [Math.floor(at / inputs), at % inputs];
        const product = (r: number): number => (b[row * 2 + r] as number) * (a[r * inputs + column] as number);
        return tensor === name ? value + 0.5 * (product(0) + product(1)) : value;
      });
      expect({ tensor, values: back.get(tensor) }).toEqual({ tensor, values: wanted });
    }
  });

  test('of a variant has its tensors', async () => {
    const source = await open(join(GOLDEN, 'tiny-llama'));
    const tensor = hostTensor('bfloat16', [48], new Uint16Array(48).fill(0x3fc0));
    const path = join(folder, 'variant');
    await exportCheckpoint(source, path, { kind: 'huggingFace', dtype: 'float16' }, { kind: 'variant', tensors: new Map([['model.norm.weight', tensor]]) });
    const back = await open(path);
    expect([...(await back.weights.float32('model.norm.weight'))]).toEqual(Array(48).fill(1.5));
    expect(back.chatTemplate?.source).toBe(source.chatTemplate?.source);
    expect([back.config.bosTokenId, back.config.eosTokenIds]).toEqual([1, [2]]);
  });
});

describe('a tokenizer written as GGUF metadata', () => {
  interface Pieces { tokens: string[]; scores: number[]; token_type: number[]; bos: number; eos: number; cases: { text: string; ids: number[] }[] }
  const golden = JSON.parse(readFileSync(join(GOLDEN, 'pieces.json'), 'utf8')) as Pieces;
  const read = (fields: ReturnType<typeof ggufTokenizerFields>): Record<string, unknown> =>
    tokenizerJsonFromGguf(metadataMap(Object.fromEntries([...fields].map(([key, { value }]) => [key, value as GgufValue]))), 'back');
  const pieces = (change: Record<string, GgufValue> = {}): Record<string, unknown> =>
    tokenizerJsonFromGguf(metadataMap({
      'tokenizer.ggml.model': 'llama', 'tokenizer.ggml.tokens': golden.tokens, 'tokenizer.ggml.scores': golden.scores, 'tokenizer.ggml.token_type': golden.token_type,
      'tokenizer.ggml.bos_token_id': golden.bos, 'tokenizer.ggml.eos_token_id': golden.eos, ...change,
    }), 'pieces');
  const fields = (json: unknown, vocabSize = golden.tokens.length): ReturnType<typeof ggufTokenizerFields> =>
    ggufTokenizerFields({ json, bosTokenId: golden.bos, eosTokenIds: [golden.eos], vocabSize, label: 'pieces' });

  test.each([true, false])('pieces with scores come back whole (space prefix %s)', (prefix) => {
    const json = pieces({ 'tokenizer.ggml.add_space_prefix': prefix });
    expect(read(fields(json))).toEqual(json);
  });

  test('user-defined pieces are joined after GGUF as before', () => {
    const file = JSON.parse(readFileSync(join(GOLDEN, 'tokenizers.json'), 'utf8')) as Record<string, { tokenizer: { added_tokens: { id: number }[] }; cases: { text: string; ids: number[] }[] }>;
    const { tokenizer, cases } = file['pieces-gemma'] as (typeof file)[string];
    const written = fields(tokenizer, 420);
    const back = createTokenizer({ json: read(written), eosTokenIds: [], label: 'gemma' });
    expect(cases.map(({ text }) => back.encode(text))).toEqual(cases.map(({ ids }) => ids));
    expect(() => fields(file['pieces-phi']?.tokenizer, 420)).toThrow(/white space beside it/);
    expect(() => fields(file['unigram']?.tokenizer, 420)).toThrow(/Unigram/);
  });

  test('rows of the embedding without a token are unused tokens', () => {
    const written = fields(pieces(), golden.tokens.length + 2);
    expect((written.get('tokenizer.ggml.tokens')?.value as string[]).slice(-2)).toEqual([`[PAD${golden.tokens.length}]`, `[PAD${golden.tokens.length + 1}]`]);
    expect((written.get('tokenizer.ggml.token_type')?.value as number[]).slice(-2)).toEqual([5, 5]);
  });

  test.each(['gpt-2', 'smollm', 'qwen2', 'llama-bpe', 'dbrx', 'gpt-4o'])('the pre-tokenization %s comes back by its name', (name) => {
    const json = tokenizerJsonFromGguf(metadataMap({
      'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': name, 'tokenizer.ggml.tokens': ['<e>', 'a', 'b', 'ab'], 'tokenizer.ggml.token_type': [3, 1, 1, 1], 'tokenizer.ggml.merges': ['a b'],
    }), name);
    const written = ggufTokenizerFields({ json, eosTokenIds: [0], vocabSize: 4, label: name });
    expect(written.get('tokenizer.ggml.pre')?.value).toBe(name);
    expect(read(written)).toEqual(json);
  });

  const model = (json: Record<string, unknown>, change: (model: { merges: [string, string][] }) => void): unknown => {
    const copy = structuredClone(json) as { model: { merges: [string, string][] } };
    change(copy.model);
    return copy;
  };
  test.each<[string, () => unknown, RegExp]>([
    ['merges that are no scores: one is missing', () => model(pieces(), (m) => m.merges.pop()), /possible merges/],
    ['merges that are no scores: two ways to a token far apart', () => model(pieces(), (m) => {
      const same = m.merges.findIndex(([left, right], i) => i > 0 && left + right === (m.merges[i - 1] as [string, string]).join(''));
      m.merges.push(...m.merges.splice(same, 1));
    }), /different ranks/],
    ['an unknown pre-tokenization', () => ({ ...JSON.parse(readFileSync(join(GOLDEN, 'tiny-llama', 'tokenizer.json'), 'utf8')) as object, normalizer: { type: 'Lowercase' } }), /pre-tokenization/],
  ])('refuses %s', (_name, json, why) => {
    expect(() => fields(json(), 1000)).toThrow(expect.objectContaining({ reason: 'MODEL_UNSUPPORTED', message: expect.stringMatching(why) }));
  });
});
