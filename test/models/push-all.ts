import type { Tokenizer } from '../../src/models/tokenizer.js';

/** The texts that a stream of `ids` gives, one for each token and one for the end. */
export function pushAll(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const decoder = tokenizer.incremental();
  return [...ids.map((id) => decoder.push(id)), decoder.flush()];
}
