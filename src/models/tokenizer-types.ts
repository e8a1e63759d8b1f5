/**
 * Text to token ids and back. Encoding is @huggingface/tokenizers on a tokenizer.json (or its equivalent made from a GGUF
 * file); decoding is our own, on bytes: each token has its bytes, so that text can be streamed without half a character.
 * A tokenizer is immutable; encoding is synchronous and meant for texts of ordinary length.
 */
export interface EncodeOptions {
  /** Adds what the tokenizer's post-processor adds (a bos, say). Default false. */
  readonly addSpecialTokens?: boolean;
  /** Reads special tokens written out in the text, such as `<|im_end|>`, as those tokens. Default true; false for text of strangers. */
  readonly parseSpecial?: boolean;
}

export interface DecodeOptions {
  /** Leaves special tokens out. Default false. */
  readonly skipSpecialTokens?: boolean;
}

/** Text of tokens that come one by one. What `push` and the last `flush` return, joined, is what `decode` returns of all ids. */
export interface IncrementalDecoder {
  /** The text that `id` completes; empty while a character is incomplete. */
  push(id: number): string;
  /** What is left: the replacement character when bytes of an incomplete character remain, else empty. */
  flush(): string;
}

export interface Tokenizer {
  /** Ids are below this. */
  readonly vocabSize: number;
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
  /** `sha256:…` of what determines its behaviour. */
  readonly digest: string;
  encode(text: string, options?: EncodeOptions): number[];
  decode(ids: readonly number[], options?: DecodeOptions): string;
  incremental(options?: DecodeOptions): IncrementalDecoder;
  /** The token's text as the vocabulary spells it; undefined for an id that has none. */
  token(id: number): string | undefined;
  tokenId(token: string): number | undefined;
}
