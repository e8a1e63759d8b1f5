/**
 * Documents as rows of a fixed number of tokens: each document followed by <|endoftext|>, all laid end to end and cut. Every token
 * but the first of a row counts in the loss. Documents with an index divisible by `HELD_OUT_EVERY` are for validation only.
 */
import { Xoshiro128 } from '../../src/common/random.js';
import type { RenderedExample } from '../../src/models/prompt.js';
import type { Document } from './corpus.js';
import { END_OF_TEXT_ID } from './tokenizer-files.js';

export const HELD_OUT_EVERY = 40;

export interface PackedCorpus {
  readonly train: readonly RenderedExample[];
  readonly validation: readonly RenderedExample[];
  readonly trainTokens: number;
  readonly validationTokens: number;
}

/** `encode` gives token ids; a row feeds `rowTokens` of them and predicts the one after each. A rest shorter than a row is left out. */
export function packCorpus(documents: readonly Document[], encode: (text: string) => number[], rowTokens: number, seed: number): PackedCorpus {
  const order = documents.map((document, index) => ({ document, heldOut: index % HELD_OUT_EVERY === 0 }));
  const random = new Xoshiro128(seed);
  for (let i = order.length - 1; i > 0; i--) {
    const j = random.nextBelow(i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  const streams = { train: [] as number[], validation: [] as number[] };
  for (const { document, heldOut } of order) {
    const stream = heldOut ? streams.validation : streams.train;
    for (const id of encode(document.text)) stream.push(id);
    stream.push(END_OF_TEXT_ID);
  }
  return {
    train: cut(streams.train, rowTokens),
    validation: cut(streams.validation, rowTokens),
    trainTokens: streams.train.length,
    validationTokens: streams.validation.length,
  };
}

/** Rows overlap by one token, so that each token but the very first is predicted exactly once. */
function cut(tokens: readonly number[], rowTokens: number): RenderedExample[] {
  const rows: RenderedExample[] = [];
  const lossMask = Array.from({ length: rowTokens + 1 }, (_, i) => i > 0);
  for (let start = 0; start + rowTokens < tokens.length; start += rowTokens) rows.push({ tokens: tokens.slice(start, start + rowTokens + 1), lossMask });
  return rows;
}
