import { describe, expect, test } from '@jest/globals';
import { readReviews, shuffleLabels, splitReviews, toJsonl } from '../../../src/cli/quickstart/reviews.js';

const reviews = await readReviews();
const count = (rows: readonly { label: string }[], label: string): number => rows.filter((row) => row.label === label).length;

describe('review sentences', () => {
  test('about two thousand, each once, both labels and sources even', () => {
    expect(reviews.length).toBeGreaterThan(1950);
    expect(reviews.length).toBeLessThanOrEqual(2000);
    expect(new Set(reviews.map((review) => review.text.toLowerCase())).size).toBe(reviews.length);
    expect(Math.abs(count(reviews, 'positive') - count(reviews, 'negative'))).toBeLessThan(25);
    expect(reviews.every((review) => review.text.trim() !== '')).toBe(true);
  });

  test('the split is stratified, disjoint, complete and seeded', () => {
    const { train, heldOut } = splitReviews(reviews, 800, 1);
    expect(train).toHaveLength(800);
    expect(heldOut.length).toBeGreaterThanOrEqual(1000);
    expect(count(train, 'positive')).toBe(400);
    const texts = new Set(train.map((review) => review.text));
    expect(heldOut.filter((review) => texts.has(review.text))).toEqual([]);
    expect(train.length + heldOut.length).toBe(reviews.length);
    expect(splitReviews(reviews, 800, 1)).toEqual({ train, heldOut });
    expect(splitReviews(reviews, 800, 2).train).not.toEqual(train);
  });

  test('shuffled labels keep texts and label counts but say nothing', () => {
    const { train } = splitReviews(reviews, 800, 1);
    const control = shuffleLabels(train, 7);
    expect(control.map((row) => row.text)).toEqual(train.map((row) => row.text));
    expect(count(control, 'positive')).toBe(count(train, 'positive'));
    const agreeing = control.filter((row, i) => row.label === train[i]!.label).length;
    expect(agreeing).toBeGreaterThan(340);
    expect(agreeing).toBeLessThan(460);
  });

  test('JSONL rows hold text and label only', () => {
    const lines = Buffer.from(toJsonl(reviews.slice(0, 3))).toString('utf8').trimEnd().split('\n');
    expect(lines.map((line) => Object.keys(JSON.parse(line)))).toEqual(Array(3).fill(['text', 'label']));
  });
});
