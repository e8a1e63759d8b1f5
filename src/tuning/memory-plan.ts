/**
 * What a stage takes in memory, part by part, from shapes alone. What the process holds already (the server, serving weights, other jobs) is
 * not in it. Nothing here allocates.
 */
import { feedForwardSize, weightShapes, type DecoderConfig } from '../models/config.js';
import type { BaseWeightForm } from '../models/training-form-weights.js';
import { layerOf, lowestTrained } from './model-slice.js';
import { headRows, queryBlocks } from './segment-size.js';
import type { TrainablePlan } from './selection.js';
import type { ResolvedStage, SavedActivations } from './specification.js';

export interface MemoryPart {
  readonly what: 'frozen weights' | 'trained weights' | 'gradients' | 'optimizer' | 'activations' | 'workspace' | 'rows';
  readonly bytes: number;
}

/** How a stage runs. */
export interface MemoryUse {
  readonly config: DecoderConfig;
  /** Outputs of the head: the vocabulary, or labels. */
  readonly outputs: number;
  readonly weights: BaseWeightForm;
  readonly int8Products: boolean;
  /** Padded tokens of the largest micro-batch and its longest row. */
  readonly microBatchTokens: number;
  readonly longestTokens: number;
  readonly savedBytesPerToken: number;
  /** Of what is saved, bytes that lie in the memory of gradients (lent-memory.ts). */
  readonly lentBytes: number;
  /** Tokens of all rows. */
  readonly dataTokens: number;
}

/** How much a stage holds, in values. */
export interface MemoryCounts {
  /** Frozen weights of linear layers, and all others. */
  readonly frozenLinear: number;
  readonly frozenOther: number;
  readonly trained: number;
  /** What the optimizer remembers. */
  readonly moments: number;
}

/** What a stage trains, by shapes. */
export interface StageShapes {
  readonly config: DecoderConfig;
  readonly plan: TrainablePlan;
  /** Shapes of what is trained, LoRA and heads included. */
  readonly trained: ReadonlyMap<string, readonly number[]>;
  readonly stage: Pick<ResolvedStage, 'adafactor'>;
}

/** Bytes of a value with its share of a scale for 32 of them. */
const BYTES_PER_WEIGHT: Readonly<Record<BaseWeightForm, number>> = { float32: 4, int8: 1 + 4 / 32, int4: 0.5 + 4 / 32 };
/** Integers and scales of the products that `int8Products` replaces: backward of all linear layers, forward of two of seven. */
const INT8_PRODUCTS_BYTES = 1.5;
/** Temporaries of a layer's backward run that are alive at once: matrices [M,F] and [M,C], and of attention [H,T,T] a row, as far as it is computed. */
const WIDE_TEMPORARIES = 5;
const NARROW_TEMPORARIES = 8;
const SCORE_TEMPORARIES = 3;
/** Logits, and the differences that gradients are made of. */
const LOGIT_TEMPORARIES = 2;
/** Inputs, targets and counts of a token. */
const BYTES_PER_DATA_TOKEN = 9;

const product = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

export const totalBytes = (parts: readonly MemoryPart[]): number => parts.reduce((sum, { bytes }) => sum + bytes, 0);

export function memoryCounts({ config, plan, trained, stage }: StageShapes): MemoryCounts {
  const elements = [...trained.values()].reduce((sum, shape) => sum + product(shape), 0);
  let [frozenLinear, frozenOther] = [0, 0];
  for (const [name, shape] of weightShapes(config)) {
    if (plan.tensors.has(name)) continue;
    if (name.startsWith('model.layers.') && shape.length === 2) frozenLinear += product(shape);
    else frozenOther += product(shape);
  }
  return { frozenLinear, frozenOther, trained: elements, moments: stage.adafactor === undefined ? 2 * elements : adafactorMoments(trained) };
}

/** The parts of a stage's memory from counts of values. */
export function memoryParts({ frozenLinear, frozenOther, trained, moments }: MemoryCounts, use: MemoryUse): MemoryPart[] {
  const { config, outputs, microBatchTokens: tokens, longestTokens } = use;
  const { hiddenSize: c, heads } = config;
  const widest = Math.max(config.intermediateSize, ...(config.intermediateSizes ?? []));
  const seenKeys = (longestTokens * (1 + 1 / queryBlocks(longestTokens))) / 2;
  const layer = 4 * tokens * (WIDE_TEMPORARIES * widest + NARROW_TEMPORARIES * c + SCORE_TEMPORARIES * heads * seenKeys);
  const head = 4 * LOGIT_TEMPORARIES * Math.min(tokens, headRows(outputs, c)) * outputs;
  const linearBytes = BYTES_PER_WEIGHT[use.weights] + (use.int8Products ? INT8_PRODUCTS_BYTES : 0);
  return [
    { what: 'frozen weights', bytes: linearBytes * frozenLinear + 4 * frozenOther },
    { what: 'trained weights', bytes: 4 * trained },
    { what: 'gradients', bytes: 4 * trained },
    { what: 'optimizer', bytes: 4 * moments },
    { what: 'activations', bytes: tokens * use.savedBytesPerToken - use.lentBytes },
    { what: 'workspace', bytes: Math.max(layer, head) },
    { what: 'rows', bytes: BYTES_PER_DATA_TOKEN * use.dataTokens },
  ];
}

/** What a layer keeps and what its backward run writes. */
export interface LayerBytes {
  /** Bytes that one token keeps from forward to backward, the layer's input included; masks aside. */
  readonly perToken: number;
  /** Of these, the widest matrix. */
  readonly widestPerToken: number;
  readonly gradients: number;
}

/** Of the layers from the lowest trained one up, as src/models/training-form.ts hands them on. */
export function layerBytes({ config, trained }: Pick<StageShapes, 'config' | 'trained'>, saved: SavedActivations): LayerBytes[] {
  const { hiddenSize: c, headDim, heads, kvHeads } = config;
  const ranks = new Array<number>(config.layers).fill(0);
  const gradients = new Array<number>(config.layers).fill(0);
  for (const [name, shape] of trained) {
    const layer = layerOf(name);
    if (layer === undefined) continue;
    if (name.endsWith('.lora_A.weight')) ranks[layer]! += shape[0]!;
    gradients[layer]! += product(shape);
  }
  const first = Math.max(0, lowestTrained(trained.keys(), config.layers));
  return gradients.slice(first).map((elements, i) => {
    const inner = feedForwardSize(config, first + i);
    const linear = saved === 'linear' ? c + 2 * headDim * (heads + kvHeads) + 2 * inner + ranks[first + i]! + 2 : 0;
    return { perToken: 4 * (c + linear), widestPerToken: 4 * (saved === 'linear' ? Math.max(c, inner) : c), gradients: 4 * elements };
  });
}

/** Bytes that one token keeps from forward to backward, masks aside. */
export function savedBytesPerToken({ hiddenSize }: DecoderConfig, layers: readonly LayerBytes[]): number {
  return layers.reduce((sum, { perToken }) => sum + perToken, 12 * hiddenSize);
}

/** How much of `tokens` tokens' activations finds a place in the gradients of the layers below; narrow stretches that may be left aside. */
export function lentBytes(layers: readonly LayerBytes[], tokens: number): number {
  let [free, lent] = [0, 0];
  for (const { perToken, widestPerToken, gradients } of layers) {
    const taken = free < tokens * widestPerToken ? 0 : Math.min(free, tokens * perToken);
    lent += taken;
    free += gradients - taken;
  }
  return lent;
}

/** Means of rows and columns of a matrix, all of a vector. */
export function adafactorMoments(trained: ReadonlyMap<string, readonly number[]>): number {
  return [...trained.values()].reduce((sum, shape) => sum + (shape.length === 2 ? shape[0]! + shape[1]! : product(shape)), 0);
}
