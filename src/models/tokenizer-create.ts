/** Makes the Tokenizer of a checkpoint out of a tokenizer.json and the ids that its config names. */
import { createHash } from 'node:crypto';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { incrementalDecoder, TokenBytes } from './tokenizer-bytes.js';
import { parseTokenizerSpec, tokenizerError, type TokenizerSpec } from './tokenizer-spec.js';
import type { Tokenizer } from './tokenizer-types.js';
import { unigramSegmenter, type UnigramVocabulary } from './unigram.js';
import { wordEncoder, type WordLibrary } from './word-encoder.js';

/** What we use of the library; its own declarations don't resolve under Node's module rules. */
interface Encoder extends WordLibrary {
  id_to_token(id: number): string | undefined;
  token_to_id(token: string): number | undefined;
  /** What splits pre-tokens into tokens. */
  readonly model: { encode(pieces: readonly string[]): string[]; fuse_unk: boolean };
}
const Encoder = LibraryTokenizer as unknown as new (json: object, config: object) => Encoder;

export interface TokenizerSource {
  /** A parsed tokenizer.json. */
  readonly json: unknown;
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
  /** Names the checkpoint in errors. */
  readonly label: string;
}

/** Throws TOKENIZER_INVALID for a damaged source and MODEL_UNSUPPORTED for a kind of tokenizer that isn't known. */
export function createTokenizer(source: TokenizerSource): Tokenizer {
  const spec = parseTokenizerSpec(source.json, source.label);
  const bytes = new TokenBytes(spec);
  const parsing = encoder(spec, true, source.label);
  const strip = stripper(spec.addedTokens);
  const words = wordEncoder(source.json, spec.addedTokens, parsing);
  let plain: Encoder | undefined;
  const ids = [...(source.bosTokenId === undefined ? [] : [source.bosTokenId]), ...source.eosTokenIds];
  for (const id of ids) {
    if (parsing.id_to_token(id) === undefined) throw tokenizerError(source.label, `it has no token with the bos or eos id ${id}`);
  }
  return {
    vocabSize: bytes.size,
    ...(source.bosTokenId !== undefined && { bosTokenId: source.bosTokenId }),
    eosTokenIds: [...source.eosTokenIds],
    digest: `sha256:${createHash('sha256').update(JSON.stringify([source.json, source.bosTokenId ?? null, source.eosTokenIds])).digest('hex')}`,
    encode(text, options = {}) {
      const given = wellFormed(text);
      if (words !== undefined && options.parseSpecial !== false) return words.encode(strip(given), options.addSpecialTokens ?? false);
      const chosen = options.parseSpecial === false ? (plain ??= encoder(spec, false, source.label)) : parsing;
      const encoded = chosen.encode(options.parseSpecial === false ? given : strip(given), { add_special_tokens: options.addSpecialTokens ?? false });
      // The library leaves a hole for text that the vocabulary can't express and that has no unknown token; so does the reference.
      return encoded.ids.filter((id) => id !== undefined);
    },
    decode(tokenIds, options = {}) {
      const decoder = incrementalDecoder(bytes, options);
      let text = '';
      for (const id of tokenIds) text += decoder.push(id);
      return text + decoder.flush();
    },
    incremental: (options = {}) => incrementalDecoder(bytes, options),
    token: (id) => parsing.id_to_token(id),
    tokenId: (token) => parsing.token_to_id(token),
  };
}

/** `text` with U+FFFD for every half of a surrogate pair, as UTF-8 has it; patterns would see the halves otherwise. */
function wellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, '\ufffd');
}

/**
 * Drops the white space beside added tokens that take it along (`lstrip`, `rstrip`); the library means JavaScript's white space
 * by that, not Unicode's. Tokens are found as the library finds them: leftmost, then longest.
 */
function stripper(tokens: TokenizerSpec['addedTokens']): (text: string) => string {
  if (!tokens.some((token) => token['lstrip'] === true || token['rstrip'] === true)) return (text) => text;
  const byContent = new Map(tokens.map((token) => [token.content, token]));
  const longestFirst = [...byContent.keys()].filter((content) => content !== '').sort((a, b) => b.length - a.length);
  const pattern = new RegExp(`(${longestFirst.map((content) => content.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')})`, 'u');
  const white = /\p{White_Space}/u;
  return (text) => {
    const parts = text.split(pattern);
    // Odd places hold the tokens, even ones the text between them.
    for (let at = 1; at < parts.length; at += 2) {
      const token = byContent.get(parts[at] as string);
      const [before, after] = [parts[at - 1] as string, parts[at + 1] as string];
      let [end, start] = [before.length, 0];
      if (token?.['lstrip'] === true) while (end > 0 && white.test(before[end - 1] as string)) end--;
      if (token?.['rstrip'] === true) while (start < after.length && white.test(after[start] as string)) start++;
      parts[at - 1] = before.slice(0, end);
      parts[at + 1] = after.slice(start);
    }
    return parts.join('');
  };
}

/** With `parseSpecial` false the encoder does not know the special tokens, so that no text can spell one. */
function encoder(spec: TokenizerSpec, parseSpecial: boolean, label: string): Encoder {
  const known = parseSpecial ? spec.addedTokens : spec.addedTokens.filter((token) => !token.special);
  const added = known.map((token) => ({ ...token, lstrip: false, rstrip: false }));
  try {
    const made = new Encoder({ ...spec.json, added_tokens: added }, {});
    if (spec.model.type === 'Unigram') {
      const segment = unigramSegmenter(spec.model as unknown as UnigramVocabulary);
      made.model.encode = (pieces) => pieces.flatMap(segment);
      // Unknown pieces are joined within a pre-token only.
      made.model.fuse_unk = false;
    }
    return made;
  } catch (cause) {
    throw tokenizerError(label, (cause as Error).message, cause);
  }
}
