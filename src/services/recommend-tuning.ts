/**
 * TuneService.RecommendTuning: reads the request, looks up and measures the rows where there are any, and asks for a recommendation. Nothing
 * is created.
 */
import type { Dataset, DatasetStore, Example } from '../datasets/index.js';
import { TASK_KINDS, type TuningTask } from '../tuning/index.js';
import { RecommendedTask, type RecommendTuningRequest, type RecommendTuningResponse } from '../gen/lorica/v1/recommendation.js';
import type { CallContext } from './call.js';
import { Fields } from './fields.js';
import { parseModelName, parseName } from './names.js';
import type { RecommendQuestion, RowMeters, TuningRecommender } from './ports.js';
import { recommendationMessage } from './recommendation-message.js';

export interface RecommendDependencies {
  readonly datasets: DatasetStore;
  readonly recommender: TuningRecommender;
  readonly meters: RowMeters;
}

const TASKS: Partial<Record<RecommendedTask, { readonly task: TuningTask; readonly adapter: string }>> = {
  [RecommendedTask.RECOMMENDED_TASK_CLASSIFICATION]: { task: 'classification', adapter: 'classification' },
  [RecommendedTask.RECOMMENDED_TASK_TRANSLATION]: { task: 'translation', adapter: 'translation' },
  [RecommendedTask.RECOMMENDED_TASK_QUESTION_ANSWERING]: { task: 'questionAnswering', adapter: 'question-answering' },
  [RecommendedTask.RECOMMENDED_TASK_SUMMARIZATION]: { task: 'summarization', adapter: 'summarization' },
  [RecommendedTask.RECOMMENDED_TASK_DOMAIN_ADAPTATION]: { task: 'domainAdaptation', adapter: 'domain-adaptation' },
  [RecommendedTask.RECOMMENDED_TASK_PREFERENCE_ALIGNMENT]: { task: 'preferenceAlignment', adapter: 'preference-alignment' },
};

const SAMPLE_ROWS = 512;
/** Rows that the sample is taken from. */
const MOST_READ = 20_000;
const BATCH_ROWS = 64;
const MOST_ROWS = 1_000_000_000;
const MOST_TOKENS = 1_048_576;
const DEFAULT_MEAN_TOKENS = 128;
/** The longest row to the mean one, where only the mean is given. */
const LONGEST_TO_MEAN = 4;
/** The stages' dataset while there is none; the answer leaves it empty. */
const PLANNED = 'planned';

type Data = RecommendQuestion['data'];

/** What was asked, but for the data. */
interface Asked {
  readonly question: Omit<RecommendQuestion, 'data' | 'dataset'>;
  readonly dataset: string | undefined;
  readonly planned: Data;
  readonly adapterId: string;
}

export async function recommend(request: RecommendTuningRequest, { identity, signal }: CallContext, { datasets, recommender, meters }: RecommendDependencies): Promise<RecommendTuningResponse> {
  const { question, dataset: id, planned, adapterId } = read(request, identity);
  const dataset = id === undefined ? undefined : await datasets.get(identity.tenant, id);
  const data = dataset === undefined ? planned : await measured(dataset, question.baseModel, { datasets, meters, signal });
  const { recommendation, memoryLimitBytes } = await recommender.recommend({ ...question, data, dataset: dataset?.name ?? PLANNED });
  return recommendationMessage(recommendation, { data, memoryLimitBytes, adapterId, dataset: dataset?.name ?? '' });
}

function read(request: RecommendTuningRequest, identity: CallContext['identity']): Asked {
  const fields = new Fields();
  parseName('tenant', 'parent', request.parent, identity, fields);
  const baseModel = parseModelName('base_model', request.baseModel, fields) ?? '';
  const known = TASKS[request.task];
  if (known === undefined) fields.add('task', 'must be one of the tasks of RecommendedTask');
  const dataset = request.dataset === '' ? undefined : parseName('dataset', 'dataset', request.dataset, identity, fields);
  const { rows, meanTokens, memoryLimitBytes, timeLimit } = request;
  fields.integer('rows', rows, 1, MOST_ROWS);
  fields.number('mean_tokens', meanTokens, 1, MOST_TOKENS);
  fields.check('rows', request.dataset === '' || rows === undefined, 'are the dataset\'s: leave them out, or leave out dataset');
  fields.check('rows', request.dataset !== '' || rows !== undefined, 'is required without dataset');
  fields.check('mean_tokens', meanTokens === undefined || rows !== undefined, 'needs rows');
  fields.integer('memory_limit_bytes', memoryLimitBytes, 1, Number.MAX_SAFE_INTEGER);
  const timeLimitSeconds = timeLimit === undefined ? undefined : timeLimit.seconds + timeLimit.nanos / 1e9;
  fields.number('time_limit', timeLimitSeconds, 0, Infinity, { least: true });
  fields.id('adapter_id', request.adapterId, { optional: true });
  fields.done();
  const { task, adapter } = known!;
  const mean = meanTokens ?? DEFAULT_MEAN_TOKENS;
  return {
    question: {
      baseModel,
      task,
      needs: {
        manyAdapters: request.manyAdapters,
        keepGeneralAbilities: request.keepGeneralAbilities,
        domainVocabulary: request.domainVocabulary,
        cheaperInference: request.cheaperInference,
      },
      memoryLimitBytes,
      timeLimitSeconds,
    },
    dataset: dataset?.ids[0],
    planned: { stored: false, rows: rows ?? 1, meanTokens: mean, longestTokens: Math.ceil(LONGEST_TO_MEAN * mean), kind: TASK_KINDS[task][0]!, labels: {} },
    adapterId: request.adapterId === '' ? adapter : request.adapterId,
  };
}

/** What a stored dataset holds; lengths through the model's tokenizer on a sample, off the event loop. */
async function measured(dataset: Dataset, baseModel: string, { datasets, meters, signal }: Pick<RecommendDependencies, 'datasets' | 'meters'> & { readonly signal: AbortSignal }): Promise<Data> {
  const { rows, characters, longestRowCharacters, labels } = dataset.statistics;
  const meter = await meters.open({ baseModel }, signal);
  try {
    const sample = await sampleOf(dataset, datasets);
    const measures = (await Promise.all(batches(sample).map((batch) => meter.measure(batch)))).flat().filter(({ refusal }) => refusal === undefined);
    const meanTokens = Math.max(1, measures.reduce((sum, { tokens }) => sum + tokens, 0) / Math.max(1, measures.length));
    const answers = dataset.kind === 'preference' ? 2 : 1;
    const longestOfSample = measures.reduce((most, { longestTokens }) => Math.max(most, answers * longestTokens), 1);
    const longestByCharacters = Math.ceil((longestRowCharacters * meanTokens * rows) / Math.max(1, characters));
    return { stored: true, rows, meanTokens, longestTokens: Math.max(longestOfSample, longestByCharacters), kind: dataset.kind, labels };
  } finally {
    await meter.close();
  }
}

/** At most 512 rows, evenly from the first 20,000. */
async function sampleOf(dataset: Dataset, datasets: DatasetStore): Promise<Example[]> {
  const every = Math.ceil(Math.min(dataset.statistics.rows, MOST_READ) / SAMPLE_ROWS);
  const sample: Example[] = [];
  let index = 0;
  for await (const example of datasets.examples(dataset)) {
    if (index >= MOST_READ) break;
    if (index++ % every === 0) sample.push(example);
  }
  return sample;
}

function batches(rows: readonly Example[]): Example[][] {
  return Array.from({ length: Math.ceil(rows.length / BATCH_ROWS) }, (_, i) => rows.slice(i * BATCH_ROWS, (i + 1) * BATCH_ROWS));
}
