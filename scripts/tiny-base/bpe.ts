/**
 * Byte-pair encoding learned from text (Sennrich et al. 2016, on bytes as in GPT-2): words are cut by GPT-2's pattern, written as
 * byte symbols, and the most frequent adjacent pair is merged until the vocabulary is full. Ties go to the pair that sorts first,
 * so that the same text always gives the same vocabulary. It learns; encoding belongs to src/models/tokenizer.ts.
 */

/** GPT-2's pre-tokenization, which tokenizer.json names as ByteLevel with use_regex. */
const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The 256 printable characters that stand for bytes in a byte-level vocabulary: printable Latin-1 as itself, the rest from U+0100. */
export function byteSymbols(): string[] {
  const printable = (byte: number): boolean => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

export interface Vocabulary {
  /** Byte symbols first, then one token for each merge, in the order learned. */
  readonly tokens: readonly string[];
  readonly merges: readonly (readonly [string, string])[];
}

interface Word {
  symbols: number[];
  readonly count: number;
}

function countWords(texts: Iterable<string>): Word[] {
  const counts = new Map<string, number>();
  for (const text of texts) for (const [word] of text.matchAll(WORD)) counts.set(word, (counts.get(word) ?? 0) + 1);
  return [...counts].map(([word, count]) => ({ symbols: [...Buffer.from(word, 'utf8')], count }));
}

/** Pair (left, right) as one number; vocabularies stay far below 2^20 tokens. */
const key = (left: number, right: number): number => left * 0x100000 + right;

/** Learns `size` tokens (256 bytes included) from `texts`. */
export function trainBpe(texts: Iterable<string>, size: number): Vocabulary {
  const tokens = byteSymbols();
  const words = countWords(texts);
  const merges: [string, string][] = [];
  const counts = new Map<number, number>();
  const where = new Map<number, Set<number>>();

  const add = (pair: number, amount: number, word: number): void => {
    counts.set(pair, (counts.get(pair) ?? 0) + amount);
    if (amount > 0) {
      const set = where.get(pair);
      if (set === undefined) where.set(pair, new Set([word]));
      else set.add(word);
    }
  };
  const addWord = (index: number, sign: 1 | -1): void => {
    const { symbols, count } = words[index]!;
    for (let i = 1; i < symbols.length; i++) add(key(symbols[i - 1]!, symbols[i]!), sign * count, index);
  };
  words.forEach((_, index) => addWord(index, 1));

  while (tokens.length < size) {
    let best = -1;
    let bestCount = 1;
    for (const [pair, count] of counts) {
      if (count > bestCount || (count === bestCount && best !== -1 && pair < best)) [best, bestCount] = [pair, count];
    }
    if (best === -1) break;
    const left = Math.floor(best / 0x100000);
    const right = best % 0x100000;
    const merged = tokens.length;
    tokens.push(tokens[left]! + tokens[right]!);
    merges.push([tokens[left]!, tokens[right]!]);
    for (const index of where.get(best) ?? []) {
      addWord(index, -1);
      const word = words[index]!;
      word.symbols = mergePair(word.symbols, left, right, merged);
      addWord(index, 1);
    }
    counts.delete(best);
    where.delete(best);
  }
  return { tokens, merges };
}

function mergePair(symbols: readonly number[], left: number, right: number, merged: number): number[] {
  const out: number[] = [];
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) {
      out.push(merged);
      i++;
    } else out.push(symbols[i]!);
  }
  return out;
}
