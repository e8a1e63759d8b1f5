/**
 * A job that edits its model, or replaces its embeddings, and is interrupted again and again ends with what an uninterrupted one ends with, byte
 * for byte: through the runner, the store of checkpoints and two starts of the server, not through the trainer alone.
 */
import { createHash } from 'node:crypto';
import { link, mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readReviews } from '../../src/cli/quickstart/reviews.js';
import {
  Component, DatasetFormat, JobState, LayerInitialization, NeuronImportance,
  type DeepPartial, type LoricaClient, type TuningJob, type TuningJobEvent, type TuningStage,
} from '../../src/client/index.js';
import { openCheckpointFile } from '../../src/main/checkpoint-file.js';
import { jsonl, startHarness, type Harness } from './harness.js';

type Stage = DeepPartial<TuningStage>;

let harness: Harness;
let client: LoricaClient;
/** Copies of checkpoints, which a job's end would take away. */
let copies: string;

beforeAll(async () => {
  // Without a time of grace a stop interrupts what runs.
  harness = await startHarness({ models: `tiny=${resolve('models/tiny')}`, maxContext: '128', grace: '0' });
  client = harness.client({ tenant: 'acme' });
  copies = join(harness.folder, 'copies');
  await mkdir(copies);
  const texts = (await readReviews()).slice(0, 48).map(({ text }) => ({ text }));
  await client.datasets.uploadDataset({ parent: 'tenants/-', datasetId: 'reviews', format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(texts));
  const words = [...new Set(texts.flatMap(({ text }) => text.toLowerCase().match(/[a-z]+/g) ?? []))];
  const glove = words.map((word, i) => `${word} ${Array.from({ length: 12 }, (_, j) => Math.sin(1 + i * 12 + j)).join(' ')}\n`).join('');
  await client.embeddings.uploadEmbeddings({ parent: 'tenants/-', embeddingsId: 'glove' }, { 'vectors.txt': Buffer.from(glove) });
});
afterAll(() => harness.close());

const STEPS = 6;
const stage = (more: Stage): Stage => ({
  dataset: 'tenants/-/datasets/reviews', optimizer: { learningRate: 0.003 }, length: { $case: 'steps', value: STEPS }, batchSize: 4, accumulationSteps: 2, maxLengthTokens: 48, ...more,
});
const full: Stage['trainable'] = { selection: { $case: 'full', value: {} } };

/** `stops`: after which of the job's events it is stopped, and how: a pause, which is taken back, or a server that starts again. */
interface Case {
  readonly stages: readonly Stage[];
  readonly stops: readonly { readonly after: 'embeddings' | readonly [stage: number, step: number]; readonly by: 'pause' | 'pause and start' | 'start' }[];
}

const CASES: Readonly<Record<string, Case>> = {
  'an edited architecture': {
    stages: [
      stage({
        trainable: full,
        architecture: {
          removeLeastImportant: 1,
          insert: [{ at: 1, initialize: LayerInitialization.LAYER_INITIALIZATION_COPY }, { at: 4, initialize: LayerInitialization.LAYER_INITIALIZATION_FRESH }],
          growFeedForward: [{ neurons: 32, layers: [0] }],
          pruneFeedForward: [{ neurons: 64, layers: [1, 2, 3], importance: NeuronImportance.NEURON_IMPORTANCE_ACTIVATION }],
          dropout: { attention: 0.1, residual: 0.1, embedding: 0.05 },
        },
      }),
      stage({ trainable: { selection: { $case: 'lora', value: { rank: 4, dropout: 0.2 } } } }),
    ],
    stops: [{ after: [0, 2], by: 'pause and start' }, { after: [1, 1], by: 'start' }],
  },
  'pretrained embeddings': {
    stages: [
      stage({ trainable: { selection: { $case: 'components', value: { components: [Component.COMPONENT_EMBEDDINGS] } } }, embeddings: { source: 'tenants/-/embeddings/glove' } }),
      stage({ trainable: { selection: { $case: 'lastLayers', value: { layers: 2, includeHead: true } } }, adafactor: {}, optimizer: undefined }),
    ],
    stops: [{ after: 'embeddings', by: 'pause' }, { after: [0, 3], by: 'start' }, { after: [1, 2], by: 'pause' }],
  },
};

const isAt = ({ event }: TuningJobEvent, after: Case['stops'][number]['after']): boolean =>
  after === 'embeddings' ? event?.$case === 'embeddings' : event?.$case === 'step' && event.value.stage === after[0] && event.value.step === after[1];

/** A job as its client sees it: every event once, and copies of its checkpoints by the stage and the step that they stand at. */
class Followed {
  readonly events: TuningJobEvent[] = [];
  readonly checkpoints = new Map<string, { readonly path: string; readonly sha256: string }>();
  ended: TuningJob | undefined;

  constructor(readonly name: string) {}

  /** Goes on to read events, until one that is wanted or the last. */
  async until(wanted: (event: TuningJobEvent) => boolean): Promise<void> {
    for await (const message of client.tune.watchTuningJob({ name: this.name, afterSequence: this.events.at(-1)?.sequence ?? 0 })) {
      const { event, sequence } = message;
      if (event?.$case === 'result') this.ended = event.value;
      else if (event?.$case !== 'heartbeat' && sequence > (this.events.at(-1)?.sequence ?? 0)) this.events.push(message);
      if (event?.$case === 'checkpoint') await this.copy();
      if (wanted(message)) return;
    }
  }

  /** The checkpoints that there are now. Those of a job that has ended meanwhile are gone. */
  async copy(): Promise<void> {
    for (const { stage: index, step, sha256 } of await this.listed()) {
      const position = `${index}/${step}`;
      if (this.checkpoints.has(position)) continue;
      const path = join(copies, sha256);
      const copied = await link(join(harness.folder, 'blobs', sha256.slice(0, 2), sha256.slice(2)), path).then(() => true, () => false);
      if (copied) this.checkpoints.set(position, { path, sha256 });
    }
  }

  async listed() {
    return (await client.tune.listCheckpoints({ parent: this.name, pageSize: 1000 })).checkpoints;
  }

  /** Every number of every step but the measured times. */
  steps(): readonly object[] {
    return this.events.flatMap(({ event }) => {
      if (event?.$case !== 'step') return [];
      const { tokensPerSecond: _rate, remainingSeconds: _left, ...numbers } = event.value;
      return [numbers];
    });
  }
}

async function create(tuningJobId: string, stages: readonly Stage[]): Promise<Followed> {
  const specification = { baseModel: 'models/tiny', adapterId: tuningJobId, seed: 11, checkpoints: { everySteps: 1, keep: 100 }, stages: [...stages] };
  return new Followed((await client.tune.createTuningJob({ parent: 'tenants/-', tuningJobId, specification })).name);
}

async function startAgain(): Promise<void> {
  await harness.restart();
  client = harness.client({ tenant: 'acme' });
}

/** Stops the job as it runs, and lets it go on. */
async function interrupt(job: Followed, { after, by }: Case['stops'][number]): Promise<void> {
  await job.until((event) => isAt(event, after));
  if (by !== 'start') {
    await client.tune.pauseTuningJob({ name: job.name });
    await job.until(({ event }) => event?.$case === 'job' && event.value.state === JobState.JOB_STATE_PAUSED);
    await job.copy();
  }
  if (by !== 'pause') await startAgain();
  if (by !== 'start') await client.tune.resumeTuningJob({ name: job.name });
}

/** A checkpoint's state but for what was measured of the machine, and the SHA-256 of each of its tensors. */
async function contents({ path }: { readonly path: string }): Promise<unknown> {
  const { state, shapes, read } = await openCheckpointFile('a copy', path);
  const tensors: Record<string, string> = {};
  for (const [name, shape] of shapes) {
    const { buffer, byteOffset, byteLength } = await read(name);
    tensors[name] = `${shape.join('x')} ${createHash('sha256').update(new Uint8Array(buffer, byteOffset, byteLength)).digest('hex')}`;
  }
  return JSON.parse(JSON.stringify({ state, tensors }, (key, value: unknown) => (key === 'elapsedMs' || key === 'peakMemoryBytes' ? undefined : value)));
}

const positions = (job: Followed): string[] => job.events.flatMap(({ event }) => (event?.$case === 'checkpoint' ? [`${event.value.stage}/${event.value.step}`] : []));

describe.each(Object.entries(CASES))('%s, in two stages', (label, { stages, stops }) => {
  test('stopped in both of them, it has the steps, checkpoints and digest of a job that nothing happened to', async () => {
    const id = label.replaceAll(' ', '-');
    const whole = await create(`${id}-whole`, stages);
    await whole.until(() => false);
    expect(whole.ended).toMatchObject({ state: JobState.JOB_STATE_SUCCEEDED, attempt: 1, result: { steps: 2 * STEPS } });

    const cut = await create(`${id}-cut`, stages);
    for (const stop of stops) await interrupt(cut, stop);
    await cut.until(() => false);
    expect(cut.ended).toMatchObject({ state: JobState.JOB_STATE_SUCCEEDED, attempt: stops.length + 1 });

    expect(cut.steps()).toEqual(whole.steps());
    const { adapterVersion, finalLoss, tokens, embeddings } = whole.ended!.result!;
    expect({ ...cut.ended!.result, adapterVersion: cut.ended!.result!.adapterVersion.split('/').at(-1) }).toMatchObject({
      adapterVersion: adapterVersion.split('/').at(-1), finalLoss, tokens, ...(embeddings === undefined ? {} : { embeddings }),
    });
    for (const job of [whole, cut]) {
      expect(job.events.flatMap(({ event }) => (event?.$case === 'embeddings' ? [event.value] : []))).toEqual(embeddings === undefined ? [] : [embeddings]);
    }

    // None is kept twice: each time the job went on from its newest.
    expect(new Set(positions(cut)).size).toBe(positions(cut).length);
    const common = [...whole.checkpoints.keys()].filter((position) => cut.checkpoints.has(position));
    expect(common).toEqual(expect.arrayContaining(['0/1', '0/2', '0/3', '0/4', '0/5', '1/1', '1/2', '1/3', '1/4']));
    for (const position of common) expect([position, await contents(cut.checkpoints.get(position)!)]).toEqual([position, await contents(whole.checkpoints.get(position)!)]);
  });
});
