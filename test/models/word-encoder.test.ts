/** The word encoder gives the ids of the library, on texts made to be hard to split. */
import { describe, expect, test } from '@jest/globals';
import { Tokenizer as Library } from '@huggingface/tokenizers';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Xoshiro128 } from '../../src/common/random.js';
import { PRE_TOKENIZATIONS, preTokenizationJson } from '../../src/models/pre-tokenizers.js';
import { wordEncoder, type WordLibrary } from '../../src/models/word-encoder.js';

type Json = Record<string, unknown>;
const tiny = JSON.parse(readFileSync(resolve('test/golden/tiny-serving/tokenizer.json'), 'utf8')) as Json & { added_tokens: { id: number; content: string; special: boolean }[] };
const library = (json: object): WordLibrary => new (Library as unknown as new (json: object, config: object) => WordLibrary)(json, {});
const PIECES = [
  'the', 'A', ' ', '  ', '\n', '\r\n', '\t', '12', '²', '½', 'é', 'e\u0301', 'ſ', '\u212a', '\u200b', '😀', '<s>', '</s', '</s>', "'s", "'S", "'LL", '.', '!!', '中文', '\u00a0', '\u3000', '_', '٣', 'x'.repeat(70),
];

function texts(count: number): string[] {
  const random = new Xoshiro128(11);
  const whole = (below: number): number => random.nextUint32() % below;
  return Array.from({ length: count }, () => Array.from({ length: 1 + whole(12) }, () => PIECES[whole(PIECES.length)]!).join(''));
}

const variants: [string, Json][] = [
  ['the tiny model', tiny],
  ...Object.entries(PRE_TOKENIZATIONS).map(([name, pre]): [string, Json] => [
    name,
    { ...tiny, ...preTokenizationJson(pre), model: { ...(tiny['model'] as Json), ignore_merges: pre.ignoreMerges } },
  ]),
];

describe.each(variants)('split as for %s', (_, json) => {
  test('ids are those of the library, with special tokens and without', () => {
    const plain = library(json);
    const words = wordEncoder(json, tiny.added_tokens, library(json));
    if (words === undefined) throw new Error('there should be a word encoder');
    for (const special of [false, true]) {
      for (const text of texts(400)) expect(words.encode(text, special)).toEqual(plain.encode(text, { add_special_tokens: special }).ids.filter((id) => id !== undefined));
    }
  });
});

test('special tokens of a post-processor stand around the text', () => {
  const json = {
    ...tiny,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
      pair: [],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] }, '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] } },
    },
  };
  const words = wordEncoder(json, tiny.added_tokens, library(json))!;
  const ids = words.encode('the cat', true);
  expect(ids).toEqual(library(json).encode('the cat', { add_special_tokens: true }).ids);
  expect([ids[0], ids.at(-1)]).toEqual([1, 2]);
  expect(words.encode('the cat', false)).toEqual(ids.slice(1, -1));
});

test('a tokenizer that is split otherwise has none', () => {
  const json = { ...tiny, pre_tokenizer: { type: 'Whitespace' } };
  expect(wordEncoder(json, tiny.added_tokens, library(json))).toBeUndefined();
});
