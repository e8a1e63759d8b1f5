import { afterEach, describe, expect, test } from '@jest/globals';
import { cpSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint, writeHfFolder, type Checkpoint } from '../../src/models/checkpoint.js';
import { weightShapes } from '../../src/models/config.js';
import { unpermuteRows } from '../../src/models/gguf-model.js';
import { float32ToBfloat16, float32ToFloat16 } from '../../src/tensor/half.js';
import { hostTensor, type HostTensor } from '../../src/tensor/host-tensor.js';
import { parseSafetensors, toFloat32, writeSafetensors } from '../../src/tensor/safetensors.js';
import { GOLDEN } from '../golden/smollm2.js';
import { bytesOf, encodeGguf, type GgufTensor, type Typed } from '../tensor/gguf-writer.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const folder = temporaryFolder();
const opened: Checkpoint[] = [];
const open = async (path: string, options = {}): Promise<Checkpoint> => {
  const checkpoint = await openCheckpoint(path, options);
  opened.push(checkpoint);
  return checkpoint;
};
afterEach(async () => {
  await Promise.all(opened.splice(0).map((checkpoint) => checkpoint.close()));
});

/** A copy of a golden folder that a test may damage. */
function copy(name: string): string {
  const path = join(folder, `${name}-${Math.random().toString(36).slice(2)}`);
  cpSync(join(GOLDEN, name), path, { recursive: true });
  return path;
}

function edit(path: string, change: (json: Record<string, unknown>) => void): void {
  const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(json);
  writeFileSync(path, JSON.stringify(json));
}

async function allWeights(checkpoint: Checkpoint): Promise<Map<string, Float32Array>> {
  const out = new Map<string, Float32Array>();
  for (const name of checkpoint.weights.names()) out.set(name, await checkpoint.weights.float32(name));
  return out;
}

describe('a Hugging Face folder', () => {
  test('of one float32 file', async () => {
    const checkpoint = await open(join(GOLDEN, 'tiny-llama'));
    expect(checkpoint).toMatchObject({ id: 'tiny-llama', config: { vocabSize: 160, heads: 6, kvHeads: 2, headDim: 8, tieWordEmbeddings: true, bosTokenId: 1, eosTokenIds: [2] } });
    expect(checkpoint.weights.names()).toEqual([...weightShapes(checkpoint.config).keys()]);
    const file = parseSafetensors(readFileSync(join(GOLDEN, 'tiny-llama', 'model.safetensors')));
    for (const [name, values] of await allWeights(checkpoint)) {
      expect(checkpoint.weights.shape(name)).toEqual(file.get(name)?.shape);
      expect(checkpoint.weights.storedAs(name)).toBe('F32');
      expect(values).toEqual(file.get(name)?.data);
    }
    expect(checkpoint.chatTemplate?.render([{ role: 'user', content: 'hi' }], { addGenerationPrompt: true })).toBe('<s>user:hi</s><s>assistant:');
    expect(checkpoint.tokenizer.eosTokenIds).toEqual([2]);
  });

  test('of float16, untied and with biases', async () => {
    const checkpoint = await open(join(GOLDEN, 'tiny-llama-float16'));
    expect(checkpoint.config).toMatchObject({ tieWordEmbeddings: false, attentionBias: true, mlpBias: true });
    const file = parseSafetensors(readFileSync(join(GOLDEN, 'tiny-llama-float16', 'model.safetensors')));
    const weights = await allWeights(checkpoint);
    expect([...weights.keys()].sort()).toEqual([...file.keys()].sort());
    for (const [name, values] of weights) expect(values).toEqual(toFloat32(file.get(name) as HostTensor));
  });

  test('of several bfloat16 files', async () => {
    const checkpoint = await open(join(GOLDEN, 'tiny-llama-sharded'));
    expect(checkpoint.config.ropeScaling).toMatchObject({ kind: 'llama3', originalMaxPositionTokens: 256 });
    const files = [1, 2, 3].map((i) => parseSafetensors(readFileSync(join(GOLDEN, 'tiny-llama-sharded', `model-0000${i}-of-00003.safetensors`))));
    for (const [name, values] of await allWeights(checkpoint)) {
      expect(checkpoint.weights.storedAs(name)).toBe('BF16');
      const tensor = files.flatMap((file) => file.get(name) ?? [])[0] as HostTensor;
      expect(values).toEqual(toFloat32(tensor));
    }
  });

  test('its digest follows its content, not its place', async () => {
    const first = await open(join(GOLDEN, 'tiny-llama'));
    const elsewhere = copy('tiny-llama');
    expect((await open(elsewhere)).digest).toBe(first.digest);
    edit(join(elsewhere, 'config.json'), (json) => (json['rope_parameters'] = { rope_theta: 20000, rope_type: 'default' }));
    expect((await open(elsewhere)).digest).not.toBe(first.digest);
    expect((await open(elsewhere, { knownDigest: 'sha256:known', id: 'mine' }))).toMatchObject({ digest: 'sha256:known', id: 'mine' });
  });

  test('eos ids of generation_config, config and tokenizer_config count together', async () => {
    const path = copy('tiny-llama');
    edit(join(path, 'generation_config.json'), (json) => (json['eos_token_id'] = [5, 6]));
    expect((await open(path)).config.eosTokenIds).toEqual([5, 6, 2]);
  });

  test('a template inside tokenizer_config.json, by itself or as the default of several', async () => {
    for (const template of ['{{ eos_token }}!', [{ name: 'tool', template: 'x' }, { name: 'default', template: '{{ eos_token }}!' }]]) {
      const path = copy('tiny-llama');
      rmSync(join(path, 'chat_template.jinja'));
      edit(join(path, 'tokenizer_config.json'), (json) => (json['chat_template'] = template));
      expect((await open(path)).chatTemplate?.render([])).toBe('</s>!');
    }
  });

  test.each(['float32', 'float16', 'bfloat16'] as const)('written in %s comes back', async (dtype) => {
    const source = await open(join(GOLDEN, 'tiny-llama-float16'));
    const weights = await allWeights(source);
    const path = join(folder, `written-${dtype}`);
    await writeHfFolder(path, {
      config: source.config, tensors: weights, dtype,
      tokenizerJson: JSON.parse(readFileSync(join(GOLDEN, 'tiny-llama', 'tokenizer.json'), 'utf8')),
      tokenizerConfig: { bos_token: '<s>', eos_token: '</s>', chat_template: '{{ bos_token }}' },
    });
    const back = await open(path);
    expect(back.config).toEqual(source.config);
    expect(back.tokenizer.encode('Hello')).toEqual(source.tokenizer.encode('Hello'));
    expect(back.chatTemplate?.render([])).toBe('<s>');
    for (const [name, values] of await allWeights(back)) {
      const wanted = weights.get(name) as Float32Array;
      if (dtype !== 'bfloat16') expect(values).toEqual(wanted);
      else values.forEach((value, i) => expect(Math.abs(value - (wanted[i] as number))).toBeLessThanOrEqual(Math.abs(wanted[i] as number) / 256));
    }
  });

  const damage: [string, (path: string) => void | Promise<void>, string, RegExp][] = [
    ['no config.json', (p) => rmSync(join(p, 'config.json')), 'CHECKPOINT_MISSING', /config\.json does not exist/],
    ['no tokenizer.json', (p) => rmSync(join(p, 'tokenizer.json')), 'CHECKPOINT_MISSING', /tokenizer\.json does not exist/],
    ['no weights', (p) => rmSync(join(p, 'model.safetensors')), 'CHECKPOINT_MISSING', /model\.safetensors does not exist/],
    ['pickled weights only', (p) => { rmSync(join(p, 'model.safetensors')); writeFileSync(join(p, 'pytorch_model.bin'), 'x'); }, 'MODEL_UNSUPPORTED', /pickled/],
    ['a config that is cut', (p) => truncateSync(join(p, 'config.json'), 100), 'CHECKPOINT_CORRUPT', /config\.json is not JSON/],
    ['a tokenizer that is cut', (p) => truncateSync(join(p, 'tokenizer.json'), 1000), 'CHECKPOINT_CORRUPT', /tokenizer\.json is not JSON/],
    ['weights that are cut', (p) => truncateSync(join(p, 'model.safetensors'), 100_000), 'CHECKPOINT_CORRUPT', /truncated/],
    ['weights that are empty', (p) => truncateSync(join(p, 'model.safetensors'), 0), 'CHECKPOINT_CORRUPT', /too short/],
    ['another architecture', (p) => edit(join(p, 'config.json'), (json) => (json['model_type'] = 'gpt_neox')), 'MODEL_UNSUPPORTED', /"gpt_neox"/],
    ['more layers than weights', (p) => edit(join(p, 'config.json'), (json) => (json['num_hidden_layers'] = 3)), 'CHECKPOINT_CORRUPT', /lacks 9 tensors.*layers\.2/],
    ['fewer layers than weights', (p) => edit(join(p, 'config.json'), (json) => (json['num_hidden_layers'] = 1)), 'MODEL_UNSUPPORTED', /has 9 tensors/],
    ['another width', (p) => edit(join(p, 'config.json'), (json) => (json['intermediate_size'] = 96)), 'CHECKPOINT_CORRUPT', /gate_proj\.weight is \[80,48\] and should be \[96,48\]/],
    ['an untied head that is not there', (p) => edit(join(p, 'config.json'), (json) => (json['tie_word_embeddings'] = false)), 'CHECKPOINT_CORRUPT', /lm_head\.weight/],
    ['a tokenizer larger than the embedding', (p) => edit(join(p, 'tokenizer.json'), (json) => (json['added_tokens'] as object[]).push({ id: 160, content: '<x>', special: true })), 'TOKENIZER_INVALID', /161 tokens.*160 rows/],
    ['a tokenizer of another model', (p) => edit(join(p, 'tokenizer.json'), (json) => (json['model'] = { type: 'BPE', vocab: { a: 0, b: 1, c: 2 }, merges: [] })), 'TOKENIZER_INVALID', /3 tokens.*160 rows/],
    ['integer weights', async (p) => {
      const tensors = new Map(parseSafetensors(readFileSync(join(p, 'model.safetensors'))));
      tensors.set('model.norm.weight', hostTensor('int32', [48], new Int32Array(48)));
      await writeSafetensors(join(p, 'model.safetensors'), tensors);
    }, 'MODEL_UNSUPPORTED', /"model\.norm\.weight" as I32/],
    ['a chat template that is no Jinja', (p) => writeFileSync(join(p, 'chat_template.jinja'), '{% if %}'), 'MODEL_UNSUPPORTED', /chat template/],
    ['a tokenizer_config that is a number', (p) => writeFileSync(join(p, 'tokenizer_config.json'), '7'), 'CHECKPOINT_CORRUPT', /not an object/],
  ];
  test.each(damage)('is refused with %s', async (_name, harm, reason, why) => {
    const path = copy('tiny-llama');
    await harm(path);
    await expect(openCheckpoint(path)).rejects.toMatchObject({ name: 'LoricaError', reason, message: expect.stringMatching(why) });
  });

  const index = 'model.safetensors.index.json';
  const damagedIndex: [string, (path: string) => void, string, RegExp][] = [
    ['no map', (p) => writeFileSync(join(p, index), '{}'), 'CHECKPOINT_CORRUPT', /weight_map is missing/],
    ['a file outside the folder', (p) => edit(join(p, index), (json) => ((json['weight_map'] as Record<string, string>)['x'] = '../tiny-llama/model.safetensors')), 'CHECKPOINT_CORRUPT', /no safetensors file of this folder/],
    ['a file that is missing', (p) => rmSync(join(p, 'model-00002-of-00003.safetensors')), 'CHECKPOINT_MISSING', /00002/],
    ['a tensor in the wrong file', (p) => edit(join(p, index), (json) => ((json['weight_map'] as Record<string, string>)['model.norm.weight'] = 'model-00001-of-00003.safetensors')), 'CHECKPOINT_CORRUPT', /"model\.norm\.weight" is not in/],
    ['a file twice under two names', (p) => {
      cpSync(join(p, 'model-00001-of-00003.safetensors'), join(p, 'again.safetensors'));
      edit(join(p, index), (json) => ((json['weight_map'] as Record<string, string>)['model.embed_tokens.weight'] = 'again.safetensors'));
      edit(join(p, index), (json) => ((json['weight_map'] as Record<string, string>)['lm_head.weight'] = 'model-00001-of-00003.safetensors'));
    }, 'CHECKPOINT_CORRUPT', /which another file holds too|is not in/],
  ];
  test.each(damagedIndex)('in several files is refused with an index of %s', async (_name, harm, reason, why) => {
    const path = copy('tiny-llama-sharded');
    harm(path);
    await expect(openCheckpoint(path)).rejects.toMatchObject({ reason, message: expect.stringMatching(why) });
  });

  test.each([
    ['NaN', NaN], ['infinity', Infinity], ['minus infinity', -Infinity],
  ])('with %s among its weights is refused when that tensor is read, by name and place', async (_name, value) => {
    for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
      const path = copy('tiny-llama');
      const tensors = new Map(parseSafetensors(readFileSync(join(path, 'model.safetensors'))));
      const values = Float32Array.from({ length: 48 }, (_, i) => (i === 7 ? value : 1));
      const data = { float32: values, float16: float32ToFloat16(values), bfloat16: float32ToBfloat16(values) }[dtype];
      tensors.set('model.norm.weight', hostTensor(dtype, [48], data));
      await writeSafetensors(join(path, 'model.safetensors'), tensors);
      const { weights } = await open(path);
      await expect(weights.float32('model.norm.weight')).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT', message: expect.stringContaining(`element 7 of "model.norm.weight" is ${value}`) });
      expect(await weights.float32('model.layers.0.input_layernorm.weight')).toHaveLength(48);
    }
  });

  test('that is missing, or weights without their folder, says what to give', async () => {
    await expect(openCheckpoint(join(folder, 'nowhere'))).rejects.toMatchObject({ code: 'NOT_FOUND', reason: 'CHECKPOINT_MISSING', hint: expect.stringContaining('.gguf') });
    mkdirSync(join(folder, 'bare'), { recursive: true });
    await expect(openCheckpoint(join(folder, 'bare'))).rejects.toMatchObject({ reason: 'CHECKPOINT_MISSING' });
    await expect(openCheckpoint(join(GOLDEN, 'tiny-llama', 'model.safetensors'))).rejects.toMatchObject({ reason: 'CHECKPOINT_MISSING', hint: expect.stringContaining('folder') });
  });
});

/** Reorders rows as llama.cpp's converter does: [heads, 2, D/2, columns] becomes [heads, D/2, 2, columns]. */
function permute(rows: Float32Array, heads: number, headDim: number): Float32Array {
  const columns = rows.length / (heads * headDim);
  const out = new Float32Array(rows.length);
  let to = 0;
  for (let head = 0; head < heads; head++) {
    for (let j = 0; j < headDim / 2; j++) {
      for (const i of [0, 1]) {
        const from = (head * headDim + i * (headDim / 2) + j) * columns;
        out.set(rows.subarray(from, from + columns), to);
        to += columns;
      }
    }
  }
  return out;
}

const GGUF_NAMES: Record<string, string> = {
  'input_layernorm': 'attn_norm', 'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
  'post_attention_layernorm': 'ffn_norm', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
};

function ggufName(name: string): string {
  const layer = /^model\.layers\.(\d+)\.(.*)\.(weight|bias)$/.exec(name);
  if (layer) return `blk.${layer[1] as string}.${GGUF_NAMES[layer[2] as string] as string}.${layer[3] as string}`;
  return { 'model.embed_tokens.weight': 'token_embd.weight', 'model.norm.weight': 'output_norm.weight', 'lm_head.weight': 'output.weight' }[name] as string;
}

describe('a GGUF file', () => {
  interface Parts { metadata: Record<string, Typed>; tensors: GgufTensor[] }

  /** The checkpoint of a golden folder as llama.cpp's converter would write it. */
  async function parts(name: string): Promise<Parts> {
    const source = await open(join(GOLDEN, name));
    const { config } = source;
    const tensors: GgufTensor[] = [];
    for (const [hf, values] of await allWeights(source)) {
      const kind = /\.(q|k)_proj\./.exec(hf)?.[1];
      const data = kind === undefined ? values : permute(values, kind === 'q' ? config.heads : config.kvHeads, config.headDim);
      tensors.push({ name: ggufName(hf), shape: source.weights.shape(hf), data: bytesOf(data) });
    }
    const file = JSON.parse(readFileSync(join(GOLDEN, name, 'tokenizer.json'), 'utf8')) as { model: { vocab: Record<string, number>; merges: [string, string][] } };
    const tokens = Object.entries(file.model.vocab).sort((a, b) => a[1] - b[1]).map(([token]) => token);
    const metadata: Record<string, Typed> = {
      'general.architecture': { text: 'llama' }, 'llama.block_count': { u32: config.layers }, 'llama.context_length': { u32: 128 },
      'llama.embedding_length': { u32: config.hiddenSize }, 'llama.feed_forward_length': { u32: config.intermediateSize },
      'llama.attention.head_count': { u32: config.heads }, 'llama.attention.head_count_kv': { u32: config.kvHeads }, 'llama.rope.dimension_count': { u32: config.headDim },
      'llama.attention.layer_norm_rms_epsilon': { f32: 1e-6 }, 'tokenizer.ggml.model': { text: 'gpt2' }, 'tokenizer.ggml.pre': { text: 'gpt-2' },
      'tokenizer.ggml.tokens': { texts: tokens }, 'tokenizer.ggml.token_type': { i32s: tokens.map((_, id) => (id < 3 ? 3 : 1)) },
      'tokenizer.ggml.merges': { texts: file.model.merges.map((pair) => pair.join(' ')) }, 'tokenizer.ggml.bos_token_id': { u32: 1 }, 'tokenizer.ggml.eos_token_id': { u32: 2 },
      'tokenizer.chat_template': { text: '{{ bos_token }}{{ messages[0].content }}' },
    };
    return { metadata, tensors };
  }

  function save(content: Parts): string {
    const path = join(folder, `file-${Math.random().toString(36).slice(2)}.gguf`);
    writeFileSync(path, encodeGguf(content));
    return path;
  }

  test.each(['tiny-llama', 'tiny-llama-float16'])('made of %s gives its config, weights and tokens', async (name) => {
    const source = await open(join(GOLDEN, name));
    const checkpoint = await open(save(await parts(name)));
    expect(checkpoint.config).toEqual({ ...source.config, rmsNormEpsilon: Math.fround(1e-6) });
    const wanted = await allWeights(source);
    const got = await allWeights(checkpoint);
    expect([...got.keys()]).toEqual([...wanted.keys()]);
    for (const [tensor, values] of got) expect(values).toEqual(wanted.get(tensor));
    expect(checkpoint.tokenizer.encode('The quick 12.50')).toEqual(source.tokenizer.encode('The quick 12.50'));
    expect(checkpoint.chatTemplate?.render([{ role: 'user', content: 'x' }])).toBe('<s>x');
    expect(checkpoint.digest).toMatch(/^sha256:[0-9a-f]{64}$/);
  });

  test('unpermuteRows undoes the converter for heads of any even size', () => {
    for (const [heads, headDim, columns] of [[3, 8, 5], [1, 2, 1], [2, 64, 3]] as const) {
      const rows = Float32Array.from({ length: heads * headDim * columns }, (_, i) => i);
      expect(unpermuteRows(permute(rows, heads, headDim), heads, headDim)).toEqual(rows);
      if (headDim > 2) expect(permute(rows, heads, headDim)).not.toEqual(rows);
    }
  });

  test('rotary scalings: divisors as a tensor, linear as a number', async () => {
    const content = await parts('tiny-llama');
    const divisors = { name: 'rope_freqs.weight', shape: [4], data: bytesOf(Float32Array.of(1, 2, 4, 8)) };
    expect((await open(save({ ...content, tensors: [...content.tensors, divisors] }))).config.ropeScaling).toEqual({ kind: 'divisors', divisors: [1, 2, 4, 8] });
    const linear = { 'llama.rope.scaling.type': { text: 'linear' }, 'llama.rope.scaling.factor': { f32: 4 } };
    expect((await open(save({ ...content, metadata: { ...content.metadata, ...linear } }))).config.ropeScaling).toEqual({ kind: 'linear', factor: 4 });
  });

  const without = (content: Parts, tensor: string): Parts => ({ ...content, tensors: content.tensors.filter((t) => t.name !== tensor) });
  const withKeys = (content: Parts, keys: Record<string, Typed>): Parts => ({ ...content, metadata: { ...content.metadata, ...keys } });
  const damage: [string, (content: Parts) => Parts, string, RegExp][] = [
    ['another architecture', (c) => withKeys(c, { 'general.architecture': { text: 'falcon' } }), 'MODEL_UNSUPPORTED', /architecture "falcon"/],
    ['no architecture', () => ({ metadata: {}, tensors: [] }), 'MODEL_UNSUPPORTED', /architecture null/],
    ['experts', (c) => withKeys(c, { 'llama.expert_count': { u32: 8 } }), 'MODEL_UNSUPPORTED', /mixture of experts/],
    ['yarn', (c) => withKeys(c, { 'llama.rope.scaling.type': { text: 'yarn' } }), 'MODEL_UNSUPPORTED', /"yarn"/],
    ['heads that differ by layer', (c) => withKeys(c, { 'llama.attention.head_count': { i32s: [6, 3] } }), 'MODEL_UNSUPPORTED', /differs from layer to layer/],
    ['partial rotary', (c) => withKeys(c, { 'llama.attention.key_length': { u32: 8 }, 'llama.rope.dimension_count': { u32: 4 } }), 'MODEL_UNSUPPORTED', /rope\.dimension_count 4/],
    ['a width of nothing', (c) => withKeys(c, { 'llama.embedding_length': { u32: 0 } }), 'CHECKPOINT_CORRUPT', /embedding_length/],
    ['a width that is text', (c) => withKeys(c, { 'llama.embedding_length': { text: '48' } }), 'CHECKPOINT_CORRUPT', /embedding_length/],
    ['another width', (c) => withKeys(c, { 'llama.feed_forward_length': { u32: 64 } }), 'CHECKPOINT_CORRUPT', /should be \[64,48\]/],
    ['no embedding', (c) => without(c, 'token_embd.weight'), 'CHECKPOINT_CORRUPT', /token_embd/],
    ['a tensor missing', (c) => without(c, 'blk.1.attn_v.weight'), 'CHECKPOINT_CORRUPT', /lacks 1 tensors.*layers\.1\.self_attn\.v_proj/],
    ['a tensor that is unknown', (c) => ({ ...c, tensors: [...c.tensors, { name: 'blk.0.attn_sinks.weight', shape: [8], data: bytesOf(new Float32Array(8)) }] }), 'MODEL_UNSUPPORTED', /attn_sinks/],
    ['a bias on one layer only', (c) => ({ ...c, tensors: [...c.tensors, { name: 'blk.1.attn_q.bias', shape: [48], data: bytesOf(new Float32Array(48)) }] }), 'MODEL_UNSUPPORTED', /q_proj\.bias/],
    ['a vocabulary that is too short', (c) => withKeys(c, { 'tokenizer.ggml.tokens': { texts: ['a', 'b', 'c'] }, 'tokenizer.ggml.token_type': { i32s: [3, 3, 3] }, 'tokenizer.ggml.merges': { texts: [] } }), 'TOKENIZER_INVALID', /3 tokens.*160 rows/],
    ['merges of another vocabulary', (c) => withKeys(c, { 'tokenizer.ggml.merges': { texts: ['zz yy'] } }), 'TOKENIZER_INVALID', /vocabulary lacks/],
    ['an eos outside the vocabulary', (c) => withKeys(c, { 'tokenizer.ggml.eos_token_id': { u32: 4000 } }), 'INVALID_FIELD', /token 4000/],
  ];
  test.each(damage)('is refused with %s', async (_name, harm, reason, why) => {
    const path = save(harm(await parts('tiny-llama')));
    await expect(openCheckpoint(path)).rejects.toMatchObject({ name: 'LoricaError', reason, message: expect.stringMatching(why) });
  });

  test('with NaN in a float16 scale or a float32 weight is refused when that tensor is read, by its place', async () => {
    const content = await parts('tiny-llama');
    const scaled = Buffer.alloc(48 * 5 * 34);
    scaled.writeUInt16LE(0x7e00, 34 * 3);
    const norm = new Float32Array(48).fill(1);
    norm[5] = NaN;
    // A feed-forward width of 160 makes whole blocks of the rows of its down projection.
    const wide = { ...content, metadata: { ...content.metadata, 'llama.feed_forward_length': { u32: 160 } } };
    const swap = (name: string, tensor: Partial<GgufTensor>): void => {
      const at = wide.tensors.findIndex((candidate) => candidate.name === name);
      wide.tensors[at] = { ...(wide.tensors[at] as GgufTensor), ...tensor };
    };
    for (const layer of [0, 1]) {
      for (const part of ['gate', 'up']) swap(`blk.${layer}.ffn_${part}.weight`, { shape: [160, 48], data: new Uint8Array(160 * 48 * 4) });
      swap(`blk.${layer}.ffn_down.weight`, { shape: [48, 160], type: 8, data: scaled });
    }
    swap('output_norm.weight', { data: bytesOf(norm) });
    const { weights } = await open(save(wide));
    for (const [name, why] of [['model.layers.0.mlp.down_proj.weight', /element 96 of "blk\.0\.ffn_down\.weight" is NaN/], ['model.norm.weight', /element 5 of "output_norm\.weight" is NaN/]] as const) {
      await expect(weights.float32(name)).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT', message: expect.stringMatching(why) });
    }
    expect(await weights.float32('model.layers.0.mlp.up_proj.weight')).toHaveLength(160 * 48);
  });

  test('that is something else is CHECKPOINT_CORRUPT', async () => {
    const path = join(folder, 'text.gguf');
    writeFileSync(path, 'this is no model at all');
    await expect(openCheckpoint(path)).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT' });
  });
});
