/**
 * Encoding for texts in number: a byte-level BPE tokenizer encodes each word (piece of its pre-tokenization) on its own, and words repeat, so
 * the ids of a word are kept. Invariant: ids are those of the library that encodes the words that are not known yet; a tokenizer whose
 * pre-tokenization is not one of pre-tokenizers.ts has no word encoder. A word of that table is split the same way alone and in its
 * text: only the runs of white space look ahead, and alone they match whole.
 */
import { preTokenizationName } from './pre-tokenizers.js';
import type { AddedTokenSpec } from './tokenizer-spec.js';

/** What of the library is used; `pre_tokenizer` holds its compiled patterns. */
export interface WordLibrary {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  readonly pre_tokenizer?: unknown;
  readonly normalizer?: ((text: string) => string) | null;
}

export interface WordEncoder {
  encode(text: string, addSpecialTokens: boolean): number[];
}

/** Words that are kept; all are forgotten when there are more. */
const MAX_WORDS = 1 << 16;
const MAX_WORD_CHARACTERS = 64;

/** Undefined where the tokenizer is of another kind; `json` is its tokenizer.json. */
export function wordEncoder(json: unknown, addedTokens: readonly AddedTokenSpec[], library: WordLibrary): WordEncoder | undefined {
  const source = json as Record<string, unknown>;
  if (addedTokens.some((token) => (token as { normalized?: unknown }).normalized === true && source['normalizer'] != null)) return undefined;
  if ((source['model'] as { type?: unknown } | undefined)?.type !== 'BPE' || preTokenizationName(source) === undefined) return undefined;
  const patterns = compiledPatterns(library.pre_tokenizer);
  const frame = specialFrame(library);
  if (patterns === undefined || frame === undefined) return undefined;

  const idOf = new Map(addedTokens.map(({ content, id }) => [content, id]));
  const added = addedTokens.length === 0 ? undefined : alternation([...idOf.keys()]);
  const known = new Map<string, readonly number[]>();
  const idsOf = (word: string): readonly number[] => {
    const found = known.get(word);
    if (found !== undefined) return found;
    const ids = library.encode(word, { add_special_tokens: false }).ids.filter((id) => id !== undefined);
    if (word.length > MAX_WORD_CHARACTERS) return ids;
    if (known.size >= MAX_WORDS) known.clear();
    known.set(word, ids);
    return ids;
  };
  const normalize = library.normalizer ?? ((text: string) => text);
  return {
    encode(text, addSpecialTokens) {
      const ids: number[] = addSpecialTokens ? [...frame.before] : [];
      for (const section of added === undefined ? [text] : text.split(added)) {
        const token = idOf.get(section);
        if (token !== undefined) ids.push(token);
        else if (section !== '') for (const word of words(normalize(section), patterns)) for (const id of idsOf(word)) ids.push(id);
      }
      if (addSpecialTokens) ids.push(...frame.after);
      return ids;
    },
  };
}

/** The pieces of a text: each pattern isolates its matches in the pieces of the pattern before. */
function words(text: string, patterns: readonly RegExp[]): string[] {
  let pieces = [text];
  for (const pattern of patterns) {
    const next: string[] = [];
    for (const piece of pieces) {
      let from = 0;
      pattern.lastIndex = 0;
      for (let match = pattern.exec(piece); match !== null; match = pattern.exec(piece)) {
        if (match.index > from) next.push(piece.slice(from, match.index));
        next.push(match[0]);
        from = match.index + match[0].length;
      }
      if (from < piece.length) next.push(piece.slice(from));
    }
    pieces = next;
  }
  return pieces;
}

interface Step {
  readonly config?: { readonly type?: string };
  readonly pattern?: unknown;
  readonly use_regex?: boolean;
  readonly tokenizers?: readonly Step[];
}

/** The library's compiled patterns in order; undefined when one is no global RegExp. */
function compiledPatterns(preTokenizer: unknown): RegExp[] | undefined {
  const flat = (step: Step): Step[] => (step.tokenizers === undefined ? [step] : step.tokenizers.flatMap(flat));
  const steps = preTokenizer == null ? [] : flat(preTokenizer);
  const patterns = steps.filter((step) => step.use_regex !== false).map(({ pattern }) => pattern);
  return patterns.length > 0 && patterns.every((pattern) => pattern instanceof RegExp && pattern.global) ? (patterns as RegExp[]) : undefined;
}

/** What the post-processor puts before and after a text. */
function specialFrame(library: WordLibrary): { readonly before: readonly number[]; readonly after: readonly number[] } | undefined {
  const encode = (add_special_tokens: boolean): string => JSON.stringify(library.encode('a', { add_special_tokens }).ids).slice(1, -1);
  const [framed, bare] = [`,${encode(true)},`, `,${encode(false)},`];
  const at = framed.indexOf(bare);
  const ids = (text: string): number[] => text.split(',').filter((id) => id !== '').map(Number);
  return at === -1 ? undefined : { before: ids(framed.slice(0, at)), after: ids(framed.slice(at + bare.length)) };
}

/** One of the texts, the longest that fits, captured so that split keeps it. */
function alternation(texts: readonly string[]): RegExp {
  const longestFirst = texts.filter((text) => text !== '').sort((a, b) => b.length - a.length);
  return new RegExp(`(${longestFirst.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')})`, 'u');
}
