/**
 * A base on a server of its own, tuned and scored through the public API alone, so that every figure comes from a reply of the server. Invariant:
 * the server and its folder are gone when `withServer` returns or throws.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  connect, DatasetFormat, JobState, LossScope, type DeepPartial, type EvaluationSpecification, type LoricaClient, type TargetResult, type TuningJob, type TuningSpecification,
} from '../../src/client/index.js';
import type { ChosenBase } from '../../src/cli/quickstart/model.js';
import { startServerProcess } from '../../src/cli/quickstart/server-process.js';
import { labelRows, textRows, type MethodData } from './data.js';

const PARENT = 'tenants/-';

export interface Quality {
  /** Nats per token of the right label, after the text. */
  readonly loss: number;
  /** Share of rows whose likeliest label is the right one. */
  readonly accuracy: number;
  /** Nats per token of prose that nothing was trained on. */
  readonly sourceLoss: number;
}

export interface ServerInput {
  readonly base: ChosenBase;
  readonly data: Pick<MethodData, 'heldOut' | 'source'>;
  /** More of the server's environment. */
  readonly environment: Readonly<Record<string, string>>;
}

export interface MethodServer {
  readonly client: LoricaClient;
  /** Name of the base, and its decoder layers. */
  readonly model: string;
  readonly layers: number;
  /** Uploads JSONL rows; returns the dataset's name. */
  readonly upload: (datasetId: string, rows: Uint8Array) => Promise<string>;
  /** Runs a job to its end, whatever that is. */
  readonly tune: (specification: DeepPartial<TuningSpecification>) => Promise<Tuned>;
  /** Scores a model or an adapter version on the rows held out and on the prose. */
  readonly quality: (target: string) => Promise<Quality>;
}

export interface Tuned {
  readonly job: TuningJob;
  /** Highest learning rate of a step. */
  readonly peakRate: number;
}

/** Scores all labels of `data.heldOut` and the prose of `data.source`; both are uploaded first. */
export async function withServer<T>({ base, data, environment }: ServerInput, use: (server: MethodServer) => Promise<T>): Promise<T> {
  const dataDir = await mkdtemp(join(tmpdir(), 'lorica-methods-'));
  const server = await startServerProcess({ dataDir, models: base.embedded ? new Map() : new Map([[base.id, base.path]]), device: 'cpu', environment });
  const client = connect({ address: server.address, tenant: 'methods' });
  try {
    const model = `models/${base.id}`;
    const upload = async (datasetId: string, bytes: Uint8Array): Promise<string> =>
      (await client.datasets.uploadDataset({ parent: PARENT, datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL }, bytes)).name;
    const heldOut = await upload('held-out', labelRows(data.heldOut));
    const source = await upload('source', textRows(data.source));
    const { layers } = await client.models.getModel({ name: model });
    const quality = async (target: string): Promise<Quality> => ({
      loss: Math.log((await evaluated(client, { dataset: heldOut, targets: [target], task: { $case: 'perplexity', value: {} } })).perplexity!),
      accuracy: (await evaluated(client, { dataset: heldOut, targets: [target], task: { $case: 'classification', value: {} } })).accuracy!,
      sourceLoss: Math.log(
        (await evaluated(client, { dataset: source, targets: [target], task: { $case: 'perplexity', value: { lossScope: LossScope.LOSS_SCOPE_ALL } } })).perplexity!,
      ),
    });
    return await use({ client, model, layers, upload, tune: (specification) => tuned(client, specification), quality });
  } finally {
    client.close();
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
  }
}

/** The job, which must have succeeded. */
export function succeeded({ job }: Tuned): TuningJob {
  if (job.state !== JobState.JOB_STATE_SUCCEEDED) throw new Error(`the job ended as ${job.state}: ${job.error?.message ?? ''}`);
  return job;
}

async function tuned(client: LoricaClient, specification: DeepPartial<TuningSpecification>): Promise<Tuned> {
  let peakRate = 0;
  for await (const { event } of client.tune.tune({ parent: PARENT, specification })) {
    if (event?.$case === 'step') peakRate = Math.max(peakRate, event.value.learningRate);
    if (event?.$case === 'result') return { job: event.value, peakRate };
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
