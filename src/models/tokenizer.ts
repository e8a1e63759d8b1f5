/** Text to token ids and back. */
export type { DecodeOptions, EncodeOptions, IncrementalDecoder, Tokenizer } from './tokenizer-types.js';
export { createTokenizer, type TokenizerSource } from './tokenizer-create.js';
