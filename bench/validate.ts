/**
 * Validation of 100,000 rows through gRPC: tokens, masks and truncation with the base's tokenizer, repetitions, personal data. The rows
 * are review sentences, each joined to another one by a rule, so that no two are equal; four kinds of row are made of them.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, DatasetFormat, type DatasetReport, type LoricaClient } from '../src/client/index.js';
import { chooseBase, PREFERRED_MODEL } from '../src/cli/quickstart/model.js';
import { readReviews, type Review } from '../src/cli/quickstart/reviews.js';
import { startServerProcess } from '../src/cli/quickstart/server-process.js';
import { spread, type Spread } from './statistics.js';

const ROWS = 100_000;
const REPEATS = 3;

const KINDS: Readonly<Record<string, (text: string, label: string) => unknown>> = {
  label: (text, label) => ({ text, label }),
  text: (text) => ({ text }),
  completion: (text, label) => ({ prompt: `Review: ${text}\nSentiment:`, completion: ` ${label}` }),
  messages: (text, label) => ({
    messages: [
      { role: 'user', content: text },
      { role: 'assistant', content: `It is ${label}.` },
    ],
  }),
};

export interface ValidateFigures {
  readonly base: string;
  readonly baseDigest: string;
  readonly rows: number;
  readonly rowsMadeOf: string;
  /** By kind of row. */
  readonly kinds: Readonly<Record<string, { readonly bytes: number; readonly tokens: number; readonly seconds: Spread; readonly secondsWithoutBase: Spread }>>;
  readonly serverPeakMemoryBytes: number | undefined;
}

export async function validate(options: { model?: string; log: (text: string) => void }): Promise<ValidateFigures> {
  const base = await chooseBase(options.model ?? PREFERRED_MODEL, { signal: new AbortController().signal, onProgress: () => undefined });
  options.log(`${base.id}: ${base.why}`);
  const reviews = await readReviews();
  const dataDir = await mkdtemp(join(tmpdir(), 'lorica-bench-'));
  const server = await startServerProcess({ dataDir, models: base.embedded ? new Map() : new Map([[base.id, base.path]]), device: 'cpu' });
  const client = connect({ address: server.address, tenant: 'bench' });
  try {
    await client.ready(30_000);
    const kinds: Record<string, ValidateFigures['kinds'][string]> = {};
    for (const kind of Object.keys(KINDS)) kinds[kind] = await measure(client, kind, reviews, `models/${base.id}`, options.log);
    return {
      base: base.id,
      baseDigest: (await client.models.getModel({ name: `models/${base.id}` })).digest,
      rows: ROWS,
      rowsMadeOf: `${reviews.length} review sentences (Amazon, Yelp), each joined to another one so that no two rows are equal`,
      kinds,
      serverPeakMemoryBytes: await server.peakMemoryBytes(),
    };
  } finally {
    client.close();
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
  }
}

async function measure(client: LoricaClient, kind: string, reviews: readonly Review[], baseModel: string, log: (text: string) => void): Promise<ValidateFigures['kinds'][string]> {
  const dataset = await client.datasets.uploadDataset(
    { parent: 'tenants/-', datasetId: `rows-${kind}`, format: DatasetFormat.DATASET_FORMAT_JSONL },
    rowsOf(kind, reviews),
  );
  const seconds: number[] = [];
  const withoutBase: number[] = [];
  let tokens = 0;
  for (let run = 0; run < REPEATS; run += 1) {
    const alone = await timed(client, dataset.name, '');
    const whole = await timed(client, dataset.name, baseModel);
    withoutBase.push(alone.seconds);
    seconds.push(whole.seconds);
    tokens = whole.report.tokens!.tokens;
    log(`${kind}: ${whole.seconds.toFixed(2)} s, ${alone.seconds.toFixed(2)} s without the base`);
  }
  return { bytes: dataset.bytes, tokens, seconds: spread(seconds), secondsWithoutBase: spread(withoutBase) };
}

async function timed(client: LoricaClient, name: string, baseModel: string): Promise<{ seconds: number; report: DatasetReport }> {
  const from = performance.now();
  let report: DatasetReport | undefined;
  for await (const { event } of client.datasets.validateDataset({ name, baseModel })) if (event?.$case === 'report') report = event.value;
  if (report?.rows !== ROWS) throw new Error(`the validation read ${report?.rows ?? 0} rows, not ${ROWS}`);
  return { seconds: (performance.now() - from) / 1000, report };
}

/** Row i joins sentence i mod n to the one that lies i div n further on: pairs do not repeat before n². */
function rowsOf(kind: string, reviews: readonly Review[]): Uint8Array {
  const rows = Array.from({ length: ROWS }, (_, i) => {
    const { text, label } = reviews[i % reviews.length]!;
    const other = reviews[(i + 1 + Math.floor(i / reviews.length)) % reviews.length]!;
    return `${JSON.stringify(KINDS[kind]!(`${text} ${other.text}`, label))}\n`;
  });
  return Buffer.from(rows.join(''));
}
