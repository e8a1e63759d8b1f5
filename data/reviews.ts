/**
 * Writes the review sentences that the quickstart tunes on as data/fetched/reviews-{train,held-out}.jsonl (ignored by git):
 * npm run data:reviews [-- seed [trainRows]]
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readReviews, splitReviews, toJsonl } from '../src/cli/quickstart/reviews.js';

const [seed, trainRows] = [Number(process.argv[2] ?? 1), Number(process.argv[3] ?? 800)];
const folder = join('data', 'fetched');
await mkdir(folder, { recursive: true });
const { train, heldOut } = splitReviews(await readReviews(), trainRows, seed);
await writeFile(join(folder, 'reviews-train.jsonl'), toJsonl(train));
await writeFile(join(folder, 'reviews-held-out.jsonl'), toJsonl(heldOut));
console.log(`${train.length} rows to train on and ${heldOut.length} held out, in ${folder}`);
