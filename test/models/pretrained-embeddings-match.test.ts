import { describe, expect, test } from '@jest/globals';
import { join } from 'node:path';
import { openCheckpoint } from '../../src/models/checkpoint.js';
import { matchTokens, tokenTexts } from '../../src/models/pretrained-embeddings.js';
import type { WordVectors } from '../../src/models/pretrained-embeddings-table.js';
import type { Tokenizer } from '../../src/models/tokenizer.js';
import { GOLDEN } from '../golden/smollm2.js';

/** Row r of the source is [r, r²]. */
function source(words: readonly string[], continuations: readonly string[] = []): WordVectors {
  const all = [...words, ...continuations];
  return {
    format: 'glove', dimension: 2, duplicates: 0,
    words: new Map(words.map((word, i) => [word, i])),
    continuations: new Map(continuations.map((piece, i) => [piece, words.length + i])),
    vectors: Float32Array.from(all.flatMap((_, i) => [i, i * i])),
  };
}

describe('tokenTexts', () => {
  test('byte-level pieces: leading spaces, no special tokens, no halves of characters', async () => {
    const { tokenizer } = await openCheckpoint(join(GOLDEN, 'tiny-llama'));
    const texts = tokenTexts(tokenizer);
    expect(texts).toHaveLength(tokenizer.vocabSize);
    const id = (token: string): number => tokenizer.tokenId(token)!;
    expect(texts[id('A')]).toBe('A');
    for (const [token, text] of Object.entries({ A: 'A', Ġ: ' ', Ċ: '\n' })) expect(texts[id(token)]).toBe(text);
    expect(texts[id('Ã')]).toBeUndefined();
    const special = [...texts.keys()].filter((token) => tokenizer.decode([token], { skipSpecialTokens: true }) === '');
    expect(special.length).toBeGreaterThan(0);
    for (const token of special) expect(texts[token]).toBeUndefined();
  });

  test('a tokenizer that drops the first space of a text, and rows beyond its vocabulary', () => {
    const pieces = ['▁', '▁cat', 'cat', '▁A'];
    const tokenizer = {
      vocabSize: 4,
      decode: (ids: number[]) => ids.map((id) => pieces[id] ?? '').join('').replaceAll('▁', ' ').slice(1),
      incremental: () => {
        let first = true;
        return {
          push: (id: number) => {
            const text = (pieces[id] ?? '').replaceAll('▁', ' ');
            const out = first ? text.replace(/^ /, '') : text;
            first = false;
            return out;
          },
          flush: () => '',
        };
      },
    } as unknown as Tokenizer;
    expect(tokenTexts(tokenizer, 6)).toEqual([' ', ' cat', 'cat', ' A', undefined, undefined]);
  });
});

describe('matchTokens', () => {
  test('exact before lower case; white space and unknown text keep their rows', async () => {
    const texts = [' the', 'the', ' The', 'Paris', ' PARIS', '  ', '\n', undefined, 'zz', ' don', '. '];
    const matches = await matchTokens(texts, source(['the', 'Paris', 'paris', '.']), false);
    expect([...matches.kinds]).toEqual([[0, 'exact'], [1, 'exact'], [2, 'lowerCase'], [3, 'exact'], [4, 'lowerCase'], [10, 'exact']]);
    expect([0, 1, 2, 3, 4, 10].map((token) => matches.vector(token)[0])).toEqual([0, 0, 0, 1, 2, 3]);
    expect(() => matches.vector(8)).toThrow(RangeError);
  });

  test('bare pieces are continuations first where the source has them', async () => {
    const matches = await matchTokens(['ing', ' ing', 'Ing', 'the'], source(['ing', 'the'], ['ing', 'the']), false);
    expect([0, 1, 2, 3].map((token) => matches.vector(token)[0])).toEqual([2, 0, 2, 3]);
  });

  test('beginnings of words get the mean of the first fifty words; bare and single characters do not', async () => {
    const words = ['interest', 'integer', 'int', ...Array.from({ length: 60 }, (_, i) => `pre${i}`)];
    const texts = [' inte', ' Inte', 'inte', ' i', ' pre', ' int', ' xyz'];
    const matches = await matchTokens(texts, source(words), true);
    expect([...matches.kinds]).toEqual([[5, 'exact'], [0, 'prefix'], [1, 'prefix'], [4, 'prefix']]);
    expect([...matches.vector(0)]).toEqual([0.5, 0.5]);
    expect([...matches.vector(1)]).toEqual([0.5, 0.5]);
    expect(matches.vector(4)[0]).toBeCloseTo(3 + 49 / 2, 5);
    expect((await matchTokens(texts, source(words), false)).kinds.size).toBe(1);
  });
});
