/** What to look after beside a recommendation: pure functions of what was asked and of what fits. None changes the specification. */
import type { Fitted } from './recommend-fit.js';
import type { RecommendInput } from './recommend-types.js';

export interface Warning {
  readonly id: string;
  readonly when: (input: RecommendInput, best: Fitted) => string | undefined;
}

const FEW_ROWS = 500;
const MOST_OF_ONE_LABEL = 0.8;
/** Of the memory limit. */
const CLOSE = 0.9;

export const WARNINGS: readonly Warning[] = [
  {
    id: 'no-dataset',
    when: ({ data }) => (data.stored ? undefined : 'No dataset was given: upload one and set `dataset` in every stage, or ask again with it; lengths and labels are then looked up.'),
  },
  {
    id: 'little-data',
    when: ({ data }) =>
      data.rows < FEW_ROWS
        ? `Only ${data.rows} rows: hold some out, move the alias only through an evaluation gate, and run the same job once with shuffled labels or answers; what that improves is not learnt from them (Hewitt and Liang 2019).`
        : undefined,
  },
  {
    id: 'unbalanced-labels',
    when: ({ data }) => {
      const counts = Object.entries(data.labels).sort((a, b) => b[1] - a[1]);
      const all = counts.reduce((sum, [, rows]) => sum + rows, 0);
      const [label, rows] = counts[0] ?? ['', 0];
      return counts.length >= 2 && rows / all > MOST_OF_ONE_LABEL
        ? `${Math.round((100 * rows) / all)} % of the rows have the label ${JSON.stringify(label)}: judge by macro F1 and against the majority class, and add rows of the others.`
        : undefined;
    },
  },
  {
    id: 'long-rows',
    when: ({ data }, { draft }) => {
      const longest = data.kind === 'preference' ? Math.ceil(data.longestTokens / 2) : data.longestTokens;
      return longest > draft.maxLengthTokens
        ? `The longest row has ${longest} tokens and ${draft.maxLengthTokens} are kept: longer rows lose the beginning of their prompt. ValidateDataset counts them; split them, or choose a base with a longer context.`
        : undefined;
    },
  },
  {
    id: 'time-too-short',
    when: ({ timeLimitSeconds }, { cost }) =>
      timeLimitSeconds !== undefined && cost.seconds > timeLimitSeconds ? `One step is expected to take ${Math.ceil(cost.seconds)} s, longer than the time limit.` : undefined,
  },
  {
    id: 'part-of-the-rows',
    when: (_input, { draft }) =>
      draft.steps === undefined ? undefined : `The time allows ${draft.steps} steps, less than one epoch: a smaller base model or more time would see every row.`,
  },
  {
    id: 'memory-close',
    when: ({ memoryLimitBytes }, { cost }) =>
      cost.memoryBytes > CLOSE * memoryLimitBytes ? 'The expected memory is close to the limit: keep other jobs off the server meanwhile.' : undefined,
  },
  {
    id: 'adapters-without-vocabulary',
    when: ({ needs }) =>
      needs.domainVocabulary && needs.manyAdapters
        ? 'Embeddings are no part of LoRA adapters: tune them once for the domain, with word vectors if you have some, export the variant, import it as a base, and put the adapters on that.'
        : undefined,
  },
  {
    id: 'preferences-without-vocabulary',
    when: ({ needs, data }) =>
      needs.domainVocabulary && !needs.manyAdapters && data.kind === 'preference' ? 'Preference pairs teach few words: adapt to the domain\'s text first, and align that model.' : undefined,
  },
  {
    id: 'adapters-on-a-whole-base',
    when: ({ needs }) => (needs.cheaperInference && needs.manyAdapters ? 'Adapters of one base can not each remove layers: tune a smaller variant once, import it as a base, and put the adapters on that.' : undefined),
  },
  {
    id: 'too-few-layers',
    when: ({ needs, config }) => (needs.cheaperInference && !needs.manyAdapters && config.layers < 4 ? `The model has ${config.layers} layers: none can be spared.` : undefined),
  },
];
