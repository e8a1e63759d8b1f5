/**
 * What a tuning job is told: stages, each with a selection of trainable parameters, an optimizer, a schedule and data. The
 * types mirror the proto message; `resolveStage` applies every default in one place and reports all broken rules at once.
 * Invariant: nothing below this file knows a default. It must not read models or data.
 */
import { invalidFields, type FieldViolation } from '../common/errors.js';
import type { ArchitectureEdits } from '../models/architecture.js';
import type { HeadChoice, ReplaceEmbeddingsInput } from '../models/pretrained-embeddings.js';
import type { LabelTemplate } from '../models/prompt.js';
import type { BaseWeightForm } from '../models/training-form-weights.js';
import type { CheckpointPolicy } from './checkpoint.js';
import { evaluationViolations, resolveEvaluation, type EvaluationSpecification, type ResolvedEvaluation } from './evaluation-specification.js';
import { objectiveViolations, resolveObjective, type ObjectiveSpecification, type ResolvedObjective } from './objective-specification.js';

export type Component = 'attention' | 'feedForward' | 'embeddings' | 'norms' | 'head' | 'biases';

/** Decoder layers: an index from 0, or all from `first` to `last`, both included. */
export type Layers = number | { readonly first: number; readonly last: number };

/** Which parameters a stage trains. `src/tuning/selection.ts` turns it into names. */
export type TrainableSelection =
  | { readonly kind: 'full' }
  /** The `layers` highest decoder layers; the final norm and the head only when asked for. */
  | { readonly kind: 'lastLayers'; readonly layers: number; readonly includeNorm?: boolean; readonly includeHead?: boolean }
  | { readonly kind: 'layers'; readonly indices: readonly Layers[] }
  /** `layers` restricts attention, feedForward, biases and the norms inside layers; without it all layers and the final norm. */
  | { readonly kind: 'components'; readonly components: readonly Component[]; readonly layers?: readonly Layers[] }
  /** Tensor names of the checkpoint; `*` stands for any characters. */
  | { readonly kind: 'names'; readonly patterns: readonly string[] }
  | LoraSelection
  | { readonly kind: 'union'; readonly of: readonly TrainableSelection[] }
  /** A selection without what is frozen: tensors by their checkpoint name, LoRA by its module's, and everything inside some layers. */
  | { readonly kind: 'except'; readonly of: TrainableSelection; readonly patterns?: readonly string[]; readonly layers?: readonly Layers[] };

/** Where LoRA's rank or alpha is another. */
export interface LoraPattern {
  /** A module's whole name, or its end after a dot, as in PEFT: 'q_proj', 'layers.1.mlp.down_proj'; `*` stands for any characters. */
  readonly pattern: string;
  readonly rank?: number;
  readonly alpha?: number;
}

/** Low-rank adapters (Hu et al. 2021): y = W x + scaling · B A x, scaling = alpha / rank, or alpha / √rank with rsLoRA. */
export interface LoraSelection {
  readonly kind: 'lora';
  readonly rank: number;
  /** Default 2 · rank. */
  readonly alpha?: number;
  /** Linear layers by name ('q_proj', 'self_attn.q_proj'); default all of them. */
  readonly targetModules?: readonly string[];
  /** Default all layers. */
  readonly layers?: readonly Layers[];
  /** Rank-stabilized scaling (Kalajdzievski 2023). */
  readonly rsLora?: boolean;
  /** Share of the inputs of the low-rank path that training zeroes, the others scaled up (Srivastava et al. 2014). Default 0. */
  readonly dropout?: number;
  /** Weight-decomposed LoRA (Liu et al. 2024): a magnitude per output is trained beside the low-rank direction. The result is a variant. */
  readonly dora?: boolean;
  /** The first that matches a module and has a rank (an alpha) sets it. An alpha that nothing sets stays the selection's. */
  readonly modulePatterns?: readonly LoraPattern[];
}

/** A learning rate of its own for some parameters. */
export interface RateGroup {
  /** Parameters by name: a tensor's, or a LoRA module's with `.lora_A.weight`, `.lora_B.weight`, `.lora_magnitude_vector.weight`; `*` as above. */
  readonly pattern: string;
  readonly multiplier: number;
}

export type Schedule = {
  readonly kind: 'constant' | 'linear' | 'cosine';
  /** Steps of linear warm-up, or their share of all steps; at most one of the two. */
  readonly warmupSteps?: number;
  readonly warmupRatio?: number;
  /** The decay of linear and cosine ends at this share of the peak. Default 0. */
  readonly leastRatio?: number;
};

/** What is kept between forward and backward: inputs of the linear layers, or only layer inputs (recomputes the rest: about 0.85 of the speed). */
export type SavedActivations = 'linear' | 'layer';

/** Word vectors in the place of the model's embeddings, and how they are brought there (src/models/pretrained-embeddings-replace.ts). */
export interface EmbeddingsSpecification extends Pick<ReplaceEmbeddingsInput, 'projection' | 'norm' | 'prefixes'> {
  /** Name of the source; `runTuning` asks its caller for the vectors. */
  readonly source: string;
  /** Reads the first words only. */
  readonly maxWords?: number;
  readonly head?: HeadChoice;
}

/** Adafactor (Shazeer & Stern 2018) instead of AdamW: second moments of a matrix as means of its rows and columns. */
export interface AdafactorOptions {
  /** Second moments decay by 1 − step^this; at most 0. Default −0.8. */
  readonly beta2Decay?: number;
  /** Least root of a second moment, and least root mean square of a parameter that its rate is multiplied by. Default 2^−23 and 0.001. */
  readonly epsilons?: readonly [number, number];
  /** Updates with a greater root mean square are scaled down to it; at least 1. Default 1. */
  readonly clipThreshold?: number;
}

export interface StageSpecification {
  /** Edits before training, in the first stage alone. Selections of every stage mean the edited model; dropout holds for all stages. */
  readonly architecture?: ArchitectureEdits;
  readonly embeddings?: EmbeddingsSpecification;
  readonly trainable: TrainableSelection;
  /** Name of the data set; `runTuning` asks its caller for the rows. */
  readonly dataset: string;
  /**
   * Peak rate, or the rule of learning-rate.ts. Default 2e-4 where LoRA is trained, 1e-3 for a classification head alone, else 2e-5; of
   * Adafactor, relative, 1e-2 for LoRA and a head alone, else 1e-3.
   */
  readonly learningRate?: number | 'auto';
  /** What the rate is multiplied by for each layer below the top one, above 0 and at most 1. Default 1. */
  readonly layerDecay?: number;
  /** Multipliers of the rate by parameter name; the first that matches counts. */
  readonly rateGroups?: readonly RateGroup[];
  /** Default linear with 3 % warm-up. */
  readonly schedule?: Schedule;
  /** Passes over the rows (default 1), or a number of optimizer steps; at most one of the two. */
  readonly epochs?: number;
  readonly steps?: number;
  /** Rows of one micro-batch (default 8) and micro-batches of one optimizer step (default 1). */
  readonly batchSize?: number;
  readonly accumulationSteps?: number;
  /** Longer rows are cut, keeping the completion. Default: the smaller of 1024 and the model's limit. */
  readonly maxLengthTokens?: number;
  /** AdamW (Loshchilov & Hutter 2019): decoupled decay (default 0.01), betas (0.9, 0.999), epsilon (1e-8). */
  readonly weightDecay?: number;
  /** Whether gains and biases (one-dimensional tensors) decay as well. Default true, as in PyTorch's AdamW. */
  readonly decayNorms?: boolean;
  readonly betas?: readonly [number, number];
  readonly epsilon?: number;
  /** Weight decay is then 0 by default, and betas and epsilon don't count. */
  readonly adafactor?: AdafactorOptions;
  /** Gradients are scaled down to this global 2-norm; 0 turns clipping off. Default 1. */
  readonly maxGradientNorm?: number;
  /** What is minimized. Default: the language model's loss on completions. */
  readonly objective?: ObjectiveSpecification;
  /** How the language model's objective words rows of text and label. */
  readonly labelTemplate?: LabelTemplate;
  /** Held-out rows that are measured while the stage trains. */
  readonly evaluation?: EvaluationSpecification;
  /** Default: by the memory that the job may take (memory-budget.ts). */
  readonly savedActivations?: SavedActivations;
  /** Several rows of data in one row of a micro-batch, each seeing only itself. Changes memory and time, never the step. Default false. */
  readonly packing?: boolean;
}

export interface TuningSpecification {
  readonly baseModel: string;
  readonly stages: readonly StageSpecification[];
  /** Integer 0 … 2^53 − 1. The same seed, machine and thread count give the same bytes. */
  readonly seed: number;
  /**
   * How frozen linear weights are held while training. In integers they take a quarter or an eighth of the memory, and gradients are exact
   * for the weights that the integers stand for (QLoRA, Dettmers et al. 2023). Default 'float32'.
   */
  readonly baseWeights?: BaseWeightForm;
  /** Some products with frozen weights in eight-bit integers: faster, with errors (docs/performance.md). Only with float32 weights. Default false. */
  readonly int8Products?: boolean;
  readonly checkpoints?: CheckpointPolicy;
  /** What the job may add to the memory of its process; at least 1. Default: as much as it is given where it runs. */
  readonly memoryLimitBytes?: number;
}

/** A stage with every default applied. */
export interface ResolvedStage {
  readonly trainable: TrainableSelection;
  readonly dataset: string;
  readonly learningRate: number | 'auto';
  readonly layerDecay: number;
  readonly rateGroups: readonly RateGroup[];
  readonly schedule: { readonly kind: 'constant' | 'linear' | 'cosine'; readonly warmupSteps: number; readonly warmupRatio: number; readonly leastRatio: number };
  readonly length: { readonly kind: 'epochs'; readonly epochs: number } | { readonly kind: 'steps'; readonly steps: number };
  readonly batchSize: number;
  readonly accumulationSteps: number;
  readonly maxLengthTokens: number;
  readonly weightDecay: number;
  readonly decayNorms: boolean;
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  readonly adafactor: Required<AdafactorOptions> | undefined;
  readonly maxGradientNorm: number;
  readonly objective: ResolvedObjective;
  readonly labelTemplate: LabelTemplate | undefined;
  readonly evaluation: ResolvedEvaluation | undefined;
  readonly savedActivations: SavedActivations | 'auto';
  readonly packing: boolean;
}

export const DEFAULT_MAX_LENGTH_TOKENS = 1024;

/** Peak learning rates where LoRA is trained, for a classification head alone, and for whole tensors. */
const DEFAULT_RATES = { adamw: { lora: 2e-4, head: 1e-3, whole: 2e-5 }, adafactor: { lora: 1e-2, head: 1e-2, whole: 1e-3 } } as const;

function trainsLora(selection: TrainableSelection): boolean {
  if (selection.kind === 'except') return trainsLora(selection.of);
  return selection.kind === 'lora' || (selection.kind === 'union' && selection.of.some(trainsLora));
}

function defaultRate({ trainable, objective, adafactor }: StageSpecification): number {
  const rates = DEFAULT_RATES[adafactor === undefined ? 'adamw' : 'adafactor'];
  if (trainsLora(trainable)) return rates.lora;
  const headAlone = objective?.kind === 'classification' && trainable.kind === 'components' && trainable.components.every((component) => component === 'head');
  return headAlone ? rates.head : rates.whole;
}

/** Collects broken rules of numbers; every check names the field by its path. */
class Rules {
  readonly violations: FieldViolation[] = [];
  constructor(readonly path: string) {}

  check(field: string, holds: boolean, description: string): void {
    if (!holds) this.violations.push({ field: `${this.path}.${field}`, description });
  }
  integer(field: string, value: number | undefined, least: number): void {
    if (value !== undefined) this.check(field, Number.isSafeInteger(value) && value >= least, `must be an integer of at least ${least}, not ${value}`);
  }
  between(field: string, value: number | undefined, low: number, high: number): void {
    if (value !== undefined) this.check(field, value >= low && value <= high, `must be between ${low} and ${high}, not ${value}`);
  }
}

/**
 * Applies defaults and checks numbers. `maxPositionTokens` is the model's limit; `path` prefixes field names.
 * Throws INVALID_ARGUMENT / INVALID_FIELD that lists every broken rule.
 */
export function resolveStage(stage: StageSpecification, maxPositionTokens: number, path = 'stage'): ResolvedStage {
  const rules = new Rules(path);
  rules.check('dataset', stage.dataset.length > 0, 'must name a data set');
  rules.check('learningRate', stage.learningRate === undefined || stage.learningRate === 'auto' || (stage.learningRate > 0 && stage.learningRate <= 1), `must be above 0 and at most 1, not ${stage.learningRate ?? ''}`);
  rules.check('layerDecay', stage.layerDecay === undefined || (stage.layerDecay > 0 && stage.layerDecay <= 1), `must be above 0 and at most 1, not ${stage.layerDecay ?? ''}`);
  for (const [i, { multiplier }] of (stage.rateGroups ?? []).entries()) {
    rules.check(`rateGroups[${i}].multiplier`, multiplier > 0 && multiplier <= 1000, `must be above 0 and at most 1000, not ${multiplier}; freeze parameters by an exception of the selection`);
  }
  rules.between('schedule.leastRatio', stage.schedule?.leastRatio, 0, 1);
  rules.integer('schedule.warmupSteps', stage.schedule?.warmupSteps, 0);
  rules.between('schedule.warmupRatio', stage.schedule?.warmupRatio, 0, 1);
  rules.check('schedule', stage.schedule?.warmupSteps === undefined || stage.schedule.warmupRatio === undefined, 'give warmupSteps or warmupRatio, not both');
  rules.integer('epochs', stage.epochs, 1);
  rules.integer('steps', stage.steps, 1);
  rules.check('steps', stage.epochs === undefined || stage.steps === undefined, 'give epochs or steps, not both');
  rules.integer('batchSize', stage.batchSize, 1);
  rules.integer('accumulationSteps', stage.accumulationSteps, 1);
  rules.integer('maxLengthTokens', stage.maxLengthTokens, 2);
  rules.check('maxLengthTokens', (stage.maxLengthTokens ?? 0) <= maxPositionTokens, `the model takes at most ${maxPositionTokens} tokens`);
  rules.between('weightDecay', stage.weightDecay, 0, 10);
  for (const [i, beta] of (stage.betas ?? []).entries()) rules.check(`betas[${i}]`, beta >= 0 && beta < 1, `must be at least 0 and below 1, not ${beta}`);
  rules.check('epsilon', stage.epsilon === undefined || (stage.epsilon > 0 && Number.isFinite(stage.epsilon)), 'must be above 0');
  rules.check('adafactor.beta2Decay', (stage.adafactor?.beta2Decay ?? 0) <= 0, `must be at most 0, not ${stage.adafactor?.beta2Decay ?? ''}`);
  for (const [i, epsilon] of (stage.adafactor?.epsilons ?? []).entries()) rules.check(`adafactor.epsilons[${i}]`, epsilon > 0 && epsilon <= 1, `must be above 0 and at most 1, not ${epsilon}`);
  rules.check('adafactor.clipThreshold', (stage.adafactor?.clipThreshold ?? 1) >= 1, `must be at least 1, not ${stage.adafactor?.clipThreshold ?? ''}`);
  rules.check('maxGradientNorm', stage.maxGradientNorm === undefined || (stage.maxGradientNorm >= 0 && Number.isFinite(stage.maxGradientNorm)), 'must be 0 (off) or above');
  rules.violations.push(...objectiveViolations(stage.objective, `${path}.objective`), ...evaluationViolations(stage.evaluation, resolveObjective(stage.objective), `${path}.evaluation`));
  if (rules.violations.length > 0) throw invalidFields(rules.violations);
  const schedule: Schedule = stage.schedule ?? { kind: 'linear', warmupRatio: 0.03 };
  return {
    trainable: stage.trainable,
    dataset: stage.dataset,
    learningRate: stage.learningRate ?? defaultRate(stage),
    layerDecay: stage.layerDecay ?? 1,
    rateGroups: stage.rateGroups ?? [],
    schedule: { kind: schedule.kind, warmupSteps: schedule.warmupSteps ?? 0, warmupRatio: schedule.warmupRatio ?? 0, leastRatio: schedule.leastRatio ?? 0 },
    length: stage.steps === undefined ? { kind: 'epochs', epochs: stage.epochs ?? 1 } : { kind: 'steps', steps: stage.steps },
    batchSize: stage.batchSize ?? 8,
    accumulationSteps: stage.accumulationSteps ?? 1,
    maxLengthTokens: stage.maxLengthTokens ?? Math.min(DEFAULT_MAX_LENGTH_TOKENS, maxPositionTokens),
    weightDecay: stage.weightDecay ?? (stage.adafactor === undefined ? 0.01 : 0),
    decayNorms: stage.decayNorms ?? true,
    betas: stage.betas ?? [0.9, 0.999],
    epsilon: stage.epsilon ?? 1e-8,
    adafactor: stage.adafactor === undefined ? undefined : { beta2Decay: -0.8, epsilons: [2 ** -23, 1e-3], clipThreshold: 1, ...stage.adafactor },
    maxGradientNorm: stage.maxGradientNorm ?? 1,
    objective: resolveObjective(stage.objective),
    labelTemplate: stage.labelTemplate,
    evaluation: resolveEvaluation(stage.evaluation),
    savedActivations: stage.savedActivations ?? 'auto',
    packing: stage.packing ?? false,
  };
}

/** Checks what concerns the whole specification. Edits of the model in a later stage are refused. Throws INVALID_ARGUMENT / INVALID_FIELD. */
export function checkSpecification(specification: TuningSpecification): void {
  const violations: FieldViolation[] = [];
  if (specification.baseModel === '') violations.push({ field: 'specification.baseModel', description: 'must name a model' });
  if (specification.stages.length === 0) violations.push({ field: 'specification.stages', description: 'must have at least one stage' });
  for (const [i, stage] of specification.stages.slice(1).entries()) {
    for (const field of ['architecture', 'embeddings'] as const) {
      if (stage[field] !== undefined) violations.push({ field: `specification.stages[${i + 1}].${field}`, description: 'only the first stage can change the model before training' });
    }
  }
  if (specification.int8Products === true && (specification.baseWeights ?? 'float32') !== 'float32') {
    violations.push({ field: 'specification.int8Products', description: 'needs baseWeights float32: it takes the float32 values of some channels' });
  }
  if (!Number.isSafeInteger(specification.seed) || specification.seed < 0) violations.push({ field: 'specification.seed', description: 'must be an integer from 0 to 2^53 - 1' });
  const { everySteps, keep } = specification.checkpoints ?? {};
  const positive = (value: number | undefined): boolean => value === undefined || (Number.isSafeInteger(value) && value >= 1);
  if (!positive(everySteps)) violations.push({ field: 'specification.checkpoints.everySteps', description: `must be an integer of at least 1, not ${everySteps ?? ''}` });
  if (!positive(keep)) violations.push({ field: 'specification.checkpoints.keep', description: `must be an integer of at least 1, not ${keep ?? ''}` });
  const { memoryLimitBytes } = specification;
  if (!positive(memoryLimitBytes)) violations.push({ field: 'specification.memoryLimitBytes', description: `must be an integer of at least 1, not ${memoryLimitBytes ?? ''}` });
  if (violations.length > 0) throw invalidFields(violations);
}
