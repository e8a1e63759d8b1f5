import { describe, expect, test } from '@jest/globals';
import { createTokenizer } from '../../src/models/tokenizer.js';
import { unigramSegmenter } from '../../src/models/unigram.js';

/** The distance of neighbouring doubles between 1/2 and 1. */
const ULP = 2 ** -53;
const segment = (pieces: Record<string, number>, text: string): string[] =>
  unigramSegmenter({ vocab: [['<unk>', 0], ...Object.entries(pieces)], unk_id: 0 })(text);

// What Rust tokenizers 0.23.3 makes of the same vocabularies; `npm run check:tokenizers` compares 10,000 texts of ties live.
describe('paths of almost the same score', () => {
  test('one unit in the last place decides, though it is rounded away once the next piece is added', () => {
    const pieces = { ab: -1, a: -0.5, b: -0.5 + ULP, c: -8 };
    expect(-1 + -8).toBe(-0.5 + (-0.5 + ULP) + -8);
    expect(segment(pieces, 'abc')).toEqual(['a', 'b', 'c']);
    expect(segment({ ...pieces, b: -0.5 }, 'abc')).toEqual(['ab', 'c']);
  });

  test('of equal sums the path whose last piece starts first stays', () => {
    expect(segment({ a: -1, b: -1, ab: -2 }, 'ab')).toEqual(['ab']);
    expect(segment({ a: -1, b: -1, c: -1, ab: -2, bc: -2 }, 'abc')).toEqual(['a', 'bc']);
    expect(segment({ a: -1, b: -1, c: -1, ab: -2, bc: -2, abc: -3 }, 'abc')).toEqual(['abc']);
  });

  test('sums run from the front: decimal scores whose sums depend on the order', () => {
    expect(0.1 + 0.2 + 0.3).not.toBe(0.1 + (0.2 + 0.3));
    expect(segment({ a: -0.1, b: -0.2, c: -0.3, bc: -0.5 }, 'abc')).toEqual(['a', 'bc']);
    expect(segment({ a: -0.3, b: -0.2, c: -0.1, bc: -0.3, abc: -0.6 }, 'abc')).toEqual(['abc']);
  });
});

describe('characters that no piece has', () => {
  test('they cost ten more than the worst piece, and neighbours are one piece', () => {
    expect(segment({ a: -1, b: -2 }, 'xya🙂b')).toEqual(['xy', 'a', '🙂', 'b']);
    expect(segment({ a: -1, xy: -23.9, b: -2 }, 'xy')).toEqual(['xy']);
    expect(segment({ a: -1, xyz: -60 }, 'xyz')).toEqual(['xyz']);
    expect(segment({}, '')).toEqual([]);
  });

  test('the unknown piece written out has its own score, and pre-tokens stay apart', () => {
    const json = {
      model: { type: 'Unigram', unk_id: 0, vocab: [['<unk>', 0], ['a', -1], ['<', -1], ['>', -1], ['u', -1], ['n', -1], ['k', -1]] },
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'never', split: true }, decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'never' },
    };
    const tokenizer = createTokenizer({ json, eosTokenIds: [], label: 'unigram' });
    expect(tokenizer.encode('a<unk>a')).toEqual([1, 0, 1]);
    expect(tokenizer.encode('xy z')).toEqual([0, 0]);
  });
});
