/** Makes the Tokenizer of a checkpoint out of a tokenizer.json and the ids that its config names. */
import { createHash } from 'node:crypto';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { incrementalDecoder, TokenBytes } from './tokenizer-bytes.js';
import { parseTokenizerSpec, tokenizerError, type TokenizerSpec } from './tokenizer-spec.js';
import type { Tokenizer } from './tokenizer-types.js';

/** What we use of the library; its own declarations don't resolve under Node's module rules. */
interface Encoder {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  id_to_token(id: number): string | undefined;
  token_to_id(token: string): number | undefined;
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
      const chosen = options.parseSpecial === false ? (plain ??= encoder(spec, false, source.label)) : parsing;
      const encoded = chosen.encode(text, { add_special_tokens: options.addSpecialTokens ?? false });
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

/** With `parseSpecial` false the encoder does not know the special tokens, so that no text can spell one. */
function encoder(spec: TokenizerSpec, parseSpecial: boolean, label: string): Encoder {
  const added = parseSpecial ? spec.addedTokens : spec.addedTokens.filter((token) => !token.special);
  try {
    return new Encoder({ ...spec.json, added_tokens: added }, {});
  } catch (cause) {
    throw tokenizerError(label, (cause as Error).message, cause);
  }
}
