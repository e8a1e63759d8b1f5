/**
 * Every way of tuning on one base and one task: what it trains, what it costs, what it gains, what it forgets.
 *   npm run methods [-- --model smollm2-135m-instruct] [--only lora,full] [--json FILE] [--markdown FILE]
 * The embedded base without --model. Exit status 1 when a method does not improve its target on rows held out: the label's loss, or for a
 * classification head the accuracy.
 */
import { writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { Command } from 'commander';
import { chooseBase, EMBEDDED_MODEL } from '../../src/cli/quickstart/model.js';
import { readData, type Sizes } from './data.js';
import { measure, type Measured } from './measure.js';
import { METHODS, type Rates } from './methods.js';
import type { Quality } from './server.js';
import { table } from './table.js';

interface Settings {
  readonly rates: Rates;
  readonly sizes: Sizes;
  readonly epochs: number;
  /** Scores in float32 where it costs little, so that rounding of the serving form is not taken for the method's. */
  readonly environment: Readonly<Record<string, string>>;
}

const EMBEDDED: Settings = {
  rates: { whole: 5e-4, lora: 2e-3, head: 2e-3, small: 1e-2 },
  sizes: { trainRows: 640, heldOutRows: 400, sourceRows: 60 },
  epochs: 2,
  environment: { LORICA_SERVING_FORM: 'float32' },
};
const PRETRAINED: Settings = {
  rates: { whole: 5e-5, lora: 2e-4, head: 1e-3, small: 1e-3 },
  sizes: { trainRows: 240, heldOutRows: 200, sourceRows: 32 },
  epochs: 1,
  environment: {},
};

/** The target of a method: the loss of what it learns to write, or for a head the accuracy. */
function improves({ id, before, after }: Measured): boolean {
  return id === 'classification' ? after.accuracy > before.accuracy : after.loss < before.loss;
}

const program = new Command()
  .option('--model <model>', 'an id of the catalogue, or a path', EMBEDDED_MODEL)
  .option('--only <ids>', 'these methods, separated by commas')
  .option('--json <file>', 'write the figures here')
  .option('--markdown <file>', 'write the table here')
  .parse();
const options = program.opts<{ model: string; only?: string; json?: string; markdown?: string }>();
const base = await chooseBase(options.model, { onProgress: () => undefined, signal: new AbortController().signal });
const { rates, sizes, epochs, environment } = base.embedded ? EMBEDDED : PRETRAINED;
const data = await readData(sizes);
const wanted = options.only?.split(',');
const methods = METHODS.filter(({ id }) => wanted === undefined || wanted.includes(id));
console.log(`${base.id}, ${base.why}; ${data.train.length} rows to train on, ${data.heldOut.length} held out, ${methods.length} methods`);

const results: Measured[] = [];
let before: Quality | undefined;
for (const method of methods) {
  const measured = await measure(method, { base, data, rates, epochs, environment }, before);
  before = measured.before;
  results.push(measured);
  const { parameters, seconds, peakMemoryBytes, after } = measured;
  console.log(
    `${improves(measured) ? 'better' : 'WORSE '} ${method.title.padEnd(42)} ${String(parameters).padStart(11)} parameters ${seconds.toFixed(0).padStart(4)} s ` +
      `${(peakMemoryBytes / 1e6).toFixed(0).padStart(5)} MB  loss ${before.loss.toFixed(3)} → ${after.loss.toFixed(3)}  ` +
      `accuracy ${before.accuracy.toFixed(3)} → ${after.accuracy.toFixed(3)}  source ${before.sourceLoss.toFixed(3)} → ${after.sourceLoss.toFixed(3)}`,
  );
}
const failed = results.filter((result) => !improves(result));
const figures = {
  base: base.id,
  date: new Date().toISOString().slice(0, 10),
  machine: `${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
  rows: { train: data.train.length, heldOut: data.heldOut.length },
  methods: results.length,
  improved: results.length - failed.length,
  notImproved: failed.length,
  results,
};
if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(figures, null, 2)}\n`);
if (options.markdown !== undefined) await writeFile(options.markdown, table(figures));
console.log(`${figures.improved} of ${figures.methods} methods improve on rows held out${failed.length > 0 ? `; not: ${failed.map(({ id }) => id).join(', ')}` : ''}`);
process.exitCode = failed.length === 0 ? 0 : 1;
