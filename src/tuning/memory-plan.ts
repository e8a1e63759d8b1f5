/**
 * What a stage takes in memory, part by part, from shapes alone. What the process holds already (the server, serving weights, other jobs) is
 * not in it. Nothing here allocates.
 */
import { weightShapes, type DecoderConfig } from '../models/config.js';
import type { BaseWeightForm } from '../models/training-form-weights.js';
import { headRows } from './segment-size.js';
import type { TrainablePlan } from './selection.js';
import type { ResolvedStage } from './specification.js';

export interface MemoryPart {
  readonly what: 'frozen weights' | 'trained weights' | 'gradients' | 'optimizer' | 'activations' | 'workspace' | 'rows';
  readonly bytes: number;
}

export interface MemoryPlanInput {
  readonly config: DecoderConfig;
  readonly plan: TrainablePlan;
  /** Shapes of what is trained, LoRA and heads included. */
  readonly trained: ReadonlyMap<string, readonly number[]>;
  readonly stage: Pick<ResolvedStage, 'adafactor'>;
  readonly weights: BaseWeightForm;
  readonly int8Products: boolean;
  /** Padded tokens of the largest micro-batch and its longest row. */
  readonly microBatchTokens: number;
  readonly longestTokens: number;
  readonly savedBytesPerToken: number;
  /** Tokens of all rows. */
  readonly dataTokens: number;
}

/** Bytes of a value with its share of a scale for 32 of them. */
const BYTES_PER_WEIGHT: Readonly<Record<BaseWeightForm, number>> = { float32: 4, int8: 1 + 4 / 32, int4: 0.5 + 4 / 32 };
/** Integers and scales of the products that `int8Products` replaces: backward of all linear layers, forward of two of seven. */
const INT8_PRODUCTS_BYTES = 1.5;
/** Temporaries of a layer's backward run that are alive at once: matrices [M,F] and [M,C], and of attention [H,T,T] a row. */
const WIDE_TEMPORARIES = 5;
const NARROW_TEMPORARIES = 8;
const SCORE_TEMPORARIES = 3;
/** Logits, their exponentials and the difference that the gradient is made of. */
const LOGIT_TEMPORARIES = 3;
/** Inputs, targets and counts of a token. */
const BYTES_PER_DATA_TOKEN = 9;

const product = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

export function planMemory(input: MemoryPlanInput): MemoryPart[] {
  const { config, plan, trained, stage, microBatchTokens: tokens, longestTokens } = input;
  const trainedElements = [...trained.values()].reduce((sum, shape) => sum + product(shape), 0);
  let frozenBytes = 0;
  for (const [name, shape] of weightShapes(config)) {
    if (plan.tensors.has(name)) continue;
    const linear = /\.(self_attn|mlp)\..*\.weight$/.test(name);
    const bytes = linear ? BYTES_PER_WEIGHT[input.weights] + (input.int8Products ? INT8_PRODUCTS_BYTES : 0) : 4;
    frozenBytes += bytes * product(shape);
  }
  const { hiddenSize: c, heads, vocabSize } = config;
  const widest = Math.max(config.intermediateSize, ...(config.intermediateSizes ?? []));
  const layer = 4 * (tokens * (WIDE_TEMPORARIES * widest + NARROW_TEMPORARIES * c) + SCORE_TEMPORARIES * heads * tokens * longestTokens);
  const head = 4 * LOGIT_TEMPORARIES * headRows(vocabSize, c, 2) * vocabSize;
  return [
    { what: 'frozen weights', bytes: frozenBytes },
    { what: 'trained weights', bytes: 4 * trainedElements },
    { what: 'gradients', bytes: 4 * trainedElements },
    { what: 'optimizer', bytes: stage.adafactor === undefined ? 8 * trainedElements : adafactorBytes(trained) },
    { what: 'activations', bytes: tokens * input.savedBytesPerToken },
    { what: 'workspace', bytes: Math.max(layer, head) },
    { what: 'rows', bytes: BYTES_PER_DATA_TOKEN * input.dataTokens },
  ];
}

/** Means of rows and columns of a matrix, all of a vector. */
function adafactorBytes(trained: ReadonlyMap<string, readonly number[]>): number {
  return [...trained.values()].reduce((sum, shape) => sum + 4 * (shape.length === 2 ? shape[0]! + shape[1]! : product(shape)), 0);
}
