/**
 * One method, measured through the public API on a server of its own, so that peak memory is the method's: tune, then score base and result on
 * rows held out and on prose of the source domain. Every figure comes from a reply of the server.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, DatasetFormat, JobState, LossScope, type DeepPartial, type EvaluationSpecification, type LoricaClient, type TargetResult, type TuningJob } from '../../src/client/index.js';
import type { ChosenBase } from '../../src/cli/quickstart/model.js';
import { startServerProcess } from '../../src/cli/quickstart/server-process.js';
import { labelRows, preferenceRows, textRows, type MethodData } from './data.js';
import type { Method, Rates } from './methods.js';

const PARENT = 'tenants/-';
const BATCH_ROWS = 8;

export interface Quality {
  /** Nats per token of the right label, after the text. */
  readonly loss: number;
  /** Share of rows whose likeliest label is the right one. */
  readonly accuracy: number;
  /** Nats per token of prose that nothing was trained on. */
  readonly sourceLoss: number;
}

export interface Measured {
  readonly id: string;
  readonly title: string;
  readonly parameters: number;
  readonly steps: number;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  readonly peakMemoryBytes: number;
  readonly before: Quality;
  readonly after: Quality;
}

export interface MeasureInput {
  readonly base: ChosenBase;
  readonly data: MethodData;
  readonly rates: Rates;
  readonly epochs: number;
  /** More of the server's environment. */
  readonly environment: Readonly<Record<string, string>>;
}

export async function measure(method: Method, { base, data, rates, epochs, environment }: MeasureInput, before: Quality | undefined): Promise<Measured> {
  const dataDir = await mkdtemp(join(tmpdir(), 'lorica-methods-'));
  const server = await startServerProcess({ dataDir, models: base.embedded ? new Map() : new Map([[base.id, base.path]]), device: 'cpu', environment });
  const client = connect({ address: server.address, tenant: 'methods' });
  try {
    const model = `models/${base.id}`;
    const upload = async (datasetId: string, bytes: Uint8Array): Promise<string> =>
      (await client.datasets.uploadDataset({ parent: PARENT, datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL }, bytes)).name;
    const [labels, pairs] = [await upload('labels', labelRows(data.train)), await upload('pairs', preferenceRows(data.train))];
    const heldOut = await upload('held-out', labelRows(data.heldOut));
    const source = await upload('source', textRows(data.source));
    const { layers } = await client.models.getModel({ name: model });
    const words = `${PARENT}/embeddings/words`;
    const asked = method.specification({ layers, rates, labels, pairs, words });
    if (asked.stages!.some(({ embeddings }) => embeddings !== undefined)) {
      await client.embeddings.uploadEmbeddings({ parent: PARENT, embeddingsId: 'words' }, { 'words.txt': data.words });
    }
    const stages = asked.stages!.map((stage) => ({ batchSize: BATCH_ROWS, length: { $case: 'epochs' as const, value: epochs }, ...stage }));
    const job = await tuned(client, { ...asked, baseModel: model, adapterId: 'method', seed: 1, stages });
    const { result } = job;
    const version = result!.adapterVersion;
    const quality = async (target: string): Promise<Quality> => ({
      loss: Math.log((await evaluated(client, { dataset: heldOut, targets: [target], task: { $case: 'perplexity', value: {} } })).perplexity!),
      accuracy: (await evaluated(client, { dataset: heldOut, targets: [target], task: { $case: 'classification', value: {} } })).accuracy!,
      sourceLoss: Math.log(
        (await evaluated(client, { dataset: source, targets: [target], task: { $case: 'perplexity', value: { lossScope: LossScope.LOSS_SCOPE_ALL } } })).perplexity!,
      ),
    });
    const after = await quality(version);
    const { parameters } = await client.adapters.getAdapterVersion({ name: version });
    const { steps, tokensPerSecond, peakMemoryBytes } = result!;
    const seconds = (job.endTime!.getTime() - job.startTime!.getTime()) / 1000;
    return { id: method.id, title: method.title, parameters, steps, seconds, tokensPerSecond, peakMemoryBytes, before: before ?? (await quality(model)), after };
  } finally {
    client.close();
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
  }
}

type Specification = Parameters<LoricaClient['tune']['tune']>[0]['specification'];

async function tuned(client: LoricaClient, specification: Specification): Promise<TuningJob> {
  for await (const { event } of client.tune.tune({ parent: PARENT, specification })) {
    if (event?.$case !== 'result') continue;
    if (event.value.state === JobState.JOB_STATE_SUCCEEDED) return event.value;
    throw new Error(`the job ended as ${event.value.state}: ${event.value.error?.message ?? ''}`);
  }
  throw new Error('the stream ended without a result');
}

async function evaluated(client: LoricaClient, specification: DeepPartial<EvaluationSpecification>): Promise<TargetResult> {
  for await (const { event } of client.evaluate.evaluate({ parent: PARENT, specification: { ...specification, resamples: 2000 } })) {
    if (event?.$case !== 'result') continue;
    if (event.value.state === JobState.JOB_STATE_SUCCEEDED) return event.value.result!.targets[0]!;
    throw new Error(`the evaluation ended as ${event.value.state}: ${event.value.error?.message ?? ''}`);
  }
  throw new Error('the stream ended without a result');
}
