import { Tokenizer } from '@huggingface/tokenizers';
import { describe, expect, test } from '@jest/globals';
import { byteSymbols, trainBpe } from '../../scripts/tiny-base/bpe.js';
import { END_OF_TEXT_ID, SPECIAL_TOKENS, tokenizerConfig, tokenizerJson } from '../../scripts/tiny-base/tokenizer-files.js';

const TEXT = 'low low low low low lower lower newest newest newest newest newest newest widest widest widest ';

describe('trainBpe', () => {
  test('the 256 byte symbols are distinct and printable', () => {
    const symbols = byteSymbols();
    expect(new Set(symbols).size).toBe(256);
    expect(symbols.filter((symbol) => /\s|\p{C}/u.test(symbol))).toEqual([]);
    expect(symbols[0x20]).toBe('Ġ');
    expect(symbols[0x41]).toBe('A');
  });

  test('merges the most frequent pair, then again with what it made', () => {
    // Sennrich et al.'s example with leading spaces: "es" and "st" occur 9 times, as does " n" … 6; ties go to the lower pair.
    const { merges, tokens } = trainBpe([TEXT], 256 + 4);
    expect(merges).toEqual([['e', 's'], ['es', 't'], ['l', 'o'], ['lo', 'w']]);
    expect(tokens.slice(256)).toEqual(['es', 'est', 'lo', 'low']);
  });

  test('never merges over a word border, and stops when no pair occurs twice', () => {
    const { tokens } = trainBpe([TEXT], 5000);
    expect(tokens.length).toBeLessThan(300);
    expect(tokens.filter((token) => token.lastIndexOf('Ġ') > 0)).toEqual([]);
  });

  test('the same text gives the same vocabulary', () => {
    expect(trainBpe([TEXT], 280)).toEqual(trainBpe([TEXT], 280));
  });
});

describe('tokenizer files', () => {
  const json = tokenizerJson(trainBpe([TEXT], 270));
  const tokenizer = new Tokenizer(json, tokenizerConfig(256));

  test.each(['low newest', ' widest\n\n low', 'Ünïcødé — 日本語 🎉 \t x', "it's 2,048 o'clock"])('round trip of %j', (text) => {
    const { ids } = tokenizer.encode(text);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  test('learned merges are used', () => {
    expect(tokenizer.encode('low').ids).toEqual([SPECIAL_TOKENS.length + 256 + 3]);
  });

  test('special tokens are single ids and the first of the vocabulary', () => {
    expect(tokenizer.encode('<|endoftext|>low').ids[0]).toBe(END_OF_TEXT_ID);
    expect(SPECIAL_TOKENS.map((token) => tokenizer.encode(token).ids)).toEqual([[0], [1], [2]]);
  });
});
