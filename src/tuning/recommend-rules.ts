/**
 * The rules that choose a method and its settings, in the order in which they apply; docs/tuning.md has the same table. A rule is a pure function of
 * what was asked and of the draft so far. Invariant: each names the measurement or paper that it rests on. What fits memory and time is
 * recommend-fit.ts's.
 */
import { type Draft, type RecommendInput } from './recommend-types.js';

export interface Rule {
  readonly id: string;
  /** What it does and why. */
  readonly text: string;
  readonly evidence: string;
  /** The input that triggers it; undefined where it does not apply. */
  readonly when: (input: RecommendInput, draft: Draft) => string | undefined;
  readonly then: (draft: Draft, input: RecommendInput) => Draft;
}

const FEW_ROWS = 200;
const FEW_LABELS = 16;
/** Tokens from which continued pretraining has more to learn than matrices of low rank hold. */
const TOKENS_FOR_FULL = 10e6;
/** Examples that a job should see at least, over all epochs. */
const EXAMPLES_SEEN = 1600;
/** Bits that a trained value of LoRA holds, and bits that a token of a data set tells. */
const [BITS_PER_VALUE, BITS_PER_TOKEN] = [2, 1];
const [LEAST_RANK, MOST_RANK] = [16, 128];

const count = (n: number, what: string): string => `${n.toLocaleString('en-US', { maximumFractionDigits: 0 })} ${what}`;
const tokensOf = ({ data }: RecommendInput): number => data.rows * data.meanTokens;
const labelsOf = ({ data }: RecommendInput): number => Object.keys(data.labels).length;
/** The result has to be small matrices beside an unchanged base. */
const smallChange = ({ needs }: RecommendInput): boolean => needs.manyAdapters;

/** Values of LoRA over all linear layers per rank. */
function valuesPerRank({ config }: RecommendInput): number {
  const { hiddenSize: c, heads, kvHeads, headDim, intermediateSize: f, layers } = config;
  return layers * (2 * (c + heads * headDim) + 2 * (c + kvHeads * headDim) + 3 * (c + f));
}

export function firstDraft({ config, data }: RecommendInput): Draft {
  return {
    objective: 'languageModel', loss: 'completion', method: 'lora', headFirst: false, embeddingsFirst: false, rank: LEAST_RANK, dropout: 0, topLayers: undefined,
    removedLayers: 0, epochs: 1, steps: undefined, batchSize: 8, accumulationSteps: 1, maxLengthTokens: Math.min(1024, config.maxPositionTokens),
    savedActivations: 'linear', packing: false, adafactor: false, baseWeights: 'float32', int8Products: false, rateFactor: data.kind === 'preference' ? 0.1 : 1,
  };
}

export const RULES: readonly Rule[] = [
  {
    id: 'label-text',
    text: 'The label is learnt as text after the row, so that the model keeps generating and what it knows of the label\'s words helps.',
    evidence: 'README, "Results": 800 reviews take SmolLM2-135M from 0.874 to 0.939 and the embedded base from 0.499 to 0.712',
    when: (input) => (input.task === 'classification' && (input.data.kind !== 'label' || labelsOf(input) <= FEW_LABELS) ? `classification, rows of the kind ${input.data.kind}` : undefined),
    then: (draft) => draft,
  },
  {
    id: 'classification-head',
    text: 'A classification head scores all labels in one pass; it is trained alone first and then with LoRA, which spares the features that it reads.',
    evidence: 'docs/tuning.md, "Classification": one pass whatever the number of labels; Kumar et al. 2022 (linear probing, then tuning)',
    when: (input) => (input.task === 'classification' && input.data.kind === 'label' && labelsOf(input) > FEW_LABELS && labelsOf(input) <= 1000 ? `${labelsOf(input)} labels` : undefined),
    then: (draft) => ({ ...draft, objective: 'classification', headFirst: true }),
  },
  {
    id: 'loss-on-answers',
    text: 'Only the answer\'s tokens count in the loss: prompts are given at use, and the head is computed for fewer tokens.',
    evidence: 'Dettmers et al. 2023 (QLoRA), appendix B: training on the target alone is better than on source and target',
    when: ({ task, data }) => (task !== 'domainAdaptation' && data.kind !== 'preference' ? `the task has answers (rows of the kind ${data.kind})` : undefined),
    then: (draft) => ({ ...draft, loss: 'completion' }),
  },
  {
    id: 'loss-on-all-tokens',
    text: 'Every token counts: the language of the domain itself is learnt.',
    evidence: 'Gururangan et al. 2020 (continued pretraining on a domain)',
    when: ({ task }) => (task === 'domainAdaptation' ? 'domain adaptation' : undefined),
    then: (draft) => ({ ...draft, loss: 'all' }),
  },
  {
    id: 'preferences',
    text: 'Direct preference optimization with beta 0.1, at a tenth of the usual rate, for one to three epochs: the model is to stay near where it began.',
    evidence: 'Rafailov et al. 2023; Tunstall et al. 2023 (Zephyr: rates well below those of supervised tuning)',
    when: ({ data }) => (data.kind === 'preference' ? 'rows of the kind preference' : undefined),
    then: (draft) => ({ ...draft, objective: 'preference', rateFactor: 0.1 }),
  },
  {
    id: 'full-for-much-text',
    text: 'Every parameter is trained: with this much text there is more to learn than matrices of low rank hold.',
    evidence: 'Biderman et al. 2024 (in continued pretraining LoRA stays behind full tuning)',
    when: (input) =>
      input.task === 'domainAdaptation' && !smallChange(input) && !input.needs.keepGeneralAbilities && tokensOf(input) >= TOKENS_FOR_FULL
        ? count(tokensOf(input), 'tokens of domain text') : undefined,
    then: (draft) => ({ ...draft, method: 'full' }),
  },
  {
    id: 'lora',
    text: 'LoRA of rank 16 on all linear layers, at ten times the rate of full tuning: nearly as good on data of this size, for a fraction of the memory.',
    evidence: 'Hu et al. 2021; docs/learning-rates.md (SmolLM2, 240 rows: at the automatic rates a loss of 0.331 and 0.880 of labels right, full tuning 0.287 and 0.910); docs/performance.md (SmolLM2, LoRA r16: 1.6 GB at its peak; a trained value takes 16 bytes)',
    when: (input, { method }) => (method === 'lora' ? count(tokensOf(input), `tokens in ${count(input.data.rows, 'rows')}`) : undefined),
    then: (draft) => draft,
  },
  {
    id: 'many-adapters',
    text: 'LoRA whatever the size of the data: adapters of many tenants share one base in memory and in a batch, and are swapped without loading weights; variants are not.',
    evidence: 'docs/decisions/0005-serving-form.md; Sheng et al. 2023 (S-LoRA)',
    when: (input) => (smallChange(input) ? 'many_adapters' : undefined),
    then: (draft) => ({ ...draft, method: 'lora' }),
  },
  {
    id: 'keep-general',
    text: 'LoRA of rank 16, half the usual rate and few epochs: rate and steps bound what is forgotten, and the base stays as it was beside the adapter. LoRA by itself does not forget less: at equal target loss full tuning forgot less.',
    evidence: 'docs/learning-rates.md, "What is forgotten" (SmolLM2 and the embedded base, short jobs); Biderman et al. 2024 found the contrary on larger models and data',
    when: ({ needs }) => (needs.keepGeneralAbilities ? 'keep_general_abilities' : undefined),
    then: (draft) => ({ ...draft, method: 'lora', rank: LEAST_RANK, rateFactor: draft.rateFactor / 2 }),
  },
  {
    id: 'few-rows',
    text: 'Rank 8 and a dropout of 0.1 in LoRA: with few rows less has to be held, and more would be learnt by heart.',
    evidence: 'Hu et al. 2021, table 6 (ranks of 4 and 8 suffice on small tasks); Srivastava et al. 2014',
    when: ({ data }, { method }) => (method === 'lora' && data.rows < FEW_ROWS ? count(data.rows, 'rows') : undefined),
    then: (draft) => ({ ...draft, rank: 8, dropout: 0.1 }),
  },
  {
    id: 'rank-by-capacity',
    text: 'A higher rank, so that the matrices can hold what the data tells (about 2 bits a value for 1 bit a token); from 64 on scaled by its root.',
    evidence: 'Allen-Zhu and Li 2024 (2 bits of knowledge a parameter); Schulman et al. 2025 (LoRA stays behind once data exceeds its capacity); Kalajdzievski 2023',
    when: (input, { method }) =>
      method === 'lora' && !input.needs.keepGeneralAbilities && rankFor(input) > LEAST_RANK ? `${count(tokensOf(input), 'tokens')} on a model of ${count(valuesPerRank(input), 'values a rank')}` : undefined,
    then: (draft, input) => ({ ...draft, rank: rankFor(input) }),
  },
  {
    id: 'epochs',
    text: 'As many epochs as show the model about 1,600 rows, one for large data and at most 10; at most four of free text and three of preferences.',
    evidence: 'README, "Results" (800 reviews, two epochs); Muennighoff et al. 2023 (four epochs are almost as good as new text); Zhang et al. 2021 (few rows need more steps)',
    when: ({ data }) => count(data.rows, 'rows'),
    then: (draft, { data: { rows, kind }, task, needs }) => {
      const most = kind === 'preference' || needs.keepGeneralAbilities ? 3 : task === 'domainAdaptation' ? 4 : 10;
      return { ...draft, epochs: Math.max(1, Math.min(most, Math.round(EXAMPLES_SEEN / rows))) };
    },
  },
  {
    id: 'small-batches',
    text: 'Four rows a step, so that few rows still make many steps; LoRA loses by large batches before full tuning does.',
    evidence: 'Schulman et al. 2025 (LoRA tolerates large batches less than full tuning)',
    when: ({ data }) => (data.rows < 500 ? count(data.rows, 'rows') : undefined),
    then: (draft) => ({ ...draft, batchSize: 4 }),
  },
  {
    id: 'length-of-rows',
    text: 'Rows are kept up to the length of the longest, and no longer than the model\'s context: memory grows with the longest row.',
    evidence: 'docs/performance.md (`npm run bench -- tune --scale`); src/tuning/trainer.ts: a row is never split',
    when: ({ data }) => `longest row of ${data.longestTokens} tokens`,
    then: (draft, { data: { longestTokens, kind }, config }) => {
      // Both answers of a preference are rows of their own.
      const longest = kind === 'preference' ? Math.ceil(longestTokens / 2) : longestTokens;
      return { ...draft, maxLengthTokens: Math.min(config.maxPositionTokens, Math.max(64, 64 * Math.ceil(longest / 64))) };
    },
  },
  {
    id: 'packing',
    text: 'Short rows are put into the length of the longest of a pass; what a step computes stays the same.',
    evidence: 'Krell et al. 2021; test/tuning/golden.test.ts (packed runs follow PyTorch as unpacked ones do)',
    when: ({ data }, { objective }) => (objective === 'languageModel' && data.meanTokens * 2 < data.longestTokens ? `mean row of ${Math.round(data.meanTokens)} tokens, longest of ${data.longestTokens}` : undefined),
    then: (draft) => ({ ...draft, packing: true }),
  },
  {
    id: 'domain-vocabulary',
    text: 'The embeddings are trained alone first, so that rare words find their place before the layers change. The result is a variant.',
    evidence: 'Artetxe et al. 2020 (new embeddings under a frozen body); docs/decisions/0007-pretrained-embeddings.md for word vectors in their place',
    when: (input, { objective }) => (input.needs.domainVocabulary && !smallChange(input) && objective !== 'preference' ? 'domain_vocabulary' : undefined),
    then: (draft) => ({ ...draft, embeddingsFirst: true }),
  },
  {
    id: 'fewer-layers',
    text: 'An eighth of the layers, those that change the stream least on this data, are removed, and tuning heals the rest. The result is a variant.',
    evidence: 'Men et al. 2024 (ShortGPT); Gromov et al. 2024 (up to a quarter or more of the layers, healed by tuning)',
    when: (input) => (input.needs.cheaperInference && !smallChange(input) && input.config.layers >= 4 ? 'cheaper_inference' : undefined),
    then: (draft, { config }) => ({ ...draft, removedLayers: Math.max(1, Math.round(config.layers / 8)) }),
  },
];

function rankFor(input: RecommendInput): number {
  const needed = (tokensOf(input) * BITS_PER_TOKEN) / (BITS_PER_VALUE * valuesPerRank(input));
  return Math.min(MOST_RANK, Math.max(LEAST_RANK, 2 ** Math.ceil(Math.log2(Math.max(1, needed)))));
}
