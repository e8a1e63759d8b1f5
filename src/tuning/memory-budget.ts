/**
 * How a stage keeps activations and cuts micro-batches so that it fits the memory that its job may take: inputs of linear layers where they fit, else
 * only layer inputs; micro-batches get smaller before a job is refused. A pure function of shapes, rows and the limit: what else runs has no part
 * in it, so that the same job on the same server makes the same choice. The choice decides the order of sums: checkpoints keep it.
 */
import { LEAST_LABELS } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import type { DropoutRates } from '../models/architecture.js';
import type { DecoderConfig } from '../models/config.js';
import { padded } from './batches.js';
import { maskBytesPerToken, modelDropout } from './dropout.js';
import { adafactorMoments, layerBytes, lentBytes, memoryCounts, memoryParts, savedBytesPerToken, totalBytes, type LayerBytes, type MemoryCounts, type MemoryPart, type MemoryUse } from './memory-plan.js';
import { layerTokens } from './segment-size.js';
import { selectTrainable } from './selection.js';
import type { ResolvedStage, SavedActivations, TuningSpecification } from './specification.js';
import type { StageRows } from './stage-rows.js';
import { parameterShapes, shapesWithHead } from './working-model.js';

/** What was chosen for a stage. */
export interface StageMemory {
  readonly savedActivations: SavedActivations;
  /** Padded tokens of a micro-batch at most; a longer row is one of its own. */
  readonly microBatchTokens: number;
}

/** A stage before the choice. */
export interface BudgetedStage {
  readonly counts: MemoryCounts;
  readonly use: Omit<MemoryUse, 'microBatchTokens' | 'savedBytesPerToken' | 'lentBytes'>;
  /** Bytes that a token keeps, layer by layer too, and padded tokens beyond which a native run would be long, by what is kept. */
  readonly kinds: Readonly<Record<SavedActivations, { readonly bytesPerToken: number; readonly layers: readonly LayerBytes[]; readonly mostTokens: number }>>;
  readonly savedActivations: SavedActivations | 'auto';
  /** Padded tokens of the longest row of data, all its sequences, and at most of a whole micro-batch. */
  readonly rowTokens: number;
  readonly batchTokens: number;
  /** A step has several micro-batches however large they may be. */
  readonly accumulates: boolean;
}

/** What is known of a stage's rows. */
export interface RowSizes {
  /** Rows of data. */
  readonly rows: number;
  /** Padded tokens of the longest sequence. */
  readonly longestTokens: number;
  /** Tokens of all rows. */
  readonly dataTokens: number;
  readonly labels: number;
}

/** Activations kept between forward and backward take at most this many bytes, whatever the limit: longer micro-batches gain nothing. */
export const DEFAULT_ACTIVATION_BUDGET_BYTES = 720 * 2 ** 20;
/** Inputs of linear layers are kept as long as this many tokens fit: fewer make products slower than computing activations twice. */
const LEAST_LINEAR_TOKENS = 512;

/** What a job may take: what it asks for, within what it is given. Infinity where nobody sets a limit. */
export function memoryLimit({ memoryLimitBytes = Infinity }: Pick<TuningSpecification, 'memoryLimitBytes'>, givenBytes = Infinity): number {
  return Math.min(memoryLimitBytes, givenBytes);
}

/** Of preferences two rows are one row of data. */
export function rowSizes({ rows, labels }: StageRows, { objective }: Pick<ResolvedStage, 'objective'>): RowSizes {
  return {
    rows: objective.kind === 'preference' ? rows.length / 2 : rows.length,
    longestTokens: padded(rows.reduce((most, { inputs }) => Math.max(most, inputs.length), 1)),
    dataTokens: rows.reduce((sum, { inputs }) => sum + inputs.length, 0),
    labels: labels?.length ?? 0,
  };
}

/** What a selection means on a model, whatever the rows and the optimizer. */
export interface SelectedShapes {
  readonly config: DecoderConfig;
  readonly counts: Readonly<Record<'adamw' | 'adafactor', MemoryCounts>>;
  /** Bytes of a token's masks of dropout, and what each token of its row adds to them. */
  readonly masks: { readonly bytesPerToken: number; readonly bytesPerRowToken: number };
  /** Bytes that a token keeps, masks aside, and padded tokens beyond which a native run would be long. */
  readonly kinds: BudgetedStage['kinds'];
}

export interface SelectionInput {
  /** The model that the job trains; `dropout`: its own, by the first stage's edits. */
  readonly config: DecoderConfig;
  readonly dropout: DropoutRates | undefined;
  readonly stage: Pick<ResolvedStage, 'trainable' | 'objective'>;
  /** Of a classification. */
  readonly labels: number;
}

export function selectedShapes({ config, dropout: rates = {}, stage, labels }: SelectionInput): SelectedShapes {
  const plan = selectTrainable(config, stage.trainable, 'trainable', stage.objective.kind === 'classification');
  const trained = parameterShapes(plan, shapesWithHead(config, labels));
  const dropout = modelDropout(config, rates);
  for (const [module, settings] of plan.lora) dropout.set(module, settings.dropout);
  const kind = (saved: SavedActivations): BudgetedStage['kinds'][SavedActivations] => {
    const layers = layerBytes({ config, trained }, saved);
    return { layers, bytesPerToken: savedBytesPerToken(config, layers), mostTokens: layerTokens(config, trained, saved === 'layer') };
  };
  const adamw = memoryCounts({ config, plan, trained, stage: { adafactor: undefined } });
  const bytesPerToken = maskBytesPerToken(config, dropout, 0);
  const masks = { bytesPerToken, bytesPerRowToken: maskBytesPerToken(config, dropout, 1) - bytesPerToken };
  return { config, masks, kinds: { linear: kind('linear'), layer: kind('layer') }, counts: { adamw, adafactor: { ...adamw, moments: adafactorMoments(trained) } } };
}

/** A stage on rows of these sizes. */
export function budgetedStage(shapes: SelectedShapes, specification: Pick<TuningSpecification, 'baseWeights' | 'int8Products'>, stage: ResolvedStage, sizes: RowSizes): BudgetedStage {
  const { baseWeights: weights = 'float32', int8Products = false } = specification;
  const { rows, longestTokens, dataTokens, labels } = sizes;
  const { config, kinds: { linear, layer } } = shapes;
  const rowTokens = longestTokens * (stage.objective.kind === 'preference' ? 2 : 1);
  const masks = shapes.masks.bytesPerToken + shapes.masks.bytesPerRowToken * longestTokens;
  return {
    counts: shapes.counts[stage.adafactor === undefined ? 'adamw' : 'adafactor'],
    use: { config, weights, int8Products, outputs: stage.objective.kind === 'classification' ? labels : config.vocabSize, longestTokens, dataTokens },
    kinds: { linear: { ...linear, bytesPerToken: linear.bytesPerToken + masks }, layer: { ...layer, bytesPerToken: layer.bytesPerToken + masks } },
    savedActivations: stage.savedActivations, rowTokens, batchTokens: Math.min(stage.batchSize, rows) * rowTokens, accumulates: stage.accumulationSteps > 1,
  };
}

/** A stage's memory as chosen; `tokens`: padded tokens of its largest micro-batch, where they are known to be fewer than it may have. */
export function partsOf({ counts, use, kinds, batchTokens, accumulates }: BudgetedStage, { savedActivations, microBatchTokens }: StageMemory, tokens = microBatchTokens): MemoryPart[] {
  const { bytesPerToken, layers } = kinds[savedActivations];
  const whole = !accumulates && microBatchTokens >= batchTokens;
  return memoryParts(counts, { ...use, microBatchTokens: tokens, savedBytesPerToken: bytesPerToken, lentBytes: whole ? lentBytes(layers, tokens) : 0 });
}

/** The choice within a limit; undefined where even the least does not fit. */
export function chooseMemory(stage: BudgetedStage, limitBytes: number, activationBudgetBytes = DEFAULT_ACTIVATION_BUDGET_BYTES): StageMemory | undefined {
  const { savedActivations: asked, batchTokens, rowTokens } = stage;
  if (asked !== 'auto') return largest(stage, asked, limitBytes, activationBudgetBytes);
  const linear = largest(stage, 'linear', limitBytes, activationBudgetBytes);
  const enough = Math.min(LEAST_LINEAR_TOKENS, batchTokens, mostTokens(stage, 'linear', activationBudgetBytes));
  if (linear !== undefined && linear.microBatchTokens >= Math.max(rowTokens, enough)) return linear;
  return largest(stage, 'layer', limitBytes, activationBudgetBytes) ?? linear;
}

/** The least that a stage could take: in micro-batches of a row, or with a batch in one piece. */
export function leastParts(stage: BudgetedStage, activationBudgetBytes = DEFAULT_ACTIVATION_BUDGET_BYTES): MemoryPart[] {
  const { savedActivations: asked, rowTokens, batchTokens } = stage;
  const kinds: readonly SavedActivations[] = asked === 'auto' ? ['layer', 'linear'] : [asked];
  const choices = kinds.flatMap((savedActivations) => [rowTokens, Math.min(batchTokens, mostTokens(stage, savedActivations, activationBudgetBytes))]
    .map((microBatchTokens) => partsOf(stage, { savedActivations, microBatchTokens })));
  return choices.reduce((least, parts) => (totalBytes(parts) < totalBytes(least) ? parts : least));
}

/** Choices for all stages of a job. Throws RESOURCE_EXHAUSTED / MEMORY_INSUFFICIENT with the least that would do and where it goes. */
export function chooseAll(stages: readonly BudgetedStage[], limitBytes: number, activationBudgetBytes?: number): StageMemory[] {
  const chosen = stages.map((stage) => chooseMemory(stage, limitBytes, activationBudgetBytes));
  if (chosen.every((one) => one !== undefined)) return chosen;
  const needs = stages.map((stage, index) => ({ index, stage, parts: leastParts(stage, activationBudgetBytes) })).sort((a, b) => totalBytes(b.parts) - totalBytes(a.parts));
  throw insufficient(needs[0]!, limitBytes);
}

/**
 * Refuses what can be known to fit in no case, without its rows: every stage as if it had one row of the shortest length. Throws as `chooseAll`.
 * `stages` are resolved, `config` is the model that they train.
 */
export function requireMemory(specification: TuningSpecification, stages: readonly ResolvedStage[], config: DecoderConfig, limitBytes: number): void {
  const shortest = padded(1);
  chooseAll(stages.map((stage) => {
    const labels = stage.objective.kind === 'classification' ? (stage.objective.labels?.length ?? LEAST_LABELS) : 0;
    const shapes = selectedShapes({ config, dropout: specification.stages[0]?.architecture?.dropout, stage, labels });
    return budgetedStage(shapes, specification, stage, { rows: 1, longestTokens: shortest, dataTokens: 0, labels });
  }), limitBytes);
}

function mostTokens({ kinds, rowTokens }: BudgetedStage, saved: SavedActivations, activationBudgetBytes: number): number {
  return Math.max(rowTokens, Math.min(kinds[saved].mostTokens, Math.floor(activationBudgetBytes / kinds[saved].bytesPerToken)));
}

/** The largest micro-batch that fits; undefined where one row does not. */
function largest(stage: BudgetedStage, savedActivations: SavedActivations, limitBytes: number, activationBudgetBytes: number): StageMemory | undefined {
  const fits = (microBatchTokens: number): boolean => totalBytes(partsOf(stage, { savedActivations, microBatchTokens })) <= limitBytes;
  let high = mostTokens(stage, savedActivations, activationBudgetBytes);
  if (fits(high)) return { savedActivations, microBatchTokens: high };
  // A batch in one piece may fit where smaller pieces do not: it lends activations the gradients' memory.
  let low = stage.batchTokens < high && fits(stage.batchTokens) ? stage.batchTokens : stage.rowTokens;
  if (!fits(low)) return undefined;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) low = middle;
    else high = middle;
  }
  return { savedActivations, microBatchTokens: low };
}

function insufficient({ index, stage, parts }: { readonly index: number; readonly stage: BudgetedStage; readonly parts: readonly MemoryPart[] }, limitBytes: number): LoricaError {
  const leastBytes = Math.ceil(totalBytes(parts));
  const where = parts.map(({ what, bytes }) => `${what} ${Math.ceil(bytes)}`).join(', ');
  const layer = stage.savedActivations === 'linear' ? 'leave saved_activations open, ' : '';
  return new LoricaError('RESOURCE_EXHAUSTED', 'MEMORY_INSUFFICIENT', `stage ${index} needs at least ${leastBytes} bytes of memory (${where}), and the job may take ${limitBytes}`, {
    hint: `Give at least ${Math.ceil(leastBytes / 2 ** 20)} MiB (memory_limit_bytes of the job, tuning-memory-bytes of the server), or take less: ${layer}LoRA, fewer layers, adafactor, base_weights INT8, a smaller max_length_tokens; RecommendTuning finds what fits.`,
    metadata: {
      stage: String(index), leastBytes: String(leastBytes), limitBytes: String(limitBytes),
      ...Object.fromEntries(parts.map(({ what, bytes }) => [`${what.replace(/ (.)/g, (_, letter: string) => letter.toUpperCase())}Bytes`, String(Math.ceil(bytes))])),
    },
  });
}
