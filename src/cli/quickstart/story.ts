/**
 * The story of the quickstart, phase after phase, each timed: which base, the server, the data, a first version, the real one, the
 * evaluation, the swap, before and after, the tenant's metrics. What a phase does lies beside this file; here is their order.
 */
import { connect } from '../../client/index.js';
import { bar, type Screen } from './display.js';
import { chooseBase } from './model.js';
import { evaluate, tune, uploadReviews } from './phases.js';
import { figures, MODEL_PHASE, type Figures } from './report.js';
import { readReviews, shuffleLabels, splitReviews } from './reviews.js';
import { startServerProcess } from './server-process.js';
import { pinned, type Session } from './session.js';
import { DRAFT_ROWS, EMBEDDED_SETTINGS, PRETRAINED_SETTINGS, TRAIN_ROWS } from './settings.js';
import { tellBeforeAndAfter, tellMetrics } from './showing.js';
import { setAlias, swapUnderTraffic } from './swap.js';

const TENANT = 'shop';
const READY_LIMIT_MS = 30_000;

export interface StoryOptions {
  readonly model?: string;
  readonly device: string;
  readonly seed: number;
  readonly shuffleLabels: boolean;
  readonly dataDir: string;
  readonly screen: Screen;
  readonly signal: AbortSignal;
}

/** Runs everything and returns the figures; the server is stopped whatever happens. */
export async function runStory(options: StoryOptions): Promise<Figures> {
  const { screen, signal, seed } = options;
  const secondsPerPhase: Record<string, number> = {};
  const phase = async <T>(name: string, title: string, work: () => Promise<T>): Promise<T> => {
    signal.throwIfAborted();
    screen.heading(title);
    const from = performance.now();
    try {
      return await work();
    } finally {
      secondsPerPhase[name] = (performance.now() - from) / 1000;
    }
  };

  const base = await phase(MODEL_PHASE, 'The base model', async () => {
    const chosen = await chooseBase(options.model, {
      signal,
      onProgress: ({ source, phase: step, bytes, totalBytes }) => screen.progress(bytes / totalBytes, `${bar(bytes, totalBytes)} ${source}, ${step}: ${(bytes / 1e6).toFixed(1)} of ${(totalBytes / 1e6).toFixed(1)} MB`),
    });
    screen.line(`${chosen.id}: ${chosen.why}`);
    return chosen;
  });
  const settings = base.embedded ? EMBEDDED_SETTINGS : PRETRAINED_SETTINGS;
  const server = await phase('server', 'The server', async () => {
    const started = await startServerProcess({ dataDir: options.dataDir, models: base.embedded ? new Map() : new Map([[base.id, base.path]]), device: options.device });
    screen.line(`gRPC on ${started.address}, metrics on http://${started.metricsAddress}/metrics`);
    return started;
  });
  const client = connect({ address: server.address, tenant: TENANT });
  try {
    await client.ready(READY_LIMIT_MS);
    const session: Session = { client, metricsAddress: server.metricsAddress, tenant: TENANT, screen, base, settings, seed, signal };
    const data = await phase('data', 'The data: review sentences of Amazon and Yelp', async () => {
      const split = splitReviews(await readReviews(), TRAIN_ROWS, seed);
      const train = options.shuffleLabels ? shuffleLabels(split.train, seed) : split.train;
      if (options.shuffleLabels) screen.line('negative control: the training labels are shuffled');
      return {
        draft: await uploadReviews(session, 'reviews-draft', train.slice(0, DRAFT_ROWS)),
        train: await uploadReviews(session, 'reviews-train', train),
        heldOut: await uploadReviews(session, 'reviews-held-out', split.heldOut),
        example: split.heldOut,
      };
    });
    const draft = await phase('draft', `A first version: ${DRAFT_ROWS} rows, one pass`, async () => {
      const made = await tune(session, data.draft, { epochs: 1 });
      await setAlias(session, made.version);
      return made;
    });
    const tuned = await phase('tune', `Tuning: ${TRAIN_ROWS} rows, ${settings.epochs} passes, LoRA of rank ${settings.rank} at ${settings.learningRate}`, () =>
      tune(session, data.train, { epochs: settings.epochs }),
    );
    const evaluation = await phase('evaluate', 'Evaluation on the rows held out: base and adapter', () => evaluate(session, data.heldOut, [`models/${base.id}`, pinned(tuned.version)]));
    const swap = await phase('swap', 'The swap under traffic', async () => {
      const report = await swapUnderTraffic(session, draft.version, tuned.version);
      screen.line(`the alias moved in ${report.moveMs.toFixed(1)} ms, after ${report.tokensBeforeMove} tokens of a stream; the stream gave ${report.tokensAfterMove} more on`);
      screen.line(`the version it began with (${report.sameText ? 'to the letter' : 'not to the letter'} what that version says alone); the next request got the new one`);
      return report;
    });
    await phase('before and after', 'Before and after', () => tellBeforeAndAfter(session, data.example));
    await phase('metrics', `Metrics of the tenant ${TENANT}`, () => tellMetrics(session));
    return figures({
      base, evaluation, swap, secondsPerPhase, seed,
      device: options.device,
      labelsShuffled: options.shuffleLabels,
      trainRows: TRAIN_ROWS,
      tuning: tuned.result,
      serverPeakMemoryBytes: await server.peakMemoryBytes(),
    });
  } finally {
    client.close();
    await server.stop();
  }
}
