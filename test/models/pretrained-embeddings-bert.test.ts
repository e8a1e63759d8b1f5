import { describe, expect, test } from '@jest/globals';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readBertWordEmbeddings } from '../../src/models/pretrained-embeddings.js';
import { hostTensor, type HostTensor } from '../../src/tensor/host-tensor.js';
import { writeSafetensors } from '../../src/tensor/safetensors.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const folder = temporaryFolder();
let made = 0;

const PIECES = ['[PAD]', '[unused0]', '[CLS]', 'the', '##ing', '[', '##', '中', '##s', 'sing'];
const VALUES = Float32Array.from({ length: 24 }, (_, i) => i / 8);

async function checkpoint(files: Record<string, string>, tensor = 'bert.embeddings.word_embeddings.weight', data: HostTensor = hostTensor('float32', [12, 2], VALUES)): Promise<string> {
  const path = join(folder, String(made++));
  mkdirSync(path);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text);
  const position = hostTensor('float32', [2, 2], new Float32Array(4));
  await writeSafetensors(join(path, 'model.safetensors'), new Map([[tensor, data], ['bert.embeddings.position_embeddings.weight', position]]));
  return path;
}

function tokenizer(model: object): Record<string, string> {
  return { 'tokenizer.json': JSON.stringify({ model: { type: 'WordPiece', vocab: Object.fromEntries(PIECES.map((piece, i) => [piece, i])), ...model } }) };
}

describe('readBertWordEmbeddings', () => {
  test.each<[string, Record<string, string>]>([
    ['vocab.txt', { 'vocab.txt': `${PIECES.join('\n')}\n` }],
    ['vocab.txt with Windows line ends', { 'vocab.txt': PIECES.join('\r\n') }],
    ['tokenizer.json', tokenizer({ continuing_subword_prefix: '##' })],
  ])('words, continuations and rows by %s; special tokens are left out', async (_name, files) => {
    const vectors = await readBertWordEmbeddings(await checkpoint(files));
    expect(vectors).toMatchObject({ format: 'bert', dimension: 2, duplicates: 0 });
    expect([...vectors.words]).toEqual([['the', 3], ['[', 5], ['##', 6], ['中', 7], ['sing', 9]]);
    expect([...vectors.continuations]).toEqual([['ing', 4], ['s', 8]]);
    expect(vectors.vectors).toEqual(VALUES);
  });

  test('half precision, a tensor without prefix, another continuation prefix', async () => {
    const half = hostTensor('float16', [12, 1], new Uint16Array(12).fill(0x3c00));
    const vocab = { the: 0, '@@s': 1 };
    const vectors = await readBertWordEmbeddings(await checkpoint(tokenizer({ vocab, continuing_subword_prefix: '@@' }), 'embeddings.word_embeddings.weight', half));
    expect(vectors.vectors).toEqual(new Float32Array(12).fill(1));
    expect([...vectors.continuations]).toEqual([['s', 1]]);
  });

  test.each<[string, Record<string, string>, string | undefined, string, RegExp]>([
    ['no vocabulary', {}, undefined, 'CHECKPOINT_MISSING', /neither vocab.txt nor tokenizer.json/],
    ['another tokenizer', tokenizer({ type: 'BPE' }), undefined, 'MODEL_UNSUPPORTED', /type "BPE"/],
    ['a tokenizer that is not JSON', { 'tokenizer.json': '{' }, undefined, 'CHECKPOINT_CORRUPT', /not JSON/],
    ['a row that is no number', tokenizer({ vocab: { the: '0' } }), undefined, 'CHECKPOINT_CORRUPT', /'the' has row "0"/],
    ['more pieces than rows', { 'vocab.txt': 'a\n'.repeat(13) }, undefined, 'CHECKPOINT_CORRUPT', /13 pieces.* 12 rows/],
    ['no BERT embeddings', { 'vocab.txt': 'a\n' }, 'model.embed_tokens.weight', 'MODEL_UNSUPPORTED', /no tensor embeddings.word_embeddings.weight/],
  ])('refuses %s', async (_name, files, tensor, reason, why) => {
    await expect(readBertWordEmbeddings(await checkpoint(files, tensor))).rejects.toMatchObject({ reason, message: expect.stringMatching(why) });
  });

  test('refuses vectors that are not finite, and a folder without safetensors', async () => {
    const data = hostTensor('float32', [12, 2], VALUES.with(7, Infinity));
    await expect(readBertWordEmbeddings(await checkpoint({ 'vocab.txt': PIECES.join('\n') }, undefined, data))).rejects.toThrow(/element 7 of .* is Infinity/);
    mkdirSync(join(folder, 'empty'));
    writeFileSync(join(folder, 'empty', 'vocab.txt'), 'a\n');
    await expect(readBertWordEmbeddings(join(folder, 'empty'))).rejects.toMatchObject({ reason: 'CHECKPOINT_MISSING' });
  });
});
