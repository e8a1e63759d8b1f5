/** Training through the job runner of a server, as a client meets it: data whose rows fill a batch exactly, and the rates of a job's steps. */
import { DatasetFormat, JobState, type DeepPartial, type LoricaClient, type TuningSpecification, type TuningStage } from '../src/client/index.js';
import { readReviews } from '../src/cli/quickstart/reviews.js';

export interface StepRate {
  readonly tokens: number;
  readonly lossTokens: number;
  readonly seconds: number;
  readonly loss: number;
}

export interface TrainingJob {
  readonly dataset: string;
  readonly baseModel: string;
  readonly rows: number;
  /** Tokens fed from every row. */
  readonly length: number;
  readonly steps: number;
  readonly stage: DeepPartial<TuningStage>;
  readonly options?: DeepPartial<TuningSpecification>;
}

/** A text row is longer than this many characters a token, whatever it says. */
const CHARACTERS_PER_TOKEN = 8;

/**
 * Rows of plain text, each longer than `length` tokens; a job cuts them so that exactly `length` are fed. With `completionShare` a row is a
 * prompt and a completion of about that share of the tokens. Their number is a multiple of `batch`.
 */
export async function longRows(length: number, batch: number, completionShare?: number): Promise<Uint8Array> {
  const rows: string[] = [];
  let text = '';
  for (const review of await readReviews()) {
    text += `${review.text} `;
    if (text.length < length * CHARACTERS_PER_TOKEN) continue;
    rows.push(JSON.stringify(completionShare === undefined ? { text: text.trim() } : asCompletion(text.trim(), length * completionShare)));
    text = '';
  }
  if (rows.length < batch) throw new Error(`the reviews give ${rows.length} rows of ${length} tokens, not ${batch}`);
  return Buffer.from(rows.slice(0, rows.length - (rows.length % batch)).join('\n') + '\n');
}

/** English text has about four characters a token. */
function asCompletion(text: string, tokens: number): { prompt: string; completion: string } {
  const cut = text.indexOf(' ', text.length - Math.round(4 * tokens));
  return { prompt: text.slice(0, cut), completion: text.slice(cut) };
}

export async function uploadRows(client: LoricaClient, datasetId: string, rows: Uint8Array): Promise<string> {
  const { name } = await client.datasets.uploadDataset({ parent: 'tenants/-', datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL }, rows);
  return name;
}

/** Runs a job and yields every step as it ends; `seconds` of the first holds the start of the job as well. Throws when the job fails. */
export async function* trainingSteps(client: LoricaClient, job: TrainingJob): AsyncGenerator<StepRate> {
  const specification = {
    baseModel: job.baseModel,
    adapterId: 'bench',
    ...job.options,
    stages: [
      {
        trainable: { selection: { $case: 'lora' as const, value: { rank: 16 } } },
        length: { $case: 'steps' as const, value: job.steps },
        batchSize: job.rows,
        ...job.stage,
        dataset: job.dataset,
        // A row of n + 1 tokens feeds n and predicts the n after each.
        maxLengthTokens: job.length + 1,
      },
    ],
  };
  let last = performance.now();
  for await (const { event } of client.tune.tune({ parent: 'tenants/-', specification })) {
    if (event?.$case === 'step') {
      const now = performance.now();
      const { tokens, lossTokens, loss } = event.value;
      yield { tokens, lossTokens, loss, seconds: (now - last) / 1000 };
      last = performance.now();
    } else if (event?.$case === 'result') {
      if (event.value.state === JobState.JOB_STATE_SUCCEEDED) return;
      throw new Error(`the tuning job ended as ${event.value.state}: ${event.value.error?.message ?? ''}`);
    }
  }
  throw new Error('the tuning job gave no result');
}
