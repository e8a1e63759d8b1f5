/**
 * What the methods are tried on: review sentences (the domain to learn), pieces of public-domain prose (the source domain that should not
 * be forgotten). Both are split by a seed; nothing held out is trained on. Sources: data/NOTICE.
 */
import { Xoshiro128 } from '../../src/common/random.js';
import { readReviews, shuffled, splitReviews, type Review } from '../../src/cli/quickstart/reviews.js';
import { readCorpus } from '../tiny-base/corpus.js';

const SPLIT_SEED = 11;
const PIECE_CHARACTERS = 280;
/** The default wording of `text`/`label` rows, so that prompts of pairs read as those of labels do. */
const promptOf = (text: string): string => `${text}\nLabel:`;

export interface MethodData {
  readonly train: readonly Review[];
  readonly heldOut: readonly Review[];
  /** Prose for `text` rows. */
  readonly source: readonly string[];
}

export interface Sizes {
  readonly trainRows: number;
  readonly heldOutRows: number;
  readonly sourceRows: number;
}

export async function readData({ trainRows, heldOutRows, sourceRows }: Sizes): Promise<MethodData> {
  const { train, heldOut } = splitReviews(await readReviews(), trainRows, SPLIT_SEED);
  const prose = (await readCorpus('data/fetched/corpus')).flatMap(({ text }) => pieces(text));
  return { train, heldOut: heldOut.slice(0, heldOutRows), source: shuffled(prose, new Xoshiro128(SPLIT_SEED)).slice(0, sourceRows) };
}

/** One piece of a document, from its middle: whole paragraphs' beginnings are alike across documents. */
function pieces(text: string): string[] {
  const from = text.indexOf(' ', Math.floor(text.length / 2)) + 1;
  const piece = text.slice(from, from + PIECE_CHARACTERS);
  return piece.length === PIECE_CHARACTERS ? [piece] : [];
}

const jsonl = (rows: readonly unknown[]): Uint8Array => Buffer.from(rows.map((row) => `${JSON.stringify(row)}\n`).join(''), 'utf8');

export const labelRows = (reviews: readonly Review[]): Uint8Array => jsonl(reviews.map(({ text, label }) => ({ text, label })));
export const textRows = (texts: readonly string[]): Uint8Array => jsonl(texts.map((text) => ({ text })));

/** The right label preferred to the wrong one. */
export function preferenceRows(reviews: readonly Review[]): Uint8Array {
  const other = { negative: 'positive', positive: 'negative' } as const;
  return jsonl(reviews.map(({ text, label }) => ({ prompt: promptOf(text), chosen: ` ${label}`, rejected: ` ${other[label]}` })));
}
