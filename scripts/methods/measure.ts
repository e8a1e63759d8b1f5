/**
 * One method, measured on a server of its own, so that peak memory is the method's: tune, then score base and result on rows held out and on
 * prose of the source domain.
 */
import { labelRows, preferenceRows, type MethodData } from './data.js';
import type { Method, Rates } from './methods.js';
import { succeeded, withServer, type Quality, type ServerInput } from './server.js';

const PARENT = 'tenants/-';
const BATCH_ROWS = 8;

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

export interface MeasureInput extends ServerInput {
  readonly data: MethodData;
  readonly rates: Rates;
  readonly epochs: number;
}

export async function measure(method: Method, { base, data, rates, epochs, environment }: MeasureInput, before: Quality | undefined): Promise<Measured> {
  return withServer({ base, data, environment }, async ({ client, model, layers, upload, tune, quality }) => {
    const [labels, pairs] = [await upload('labels', labelRows(data.train)), await upload('pairs', preferenceRows(data.train))];
    const words = `${PARENT}/embeddings/words`;
    const asked = method.specification({ layers, rates, labels, pairs, words });
    if (asked.stages!.some(({ embeddings }) => embeddings !== undefined)) {
      await client.embeddings.uploadEmbeddings({ parent: PARENT, embeddingsId: 'words' }, { 'words.txt': data.words });
    }
    const stages = asked.stages!.map((stage) => ({ batchSize: BATCH_ROWS, length: { $case: 'epochs' as const, value: epochs }, ...stage }));
    const job = succeeded(await tune({ ...asked, baseModel: model, adapterId: 'method', seed: 1, stages }));
    const { steps, tokensPerSecond, peakMemoryBytes, adapterVersion } = job.result!;
    const after = await quality(adapterVersion);
    const { parameters } = await client.adapters.getAdapterVersion({ name: adapterVersion });
    const seconds = (job.endTime!.getTime() - job.startTime!.getTime()) / 1000;
    return { id: method.id, title: method.title, parameters, steps, seconds, tokensPerSecond, peakMemoryBytes, before: before ?? (await quality(model)), after };
  });
}
