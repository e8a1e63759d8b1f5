/**
 * What a specification takes in memory and time, from shapes alone, so that recommendations can weigh many of them. Bytes follow what the
 * trainer allocates (memory-plan.ts). Time is rough, operations at a measured rate: only a measurement on the machine says more. Nothing is read or run.
 */
import { weightShapes, type DecoderConfig } from '../models/config.js';
import { padded } from './batches.js';
import { startingConfig } from './edit-model.js';
import { budgetedStage, chooseMemory, partsOf, selectedShapes, type SelectedShapes } from './memory-budget.js';
import { totalBytes } from './memory-plan.js';
import { layerOf, lowestTrained } from './model-slice.js';
import { selectTrainable } from './selection.js';
import { resolveStage, type ResolvedStage, type TuningSpecification } from './specification.js';

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
  readonly selected: SelectedShapes;
  readonly lora: boolean;
  /** Weights of all linear layers, and of those that a backward pass goes through. */
  readonly products: number;
  readonly backwardProducts: number;
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
  const key = JSON.stringify([architecture, stage.trainable, stage.objective.kind === 'classification' ? labels : 0]);
  const ofBase = known.get(base) ?? new Map<string, StageShapes>();
  known.set(base, ofBase);
  const earlier = ofBase.get(key);
  if (earlier !== undefined) return earlier;
  const plan = selectTrainable(config, stage.trainable, 'trainable', stage.objective.kind === 'classification');
  const lowest = lowestTrained([...plan.tensors, ...plan.lora.keys()], config.layers);
  let [products, backwardProducts] = [0, 0];
  for (const [name, shape] of weightShapes(config)) {
    const layer = layerOf(name);
    if (layer === undefined || shape.length !== 2) continue;
    products += count(shape);
    if (layer >= lowest) backwardProducts += count(shape);
  }
  const shapes = { selected: selectedShapes({ config, dropout: architecture?.dropout, stage, labels }), lora: plan.lora.size > 0, products, backwardProducts };
  ofBase.set(key, shapes);
  return shapes;
}

function stageCost(specification: TuningSpecification, shapes: StageShapes, stage: ResolvedStage, figures: RowFigures, threads: number): TuningCost {
  const { int8Products = false } = specification;
  const length = Math.min(figures.longestTokens, stage.maxLengthTokens);
  const sequences = stage.objective.kind === 'preference' ? 2 : 1;
  const longestTokens = padded(Math.max(1, Math.ceil(length / sequences)));
  const sizes = { rows: figures.rows, longestTokens, dataTokens: figures.rows * figures.meanTokens, labels: figures.labels };
  const budgeted = budgetedStage(shapes.selected, specification, stage, sizes);
  const { use: { config, outputs }, counts: { trained: elements } } = budgeted;
  const memory = chooseMemory(budgeted, Infinity)!;
  const memoryBytes = Math.ceil(totalBytes(partsOf(budgeted, { ...memory, microBatchTokens: Math.min(memory.microBatchTokens, budgeted.batchTokens) })));

  const rowTokens = Math.min(figures.meanTokens, sequences * stage.maxLengthTokens);
  const stepRows = stage.batchSize * stage.accumulationSteps;
  const rows = stage.length.kind === 'steps' ? stage.length.steps * stepRows : stage.length.epochs * figures.rows;
  const backward = shapes.backwardProducts * (memory.savedActivations === 'layer' ? 2 : 1);
  const productsPerToken = shapes.products + backward + 2 * outputs * config.hiddenSize + (shapes.lora ? 3 : 1) * elements;
  const secondsPerToken = (2 * productsPerToken * (int8Products ? INT8_PRODUCTS_TIME : 1)) / (OPERATIONS_PER_SECOND_AND_THREAD * threads) + SECONDS_PER_TOKEN;
  return { memoryBytes, seconds: rows * rowTokens * secondsPerToken, trainableParameters: elements };
}
