/**
 * What a specification takes in memory and time, from shapes alone, so that recommendations can weigh many of them. Bytes follow what the
 * trainer allocates (memory-plan.ts). Time is rough, operations at a measured rate: only a measurement on the machine says more. Nothing is read or run.
 */
import { feedForwardSize, weightShapes, type DecoderConfig } from '../models/config.js';
import { padded } from './batches.js';
import { startingConfig } from './edit-model.js';
import { memoryParts } from './memory-plan.js';
import { layerOf, lowestTrained } from './model-slice.js';
import { layerTokens } from './segment-size.js';
import { selectTrainable } from './selection.js';
import { resolveStage, type ResolvedStage, type SavedActivations, type TuningSpecification } from './specification.js';
import { DEFAULT_ACTIVATION_BUDGET_BYTES } from './trainer.js';
import { parameterShapes, shapesWithHead } from './working-model.js';

/** What is known of the rows that all stages train on. */
export interface RowFigures {
  readonly rows: number;
  /** Tokens of a row: mean, and of the longest. Of a preference row those of both answers. */
  readonly meanTokens: number;
  readonly longestTokens: number;
  readonly labels: number;
}

export interface TuningCost {
  /** Of the stage that takes most. What the process holds already is not in it. */
  readonly memoryBytes: number;
  readonly seconds: number;
  /** Of the stage that trains most. */
  readonly trainableParameters: number;
}

/** LoRA of SmolLM2-135M at 4 x 256 tokens: 239 to 257 tokens/s of 625 MFLOP on two threads (decision 0008). */
const OPERATIONS_PER_SECOND_AND_THREAD = 75e9;
/** What a token costs beside products: the embedded base trains 4,400 to 5,300 tokens/s. */
const SECONDS_PER_TOKEN = 2e-4;
/** The share of their time that products in integers leave (docs/performance.md: 1.25 to 1.35 times the speed). */
const INT8_PRODUCTS_TIME = 1 / 1.25;

const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

/** For specifications that `checkTuning` takes. */
export function tuningCost(specification: TuningSpecification, base: DecoderConfig, figures: RowFigures, threads: number): TuningCost {
  const { architecture } = specification.stages[0]!;
  const config = startingConfig(specification.stages[0]!, base, 'specification.stages[0]');
  const costs = specification.stages.map((one, i) => {
    const stage = resolveStage(one, config.maxPositionTokens, `specification.stages[${i}]`);
    return stageCost(specification, stageShapes(base, { config, architecture, stage, labels: figures.labels }), stage, figures, threads);
  });
  return {
    memoryBytes: Math.max(...costs.map(({ memoryBytes }) => memoryBytes)),
    seconds: costs.reduce((sum, { seconds }) => sum + seconds, 0),
    trainableParameters: Math.max(...costs.map(({ trainableParameters }) => trainableParameters)),
  };
}

/** What a selection means on a model, whatever the rows. */
interface StageShapes {
  readonly config: DecoderConfig;
  /** Values that are trained. */
  readonly elements: number;
  readonly lora: boolean;
  /** Frozen weights of linear layers, and all others. */
  readonly frozenLinear: number;
  readonly frozenOther: number;
  /** Weights of all linear layers, and of those that a backward pass goes through. */
  readonly products: number;
  readonly backwardProducts: number;
  readonly outputs: number;
  /** Values of a token that are kept in the layers with a backward pass, by what is saved. */
  readonly saved: Readonly<Record<SavedActivations, number>>;
  /** Padded tokens of a micro-batch at most, by what is saved. */
  readonly mostTokens: Readonly<Record<SavedActivations, number>>;
}

/** Of models that are in use; a model has as many entries as there are selections that recommendations hold. */
const known = new WeakMap<DecoderConfig, Map<string, StageShapes>>();

interface ShapeInput {
  readonly config: DecoderConfig;
  readonly architecture: TuningSpecification['stages'][number]['architecture'];
  readonly stage: ResolvedStage;
  readonly labels: number;
}

function stageShapes(base: DecoderConfig, { config, architecture, stage, labels }: ShapeInput): StageShapes {
  const classification = stage.objective.kind === 'classification';
  const key = JSON.stringify([architecture, stage.trainable, classification ? labels : 0]);
  const ofBase = known.get(base) ?? new Map<string, StageShapes>();
  known.set(base, ofBase);
  const earlier = ofBase.get(key);
  if (earlier !== undefined) return earlier;
  const plan = selectTrainable(config, stage.trainable, 'trainable', classification);
  const trained = parameterShapes(plan, shapesWithHead(config, classification ? labels : 0));
  const lowest = lowestTrained(trained.keys(), config.layers);
  let [frozenLinear, frozenOther, products, backwardProducts] = [0, 0, 0, 0];
  for (const [name, shape] of weightShapes(config)) {
    const layer = layerOf(name);
    const linear = layer !== undefined && shape.length === 2;
    if (!plan.tensors.has(name) && linear) frozenLinear += count(shape);
    if (!plan.tensors.has(name) && !linear) frozenOther += count(shape);
    if (linear) products += count(shape);
    if (linear && layer >= lowest) backwardProducts += count(shape);
  }
  const shapes = {
    config, lora: plan.lora.size > 0, frozenLinear, frozenOther, products, backwardProducts,
    elements: [...trained.values()].reduce((sum, shape) => sum + count(shape), 0),
    outputs: classification ? labels : config.vocabSize,
    saved: { linear: savedWidth(config, trained, lowest, 'linear'), layer: savedWidth(config, trained, lowest, 'layer') },
    mostTokens: { linear: layerTokens(config, trained, false), layer: layerTokens(config, trained, true) },
  };
  ofBase.set(key, shapes);
  return shapes;
}

function stageCost({ baseWeights = 'float32', int8Products = false }: TuningSpecification, shapes: StageShapes, stage: ResolvedStage, figures: RowFigures, threads: number): TuningCost {
  const { config, elements, outputs } = shapes;
  const length = Math.min(figures.longestTokens, stage.maxLengthTokens);
  const sequences = stage.objective.kind === 'preference' ? 2 : 1;
  const longest = padded(Math.max(1, Math.ceil(length / sequences)));
  const saved = 4 * shapes.saved[stage.savedActivations];
  const mostTokens = Math.max(longest, Math.min(shapes.mostTokens[stage.savedActivations], Math.floor(DEFAULT_ACTIVATION_BUDGET_BYTES / saved)));
  const microBatch = Math.min(mostTokens, stage.batchSize * sequences * longest);
  const parts = memoryParts(
    { frozenLinear: shapes.frozenLinear, frozenOther: shapes.frozenOther, trained: elements, moments: stage.adafactor === undefined ? 2 * elements : 0 },
    { config, outputs, weights: baseWeights, int8Products, microBatchTokens: microBatch, longestTokens: longest, savedBytesPerToken: saved, dataTokens: figures.rows * figures.meanTokens },
  );
  const memoryBytes = Math.ceil(parts.reduce((sum, { bytes }) => sum + bytes, 0));

  const rowTokens = Math.min(figures.meanTokens, sequences * stage.maxLengthTokens);
  const stepRows = stage.batchSize * stage.accumulationSteps;
  const rows = stage.length.kind === 'steps' ? stage.length.steps * stepRows : stage.length.epochs * figures.rows;
  const backward = shapes.backwardProducts * (stage.savedActivations === 'layer' ? 2 : 1);
  const productsPerToken = shapes.products + backward + 2 * outputs * config.hiddenSize + (shapes.lora ? 3 : 1) * elements;
  const secondsPerToken = (2 * productsPerToken * (int8Products ? INT8_PRODUCTS_TIME : 1)) / (OPERATIONS_PER_SECOND_AND_THREAD * threads) + SECONDS_PER_TOKEN;
  return { memoryBytes, seconds: rows * rowTokens * secondsPerToken, trainableParameters: elements };
}

/** Values that one token keeps from forward to backward in the layers from `lowest` up, as src/models/training-form.ts hands it on. */
function savedWidth(config: DecoderConfig, trained: ReadonlyMap<string, readonly number[]>, lowest: number, savedActivations: SavedActivations): number {
  const { hiddenSize: c, headDim, heads, kvHeads } = config;
  const lora = new Array<number>(config.layers).fill(0);
  for (const [name, shape] of trained) if (name.endsWith('.lora_A.weight')) lora[layerOf(name)!]! += shape[0]!;
  let width = 3 * c;
  for (let layer = Math.max(0, lowest); layer < config.layers; layer++) {
    width += c;
    if (savedActivations === 'linear') width += c + 2 * headDim * (heads + kvHeads) + 2 * feedForwardSize(config, layer) + lora[layer]! + 2;
  }
  return width;
}
