/**
 * Which tuning fits a task and its resources: rules choose, rungs make it fit, and what else would do and what to look after come with it. A pure
 * function: the same input gives the same answer, and no model, data or runtime is touched. Invariant: every specification that is returned
 * passes `checkTuning` on the model that it names.
 */
import { invalidFields } from '../common/errors.js';
import type { ExampleKind } from '../datasets/index.js';
import type { TuningCost } from './recommend-cost.js';
import { checkInput, fitted, type Fitted } from './recommend-fit.js';
import { firstDraft, RULES } from './recommend-rules.js';
import type { Draft, RecommendInput, TuningTask } from './recommend-types.js';
import { WARNINGS } from './recommend-warnings.js';
import type { TuningSpecification } from './specification.js';

export interface Reason {
  readonly rule: string;
  readonly text: string;
  readonly because: string;
  readonly evidence: string;
}

export interface Alternative {
  readonly rule: string;
  readonly preferWhen: string;
  readonly specification: TuningSpecification;
  readonly cost: TuningCost;
}

export interface Recommendation {
  readonly specification: TuningSpecification;
  readonly cost: TuningCost;
  readonly reasons: readonly Reason[];
  readonly alternatives: readonly Alternative[];
  readonly warnings: readonly { readonly rule: string; readonly text: string }[];
}

/** The kinds of rows that a task learns from; the first is what is taken for rows that are not there yet. */
export const TASK_KINDS: Readonly<Record<TuningTask, readonly ExampleKind[]>> = {
  classification: ['label', 'completion', 'messages'],
  translation: ['completion', 'messages'],
  questionAnswering: ['completion', 'messages'],
  summarization: ['completion', 'messages'],
  domainAdaptation: ['text', 'completion', 'messages'],
  preferenceAlignment: ['preference'],
};

interface Other {
  readonly id: string;
  readonly preferWhen: string;
  readonly then: (draft: Draft, input: RecommendInput) => Draft | undefined;
}

export const ALTERNATIVES: readonly Other[] = [
  {
    id: 'label-text-instead',
    preferWhen: 'Prefer it when labels are words that the base knows, or texts are generated as well: the label is learnt as text.',
    then: (draft) => (draft.objective === 'classification' ? { ...draft, objective: 'languageModel', headFirst: false } : undefined),
  },
  {
    id: 'head-instead',
    preferWhen: 'Prefer it when every classification must cost one short pass, or labels are mere codes: a head of its own, then LoRA with it.',
    then: (draft, { task, data }) => {
      const labels = Object.keys(data.labels).length;
      const fit = task === 'classification' && data.kind === 'label' && draft.objective === 'languageModel' && labels >= 2 && labels <= 1000;
      return fit ? { ...draft, objective: 'classification', headFirst: true, packing: false } : undefined;
    },
  },
  {
    id: 'full-instead',
    preferWhen: 'Prefer it when held-out quality still falls short, or the tuned model itself is to forget least, and many adapters on one base do not matter.',
    then: (draft, { needs }) => (draft.method === 'lora' && !needs.manyAdapters ? { ...draft, method: 'full' } : undefined),
  },
  {
    id: 'last-layers-then-lora',
    preferWhen: 'Prefer it when the answers\' form is new to the base: the last quarter of the layers first, then LoRA everywhere. The result is a variant.',
    then: (draft, { needs, config }) =>
      draft.method === 'lora' && !needs.manyAdapters && config.layers - draft.removedLayers >= 2 ? { ...draft, method: 'lastLayersThenLora' } : undefined,
  },
  {
    id: 'lora-instead',
    preferWhen: 'Prefer it when several adapters will share the base, or the base is to stay served as it is beside them.',
    then: (draft) => (draft.method === 'full' ? { ...draft, method: 'lora' } : undefined),
  },
  {
    id: 'all-layers-instead',
    preferWhen: 'Prefer it when quality matters more than the size of the model: no layer is removed.',
    then: (draft) => (draft.removedLayers > 0 ? { ...draft, removedLayers: 0 } : undefined),
  },
  {
    id: 'int8-instead',
    preferWhen: 'Prefer it when other jobs need the memory: the frozen base is held in eight-bit integers.',
    then: (draft) => (draft.method === 'lora' && draft.baseWeights === 'float32' ? { ...draft, baseWeights: 'int8', int8Products: false } : undefined),
  },
];

/**
 * Throws INVALID_ARGUMENT / INVALID_FIELD where the rows are of no use for the task or a figure can not be meant, and RESOURCE_EXHAUSTED /
 * MEMORY_INSUFFICIENT, with the least memory that would do, where nothing fits.
 */
export function recommendTuning(input: RecommendInput): Recommendation {
  checkInput(input);
  requireUsefulRows(input);
  const { draft, reasons } = drafted(input);
  const best = fitted(draft, input);
  const climbed = best.rungs.map(({ id, text, evidence }) => ({ rule: id, text, evidence, because: pressed(best, input) }));
  return {
    specification: best.specification,
    cost: best.cost,
    reasons: [...reasons, ...climbed],
    alternatives: alternatives(best, input),
    warnings: WARNINGS.flatMap(({ id, when }) => {
      const text = when(input, best);
      return text === undefined ? [] : [{ rule: id, text }];
    }),
  };
}

function drafted(input: RecommendInput): { readonly draft: Draft; readonly reasons: readonly Reason[] } {
  let draft = firstDraft(input);
  const reasons: Reason[] = [];
  for (const { id, text, evidence, when, then } of RULES) {
    const because = when(input, draft);
    if (because === undefined) continue;
    draft = then(draft, input);
    reasons.push({ rule: id, text, because, evidence });
  }
  return { draft, reasons };
}

function pressed({ before }: Fitted, { memoryLimitBytes, timeLimitSeconds }: RecommendInput): string {
  const mib = (bytes: number): number => Math.ceil(bytes / 2 ** 20);
  const memory = before.memoryBytes > memoryLimitBytes ? [`${mib(before.memoryBytes)} MiB expected, ${mib(memoryLimitBytes)} MiB allowed`] : [];
  const time = timeLimitSeconds !== undefined && before.seconds > timeLimitSeconds ? [`${Math.ceil(before.seconds)} s expected, ${Math.ceil(timeLimitSeconds)} s allowed`] : [];
  return [...memory, ...time].join('; ') || 'what fits the memory takes longer than is allowed';
}

/** What fits as it is, without a rung: one that had to be made smaller is no better than what is recommended. */
function alternatives(best: Fitted, input: RecommendInput): Alternative[] {
  return ALTERNATIVES.flatMap(({ id, preferWhen, then }) => {
    const draft = then(best.draft, input);
    if (draft === undefined) return [];
    const other = fitted(draft, { ...input, memoryLimitBytes: Infinity, timeLimitSeconds: undefined });
    if (other.cost.memoryBytes > input.memoryLimitBytes) return [];
    return [{ rule: id, preferWhen, specification: other.specification, cost: other.cost }];
  });
}

function requireUsefulRows({ task, data }: RecommendInput): void {
  if (!TASK_KINDS[task].includes(data.kind)) {
    throw invalidFields([{ field: 'dataset', description: `holds rows of the kind ${data.kind}, and ${task} learns from ${TASK_KINDS[task].join(', ')}; use another task, or another dataset` }]);
  }
  if (data.stored && data.kind === 'label' && Object.keys(data.labels).length < 2) {
    throw invalidFields([{ field: 'dataset', description: 'has one label; a classification tells at least 2 apart' }]);
  }
}
