/**
 * The automatic learning rate beside its neighbours, and what is forgotten at equal target loss: four ways of tuning, several lengths of training.
 *   npm run rates [-- --model smollm2-135m-instruct] [--only lora,full] [--seed 1] [--from FILE] [--json FILE] [--markdown FILE]
 * The embedded base without --model. All runs go through the public API on one server. The files are written after every curve, and `--from` takes the
 * curves that such a file of figures holds instead of measuring them again.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { Command } from 'commander';
import { chooseBase, EMBEDDED_MODEL } from '../../src/cli/quickstart/model.js';
import { labelRows, readData, type Sizes } from './data.js';
import { METHODS, type Method } from './methods.js';
import { climb, verdictOf, type RateCurve, type RatePoint } from './rate-curve.js';
import { ratesPage, type RateFigures, type RateStudy, type TrainingLength } from './rate-tables.js';
import { withServer, type MethodServer, type Quality } from './server.js';

const BATCH_ROWS = 8;

interface Settings {
  readonly sizes: Sizes;
  readonly lengths: readonly TrainingLength[];
  readonly methods: readonly string[];
  /** Multiples of the automatic rate, ascending, and how far beyond them the best is sought. */
  readonly factors: readonly number[];
  readonly reach: number;
  /** Scores in float32 where it costs little. */
  readonly environment: Readonly<Record<string, string>>;
}

const EMBEDDED: Settings = {
  sizes: { trainRows: 1440, heldOutRows: 400, sourceRows: 200 },
  lengths: [
    { rows: 160, epochs: 2 },
    { rows: 640, epochs: 2 },
    { rows: 1440, epochs: 2 },
    { rows: 160, epochs: 8 },
  ],
  methods: ['full', 'last-2', 'attention', 'lora'],
  factors: [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8],
  reach: 64,
  environment: { LORICA_SERVING_FORM: 'float32' },
};
const PRETRAINED: Settings = {
  sizes: { trainRows: 240, heldOutRows: 200, sourceRows: 96 },
  lengths: [{ rows: 240, epochs: 1 }],
  methods: ['lora', 'full', 'last-2', 'attention'],
  factors: [1 / 4, 1, 4],
  reach: 16,
  environment: {},
};

const program = new Command()
  .option('--model <model>', 'an id of the catalogue, or a path', EMBEDDED_MODEL)
  .option('--only <ids>', 'these methods, separated by commas')
  .option('--seed <n>', 'of every job', Number, 1)
  .option('--from <file>', 'figures of the same base and seed; curves in them are not measured again')
  .option('--json <file>', 'write the figures here')
  .option('--markdown <file>', 'write the tables here')
  .parse();
const options = program.opts<{ model: string; only?: string; seed: number; from?: string; json?: string; markdown?: string }>();
const base = await chooseBase(options.model, { onProgress: () => undefined, signal: new AbortController().signal });
const settings = base.embedded ? EMBEDDED : PRETRAINED;
const data = await readData(settings.sizes);
const ids = options.only?.split(',') ?? settings.methods;
const methods = ids.map(methodOf);
console.log(`${base.id}, ${base.why}; ${data.heldOut.length} rows held out, ${data.source.length} pieces of prose, ${methods.map(({ id }) => id).join(', ')}`);

const earlier = options.from === undefined ? undefined : (JSON.parse(await readFile(options.from, 'utf8')) as RateFigures);
if (earlier !== undefined && (earlier.base !== base.id || earlier.seed !== options.seed)) throw new Error(`${options.from!} is of ${earlier.base} with the seed ${earlier.seed}`);

const studies = await withServer({ base, data, environment: settings.environment }, async (server): Promise<readonly RateStudy[]> => {
  const before = earlier?.before ?? (await server.quality(server.model));
  const done: RateStudy[] = [];
  for (const length of settings.lengths) {
    const labels = await server.upload(`labels-${length.rows}-${length.epochs}`, labelRows(data.train.slice(0, length.rows)));
    for (const method of methods) {
      const known = earlier?.studies.find((study) => study.method === method.id && study.length.rows === length.rows && study.length.epochs === length.epochs);
      const curve = known?.curve ?? (await curveOf(server, before, method, labels, length));
      done.push({ method: method.id, title: method.title, length, curve, verdict: verdictOf(before, curve) });
      await write(before, done);
    }
  }
  return done;
});
const far = studies.filter(({ verdict }) => !verdict.within);
console.log(`auto is close to the best rate or loss in ${studies.length - far.length} of ${studies.length} cases`);

async function write(before: Quality, done: readonly RateStudy[]): Promise<void> {
  const figures: RateFigures = {
    base: base.id,
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}`,
    rows: { heldOut: data.heldOut.length, source: data.source.length },
    seed: options.seed,
    before,
    studies: done,
  };
  if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(figures, null, 2)}\n`);
  if (options.markdown !== undefined) await writeFile(options.markdown, ratesPage(figures));
}

function methodOf(id: string): Method {
  const method = METHODS.find((one) => one.id === id);
  if (method === undefined) throw new Error(`no method is called ${id}`);
  return method;
}

async function curveOf(server: MethodServer, before: Quality, method: Method, labels: string, { rows, epochs }: TrainingLength): Promise<RateCurve> {
  return climb(before, settings.factors, settings.reach, async (factor, autoRate): Promise<RatePoint> => {
    const asked = Math.min(1, (autoRate ?? 1) * factor);
    const { stages } = method.specification({ layers: server.layers, rates: { whole: asked, lora: asked, small: asked, head: asked }, labels, pairs: labels, words: '' });
    const optimizer = autoRate === undefined ? { optimizer: { autoLearningRate: true } } : {};
    const { job, peakRate } = await server.tune({
      baseModel: server.model,
      adapterId: `${method.id}-${rows}-${epochs}`,
      seed: options.seed,
      stages: stages!.map((stage) => ({ batchSize: BATCH_ROWS, length: { $case: 'epochs' as const, value: epochs }, ...stage, ...optimizer })),
    });
    // The peak of a warm-up is a product of doubles, a digit off what was asked for.
    const rate = autoRate === undefined ? peakRate : asked;
    const version = job.result?.adapterVersion ?? '';
    const quality = version === '' ? undefined : await server.quality(version);
    const scores = quality === undefined ? `diverged: ${job.error?.message ?? ''}` : `loss ${quality.loss.toFixed(3)}  accuracy ${quality.accuracy.toFixed(3)}  source ${quality.sourceLoss.toFixed(3)}`;
    console.log(`${method.id.padEnd(10)} ${rows} x ${epochs}  auto x ${String(factor).padEnd(6)} ${rate.toExponential(2)}  ${scores}`);
    return { factor, rate, steps: job.result?.steps ?? 0, quality };
  });
}
