import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createTokenizer, type Tokenizer } from '../../src/models/tokenizer.js';
import { tokenizerJsonFromGguf } from '../../src/models/tokenizer-gguf.js';
import { GOLDEN } from '../golden/smollm2.js';
import { metadataMap } from '../tensor/gguf-writer.js';
import type { GgufValue } from '../../src/tensor/gguf.js';
import { pushAll } from './push-all.js';

type Case = { text: string; ids: number[] };
const json = (name: string): unknown => JSON.parse(readFileSync(join(GOLDEN, name), 'utf8'));


describe('a SentencePiece vocabulary, from GGUF metadata', () => {
  const golden = json('pieces.json') as { tokens: string[]; scores: number[]; token_type: number[]; bos: number; eos: number; cases: Case[] };
  const fields = (change: Record<string, GgufValue> = {}): ReadonlyMap<string, GgufValue> =>
    metadataMap({
      'tokenizer.ggml.model': 'llama', 'tokenizer.ggml.tokens': golden.tokens, 'tokenizer.ggml.scores': golden.scores, 'tokenizer.ggml.token_type': golden.token_type,
      'tokenizer.ggml.bos_token_id': golden.bos, 'tokenizer.ggml.eos_token_id': golden.eos, ...change,
    });
  const make = (change: Record<string, GgufValue> = {}): Tokenizer =>
    createTokenizer({ json: tokenizerJsonFromGguf(fields(change), 'pieces'), bosTokenId: golden.bos, eosTokenIds: [golden.eos], label: 'pieces' });

  test('texts give the ids of SentencePiece', () => {
    const tokenizer = make();
    expect(golden.cases.map(({ text }) => tokenizer.encode(text))).toEqual(golden.cases.map(({ ids }) => ids));
  });

  test('texts come back; bytes of one character are joined', () => {
    const tokenizer = make();
    for (const { text, ids } of golden.cases) {
      if (text.includes('▁')) continue;
      expect(tokenizer.decode(ids)).toBe(text);
      expect(pushAll(tokenizer, ids).join('')).toBe(text);
    }
    expect(pushAll(tokenizer, tokenizer.encode('日')).filter((part) => part !== '')).toEqual(['日']);
  });

  test('bos is added where the file says so', () => {
    expect(make().encode('Hello', { addSpecialTokens: true })[0]).toBe(golden.bos);
    expect(make().encode('Hello')[0]).not.toBe(golden.bos);
    const closed = make({ 'tokenizer.ggml.add_bos_token': false, 'tokenizer.ggml.add_eos_token': true }).encode('Hello', { addSpecialTokens: true });
    expect([closed[0] === golden.bos, closed.at(-1)]).toEqual([false, golden.eos]);
  });

  test('no prefix space where the file says so', () => {
    const tokenizer = make({ 'tokenizer.ggml.add_space_prefix': false });
    expect(tokenizer.decode(tokenizer.encode('Hello'))).toBe('Hello');
    expect(tokenizer.encode('Hello')).not.toEqual(make().encode('Hello'));
    expect(tokenizer.decode(tokenizer.encode(' Hello'))).toBe(' Hello');
  });

  test.each<[string, Record<string, GgufValue>, string, RegExp]>([
    ['an unknown kind', { 'tokenizer.ggml.model': 'bert' }, 'MODEL_UNSUPPORTED', /"bert"/],
    ['an unknown pre-tokenizer', { 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'tekken', 'tokenizer.ggml.merges': [] }, 'MODEL_UNSUPPORTED', /"tekken"/],
    ['no tokens', { 'tokenizer.ggml.tokens': [] }, 'TOKENIZER_INVALID', /0 tokens/],
    ['tokens that are no texts', { 'tokenizer.ggml.tokens': [1, 2] }, 'TOKENIZER_INVALID', /list of strings/],
    ['too few scores', { 'tokenizer.ggml.scores': [0] }, 'TOKENIZER_INVALID', /with 1 scores/],
    ['too few types', { 'tokenizer.ggml.token_type': [1] }, 'TOKENIZER_INVALID', /with 1 types/],
  ])('refuses %s', (_name, change, reason, why) => {
    expect(() => make(change)).toThrow(expect.objectContaining({ reason, message: expect.stringMatching(why) }));
  });
});

describe('tokenizer.json', () => {
  const file = json('tiny-llama/tokenizer.json') as { model: Record<string, unknown>; added_tokens: unknown[] } & Record<string, unknown>;
  const make = (change: object = {}, bosTokenId = 1): Tokenizer => createTokenizer({ json: { ...file, ...change }, bosTokenId, eosTokenIds: [2], label: 'tiny' });

  test('of transformers: printable text comes back, anything else is the unknown token', () => {
    const tokenizer = make();
    const text = 'The quick fox: 12.50 (not bad!)\n\tfine';
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    expect(tokenizer.encode('é')).toEqual([0, 0]);
    expect(tokenizer.vocabSize).toBe(160);
  });

  test('the digest follows what determines behaviour', () => {
    expect(make().digest).toBe(make().digest);
    expect(make().digest).not.toBe(make({ normalizer: { type: 'Lowercase' } }).digest);
  });

  test.each([['٣½7a', '٣½', true], ['٣½²Ⅳ7a', '٣½²Ⅳ7', false]])('Digits splits %s as the reference does (long token %s, individual: %s)', (text, long, individual) => {
    const alphabet = Object.fromEntries([...new Set([...Buffer.from(text)].map((byte) => byteCharacter(byte)))].map((character, id) => [character, id]));
    const merged = { ...alphabet } as Record<string, number>;
    const vocab = { type: 'BPE', vocab: merged, merges: [] as string[], ignore_merges: true };
    const digits = [...Buffer.from(long)].map((byte) => byteCharacter(byte)).join('');
    merged[digits] = Object.keys(merged).length;
    const pre = { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: individual }, { type: 'ByteLevel', add_prefix_space: false, use_regex: false }] };
    const tokenizer = createTokenizer({ json: { model: vocab, added_tokens: [], pre_tokenizer: pre, decoder: { type: 'ByteLevel' } }, eosTokenIds: [], label: 'digits' });
    const ids = tokenizer.encode(text);
    expect(tokenizer.decode(ids)).toBe(text);
    // Apart, no character's bytes form the long token; together they do.
    expect(ids.includes(merged[digits])).toBe(!individual);
    if (!individual) expect(ids).toHaveLength(2);
  });

  const model = (change: object): object => ({ model: { ...file.model, ...change } });
  test.each<[string, object, string, RegExp]>([
    ['no model', { model: undefined }, 'TOKENIZER_INVALID', /with a model/],
    ['an unknown model', model({ type: 'WordLevel' }), 'MODEL_UNSUPPORTED', /"WordLevel"/],
    ['WordPiece without its unknown token', model({ type: 'WordPiece', unk_token: '[UNK]' }), 'TOKENIZER_INVALID', /unknown token/],
    ['Unigram without scores', model({ type: 'Unigram' }), 'TOKENIZER_INVALID', /pieces with scores/],
    ['Unigram whose unknown piece is outside', model({ type: 'Unigram', vocab: [['a', -1]], unk_id: 1 }), 'TOKENIZER_INVALID', /unknown token/],
    ['Unigram with byte fallback', model({ type: 'Unigram', vocab: [['a', -1]], unk_id: 0, byte_fallback: true }), 'MODEL_UNSUPPORTED', /byte_fallback/],
    ['dropout', model({ dropout: 0.1 }), 'MODEL_UNSUPPORTED', /dropout/],
    ['an added token for whole words only', { added_tokens: [{ id: 0, content: 'x', single_word: true }] }, 'MODEL_UNSUPPORTED', /single_word/],
    ['a precompiled normalizer', { normalizer: { type: 'Precompiled', precompiled_charsmap: '' } }, 'MODEL_UNSUPPORTED', /normalizer Precompiled/],
    ['a split that joins', { pre_tokenizer: { type: 'Split', pattern: { String: '-' }, behavior: 'MergedWithNext', invert: false } }, 'MODEL_UNSUPPORTED', /MergedWithNext/],
    ['no vocabulary', model({ vocab: undefined }), 'TOKENIZER_INVALID', /vocabulary is missing/],
    ['an empty vocabulary', model({ vocab: {}, merges: [] }), 'TOKENIZER_INVALID', /empty/],
    ['an id that is no number', model({ vocab: { a: 'x' } }), 'TOKENIZER_INVALID', /has the id "x"/],
    ['an id of 2^31', model({ vocab: { a: 2 ** 31 } }), 'TOKENIZER_INVALID', /has the id/],
    ['one id twice', model({ vocab: { a: 1, b: 1 } }), 'TOKENIZER_INVALID', /two tokens/],
    ['merges that are missing', model({ merges: null }), 'TOKENIZER_INVALID', /merges are missing/],
    ['a merge of three', model({ merges: ['a b c'] }), 'TOKENIZER_INVALID', /no pair/],
    ['a merge outside the vocabulary', model({ merges: [['a', '\u0000']] }), 'TOKENIZER_INVALID', /vocabulary lacks/],
    ['an added token without an id', { added_tokens: [{ content: 'x' }] }, 'TOKENIZER_INVALID', /added token/],
    ['an unknown decoder', { decoder: { type: 'CTC' } }, 'MODEL_UNSUPPORTED', /decoder CTC/],
    ['no decoder', { decoder: null }, 'MODEL_UNSUPPORTED', /decoder null/],
    ['an unknown pre-tokenizer', { pre_tokenizer: { type: 'Mystery' } }, 'MODEL_UNSUPPORTED', /pre-tokenizer Mystery/],
  ])('refuses %s', (_name, change, reason, why) => {
    expect(() => make(change)).toThrow(expect.objectContaining({ reason, message: expect.stringMatching(why) }));
  });

  test('refuses a bos that the vocabulary lacks', () => {
    expect(() => make({}, 160)).toThrow(expect.objectContaining({ reason: 'TOKENIZER_INVALID', message: expect.stringContaining('160') }));
  });
});

describe('tokenizers of other kinds', () => {
  type Kind = { tokenizer: { post_processor?: unknown }; cases: { text: string; ids: number[]; decoded: string }[] };
  const kinds = json('tokenizers.json') as Record<string, Kind>;

  test.each(Object.keys(kinds))('%s gives the ids and texts of Rust tokenizers', (name) => {
    const { tokenizer: file, cases } = kinds[name] as Kind;
    const tokenizer = createTokenizer({ json: file, eosTokenIds: [], label: name });
    expect(cases.length).toBeGreaterThan(50);
    expect(cases.map(({ text }) => tokenizer.encode(text))).toEqual(cases.map(({ ids }) => ids));
    expect(cases.map(({ ids }) => tokenizer.decode(ids))).toEqual(cases.map(({ decoded }) => decoded));
    for (const { ids, decoded } of cases) expect(pushAll(tokenizer, ids).join('')).toBe(decoded);
  });
});

/** The byte-level alphabet, written down a second time: printable Latin-1 stands for itself, the rest follows from U+0100. */
function byteCharacter(byte: number): string {
  const own = [...Array(256).keys()].filter((b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
  const moved = [...Array(256).keys()].filter((b) => !own.includes(b));
  return String.fromCodePoint(own.includes(byte) ? byte : 256 + moved.indexOf(byte));
}
