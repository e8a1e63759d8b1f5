/**
 * Which word vector a token of the model gets: of the word that its text spells, else of that word in lower case, else, where
 * asked for, the mean of the words that begin with it. Everything else keeps its row. Invariant: a token without whole
 * characters, a special one or one of white space only never gets a vector.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Tokenizer } from './tokenizer-types.js';
import type { WordVectors } from './pretrained-embeddings-table.js';

/** Text of a token inside a text; undefined for special tokens and for bytes that are no whole characters. */
export type TokenText = string | undefined;

export type MatchKind = 'exact' | 'lowerCase' | 'prefix';

export interface TokenMatches {
  /** Of every token that gets a vector. */
  readonly kinds: ReadonlyMap<number, MatchKind>;
  /** Vector [D] of such a token: a view of the source's row, or a mean. Throws for any other token. */
  vector(token: number): Float32Array;
}

/** Words that a prefix is the mean of: the first of them, which are the most frequent. */
const PREFIX_WORDS = 50;
const MIN_PREFIX_CHARACTERS = 2;
/** Map look-ups between two turns of the event loop. */
const LOOKUPS_PER_TURN = 1 << 16;

/**
 * Texts of all tokens as they stand after another token, so that a leading space shows whatever the tokenizer does at the start.
 * `vocabSize` is the model's, where it has rows that the tokenizer doesn't use.
 */
export function tokenTexts(tokenizer: Tokenizer, vocabSize = tokenizer.vocabSize): TokenText[] {
  const options = { skipSpecialTokens: true };
  const ids = Array.from({ length: vocabSize }, (_, id) => id);
  const anchor = ids.find((id) => /^[A-Za-z0-9]+$/.test(tokenizer.decode([id], options)));
  return ids.map((id) => {
    const decoder = tokenizer.incremental(options);
    if (anchor !== undefined) decoder.push(anchor);
    const text = decoder.push(id) + decoder.flush();
    return text === '' || text.includes('\ufffd') ? undefined : text;
  });
}

/**
 * Matches texts [V] to words. A text that begins with white space spells a word; a bare one spells a continuation where the
 * source has continuations, else a word too. `prefixes`: word-initial texts of two or more characters that match nothing get the
 * mean of at most 50 words that begin with them.
 */
export async function matchTokens(texts: readonly TokenText[], source: WordVectors, prefixes: boolean): Promise<TokenMatches> {
  const kinds = new Map<number, MatchKind>();
  const rows = new Map<number, number>();
  const open = new Map<string, number[]>();
  for (const [token, text] of texts.entries()) {
    const word = text?.trim() ?? '';
    if (text === undefined || word === '') continue;
    const bare = text.startsWith(word);
    const found = find(word, bare, source);
    if (found !== undefined) {
      kinds.set(token, found.kind);
      rows.set(token, found.row);
    } else if (prefixes && !bare && word.length >= MIN_PREFIX_CHARACTERS) {
      const lower = word.toLowerCase();
      open.set(lower, [...(open.get(lower) ?? []), token]);
    }
  }
  const means = await prefixMeans(open, source);
  for (const token of means.keys()) kinds.set(token, 'prefix');
  const { dimension, vectors } = source;
  return {
    kinds,
    vector(token) {
      const row = rows.get(token);
      const vector = row === undefined ? means.get(token) : vectors.subarray(row * dimension, (row + 1) * dimension);
      if (vector === undefined) throw new RangeError(`token ${token} has no vector`);
      return vector;
    },
  };
}

function find(word: string, bare: boolean, { words, continuations }: WordVectors): { kind: MatchKind; row: number } | undefined {
  const maps = bare ? [continuations, words] : [words];
  const lower = word.toLowerCase();
  for (const map of maps) {
    const exact = map.get(word);
    if (exact !== undefined) return { kind: 'exact', row: exact };
    const lowered = map.get(lower);
    if (lowered !== undefined) return { kind: 'lowerCase', row: lowered };
  }
  return undefined;
}

/** Means by token. One pass over the words in their order, each offered to all of its own beginnings. */
async function prefixMeans(open: ReadonlyMap<string, readonly number[]>, source: WordVectors): Promise<Map<number, Float32Array>> {
  const means = new Map<number, Float32Array>();
  if (open.size === 0) return means;
  const sums = new Map<string, { readonly sum: Float64Array; count: number }>();
  let lookups = 0;
  for (const [word, row] of source.words) {
    for (let length = MIN_PREFIX_CHARACTERS; length < word.length; length++, lookups++) {
      const prefix = word.slice(0, length);
      if (!open.has(prefix)) continue;
      const entry = sums.get(prefix) ?? { sum: new Float64Array(source.dimension), count: 0 };
      sums.set(prefix, entry);
      if (entry.count === PREFIX_WORDS) continue;
      entry.count++;
      for (let i = 0; i < source.dimension; i++) entry.sum[i]! += source.vectors[row * source.dimension + i]!;
    }
    if (lookups > LOOKUPS_PER_TURN) {
      lookups = 0;
      await nextTurn();
    }
  }
  for (const [prefix, { sum, count }] of sums) {
    const mean = Float32Array.from(sum, (value) => value / count);
    for (const token of open.get(prefix)!) means.set(token, mean);
  }
  return means;
}
