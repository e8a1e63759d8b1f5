/**
 * How a draft is made to fit memory and time: rungs, tried in order until it does. Each costs more than the one before, in speed first, then in what is
 * learnt. Pure, as the rules are; costs come from recommend-cost.ts.
 */
import { invalidFields, LoricaError } from '../common/errors.js';
import { tuningCost, type TuningCost } from './recommend-cost.js';
import { layersOf, specificationOf, type Draft, type RecommendInput } from './recommend-types.js';
import type { TuningSpecification } from './specification.js';

export interface Rung {
  readonly id: string;
  readonly text: string;
  readonly evidence: string;
  /** The next draft; undefined where there is nothing left to change. */
  readonly then: (draft: Draft, input: RecommendInput) => Draft | undefined;
}

export interface Fitted {
  readonly draft: Draft;
  readonly specification: TuningSpecification;
  readonly cost: TuningCost;
  readonly rungs: readonly Rung[];
  /** Before any rung. */
  readonly before: TuningCost;
}

const LEAST_LENGTH = 32;

export const MEMORY_RUNGS: readonly Rung[] = [
  {
    id: 'accumulate',
    text: 'Fewer rows are computed at a time and their gradients added up: the step is the same.',
    evidence: 'test/tuning/golden.test.ts (accumulated steps follow PyTorch to 1e-5)',
    then: (draft) => (draft.batchSize === 1 ? undefined : { ...draft, batchSize: draft.batchSize / 2, accumulationSteps: draft.accumulationSteps * 2 }),
  },
  {
    id: 'recompute-activations',
    text: 'Only the inputs of layers are kept between the passes and the rest is computed again, at about 0.85 of the speed.',
    evidence: 'Chen et al. 2016; docs/performance.md (1,544 to 1,110 MB)',
    then: (draft) => (draft.savedActivations === 'layer' ? undefined : { ...draft, savedActivations: 'layer' }),
  },
  {
    id: 'adafactor',
    text: 'Adafactor in AdamW\'s place, with 8 instead of 16 bytes a trained value.',
    evidence: 'Shazeer and Stern 2018; docs/tuning.md, "Optimizers"',
    then: (draft) => (draft.method !== 'full' || draft.adafactor ? undefined : { ...draft, adafactor: true }),
  },
  {
    id: 'lora-for-memory',
    text: 'LoRA instead of every parameter: values, gradients and moments of all of them do not fit.',
    evidence: 'Hu et al. 2021; docs/tuning.md, "Optimizers"',
    then: (draft) => (draft.method === 'lora' ? undefined : { ...draft, method: 'lora', adafactor: false }),
  },
  {
    id: 'embeddings-frozen',
    text: 'The embeddings stay frozen: training them whole does not fit.',
    evidence: 'docs/tuning.md, "Optimizers" (16 bytes a trained value)',
    then: (draft) => (draft.embeddingsFirst ? { ...draft, embeddingsFirst: false } : undefined),
  },
  {
    id: 'int8-base',
    text: 'The frozen base is held in eight-bit integers, with exact gradients for the values that they stand for.',
    evidence: 'Dettmers et al. 2023 (QLoRA); docs/performance.md (1.125 instead of 4 bytes a weight, about 5 % of a step)',
    then: (draft) => (draft.baseWeights === 'float32' ? { ...draft, baseWeights: 'int8', int8Products: false } : undefined),
  },
  {
    id: 'int4-base',
    text: 'The frozen base is held in four-bit integers, at some loss of accuracy.',
    evidence: 'Dettmers et al. 2023 (QLoRA); docs/performance.md (0.625 instead of 4 bytes a weight)',
    then: (draft) => (draft.baseWeights === 'int8' ? { ...draft, baseWeights: 'int4' } : undefined),
  },
  {
    id: 'lower-rank',
    text: 'A lower rank: the matrices take less memory and hold less.',
    evidence: 'Hu et al. 2021, table 6',
    then: (draft) => (draft.rank > 4 ? { ...draft, rank: draft.rank / 2 } : undefined),
  },
  {
    id: 'shorter-rows',
    text: 'Longer rows lose the beginning of their prompt: what is kept of one row bounds the memory from below.',
    evidence: 'src/tuning/trainer.ts: a row is never split',
    then: (draft) => (draft.maxLengthTokens > LEAST_LENGTH ? { ...draft, maxLengthTokens: Math.max(LEAST_LENGTH, Math.ceil(draft.maxLengthTokens / 2)) } : undefined),
  },
];

export const TIME_RUNGS: readonly Rung[] = [
  {
    id: 'integer-products',
    text: 'Products with frozen weights are computed in eight-bit integers, 1.25 to 1.35 times as fast, with small errors.',
    evidence: 'docs/performance.md (`int8_products`: mean cosine of the gradients 0.997 on SmolLM2)',
    then: (draft) => (draft.method === 'lora' && draft.baseWeights === 'float32' && !draft.int8Products ? { ...draft, int8Products: true } : undefined),
  },
  {
    id: 'fewer-epochs',
    text: 'Fewer epochs: the time does not allow more.',
    evidence: 'Muennighoff et al. 2023 (each repetition tells less than the one before)',
    then: (draft) => (draft.epochs > 1 ? { ...draft, epochs: draft.epochs - 1 } : undefined),
  },
  {
    id: 'upper-layers',
    text: 'Only the upper half of the layers is trained: the backward pass ends there.',
    evidence: 'Lee et al. 2019 (the last quarter of the layers gives 90 % of the quality); src/tuning/model-pass.ts: no backward run below the lowest trained layer',
    then: (draft, { config }) => {
      const layers = layersOf(draft, config);
      return draft.method === 'lora' && draft.topLayers === undefined && layers >= 2 ? { ...draft, topLayers: Math.ceil(layers / 2) } : undefined;
    },
  },
  {
    id: 'some-rows',
    text: 'A number of steps instead of an epoch: the time is over before every row was seen.',
    evidence: 'src/tuning/batches.ts: the order of rows is random, so that those seen are a sample',
    then: (draft, input) => {
      if (draft.steps !== undefined) return draft.steps > 1 ? { ...draft, steps: Math.max(1, Math.floor(draft.steps / 2)) } : undefined;
      return { ...draft, steps: Math.min(1_000_000, Math.max(1, Math.ceil(input.data.rows / (draft.batchSize * draft.accumulationSteps) / 2))) };
    },
  },
];

function weigh(draft: Draft, input: RecommendInput): Pick<Fitted, 'draft' | 'specification' | 'cost'> {
  const { config, data, threads } = input;
  const specification = specificationOf(draft, input);
  return { draft, specification, cost: tuningCost(specification, config, { ...data, labels: Math.max(2, Object.keys(data.labels).length) }, threads) };
}

/** Applies rungs until `fits`, those that change nothing of `measure` aside; undefined at the end stands for a draft that does not fit. */
function climb(from: Draft, input: RecommendInput, rungs: readonly Rung[], measure: (cost: TuningCost) => number, limit: number): { readonly draft: Draft; readonly used: readonly Rung[] } {
  let current = weigh(from, input);
  const used: Rung[] = [];
  for (const rung of rungs) {
    while (measure(current.cost) > limit) {
      const next = rung.then(current.draft, input);
      if (next === undefined) break;
      const weighed = weigh(next, input);
      // A rung may help only when it is climbed further, as rows below the cut of a micro-batch do.
      current = weighed;
      if (!used.includes(rung)) used.push(rung);
    }
  }
  return { draft: current.draft, used };
}

/** Leaves out the rungs of memory that turn out not to be needed once a later one is climbed. */
function spared(from: Draft, input: RecommendInput, used: readonly Rung[]): readonly Rung[] {
  let needed = used;
  for (const rung of used) {
    const without = needed.filter((one) => one !== rung);
    if (fits(climb(from, input, without, memory, input.memoryLimitBytes).draft, input)) needed = without;
  }
  return needed;
}

const memory = ({ memoryBytes }: TuningCost): number => memoryBytes;
const fits = (draft: Draft, input: RecommendInput): boolean => weigh(draft, input).cost.memoryBytes <= input.memoryLimitBytes;

/**
 * The draft changed as little as makes it fit. Time is a wish: what takes too long after all is as short as it gets. Throws RESOURCE_EXHAUSTED /
 * MEMORY_INSUFFICIENT with the least memory that would do.
 */
export function fitted(draft: Draft, input: RecommendInput): Fitted {
  const before = weigh(draft, input).cost;
  const all = climb(draft, input, MEMORY_RUNGS, memory, input.memoryLimitBytes);
  if (!fits(all.draft, input)) throw tooLittle(weigh(all.draft, input).cost.memoryBytes, input);
  const rungs = spared(draft, input, all.used);
  const small = climb(draft, input, rungs, memory, input.memoryLimitBytes);
  const quick = climb(small.draft, input, withinMemory(TIME_RUNGS), ({ seconds }) => seconds, input.timeLimitSeconds ?? Infinity);
  return { ...weigh(quick.draft, input), before, rungs: [...small.used, ...quick.used] };
}

/** Integer products take memory: they are passed over where that does not fit. */
function withinMemory(rungs: readonly Rung[]): readonly Rung[] {
  return rungs.map((rung) => ({
    ...rung,
    then: (draft, input) => {
      const next = rung.then(draft, input);
      return next !== undefined && fits(next, input) ? next : undefined;
    },
  }));
}

function tooLittle(leastBytes: number, { memoryLimitBytes, baseModel }: RecommendInput): LoricaError {
  return new LoricaError('RESOURCE_EXHAUSTED', 'MEMORY_INSUFFICIENT', `no way of tuning ${baseModel} fits ${memoryLimitBytes} bytes; the least that would do is ${leastBytes}`, {
    hint: `Give at least ${Math.ceil(leastBytes / 2 ** 20)} MiB, or take a smaller base model.`,
    metadata: { leastBytes: String(leastBytes), limitBytes: String(memoryLimitBytes) },
  });
}

/** Throws INVALID_ARGUMENT / INVALID_FIELD for figures that can not be meant. */
export function checkInput({ data, memoryLimitBytes, timeLimitSeconds, threads }: RecommendInput): void {
  const violations = [
    { field: 'rows', holds: Number.isSafeInteger(data.rows) && data.rows >= 1, description: `must be a whole number of at least 1, not ${data.rows}` },
    { field: 'mean_tokens', holds: data.meanTokens >= 1 && Number.isFinite(data.meanTokens), description: `must be at least 1, not ${data.meanTokens}` },
    { field: 'memory_limit_bytes', holds: memoryLimitBytes >= 1 && Number.isFinite(memoryLimitBytes), description: `must be at least 1, not ${memoryLimitBytes}` },
    { field: 'time_limit', holds: timeLimitSeconds === undefined || timeLimitSeconds > 0, description: 'must be greater than 0' },
    { field: 'threads', holds: threads >= 1, description: `must be at least 1, not ${threads}` },
  ].filter(({ holds }) => !holds);
  if (violations.length > 0) throw invalidFields(violations.map(({ field, description }) => ({ field, description })));
}
