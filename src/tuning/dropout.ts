/**
 * Dropout masks, drawn on the host for one micro-batch and used by its forward and its backward pass: over the inputs of LoRA's low-rank
 * paths, attention's probabilities, what sublayers add to the stream, and embeddings. The mask of a row and a place is a function of the
 * job's seed, the stage, the step, the row's index in the data and the place (`dropoutStream`), never of how rows are batched, packed or
 * cut. Elements are taken in order, two from every 32-bit number, low half first; one is dropped where its 16 bits are below
 * round(rate · 65536). Kept ones are multiplied by 65536 / (65536 − that).
 */
import { labelledStream } from '../common/random-streams.js';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Xoshiro128 } from '../common/random.js';
import type { DropoutRates } from '../models/architecture.js';
import { weightShapes, type DecoderConfig } from '../models/config.js';
import { layerPrefix } from '../models/decoder.js';
import type { Runtime, Tensor } from '../runtime/index.js';
import type { MicroBatch, Place } from './batches.js';

/** The stream of a row (its number among those of the micro-batch) and a place: a full module name with LoRA, or one of those below. */
export type RandomOfRow = (row: number, place: string) => Xoshiro128;

export function dropoutStream(seed: number, stage: number, step: number, row: number, place: string): Xoshiro128 {
  return labelledStream(seed, `dropout/${stage}/${step}/${row}/${place}`);
}

/** Places of dropout beside LoRA's modules. */
export const EMBEDDING_PLACE = 'embedding';
export const probabilitiesPlace = (layer: number): string => `${layerPrefix(layer)}.self_attn.probabilities`;
export const residualPlace = (layer: number, sublayer: 'self_attn' | 'mlp'): string => `${layerPrefix(layer)}.${sublayer}.residual`;

/** A model's own dropout as rates by place. */
export function modelDropout(config: DecoderConfig, { attention = 0, residual = 0, embedding = 0 }: DropoutRates): Map<string, number> {
  const rates = new Map<string, number>([[EMBEDDING_PLACE, embedding]]);
  for (let layer = 0; layer < config.layers; layer++) {
    rates.set(probabilitiesPlace(layer), attention).set(residualPlace(layer, 'self_attn'), residual).set(residualPlace(layer, 'mlp'), residual);
  }
  return new Map([...rates].filter(([, rate]) => rate > 0));
}

const HALVES = 65536;

interface Mask {
  /** Elements of a token's row, or heads whose probabilities [T,T] are masked. */
  readonly of: { readonly width: number } | { readonly heads: number };
  readonly threshold: number;
  tensor: Tensor | undefined;
}

/** Elements of a token's row, or heads whose probabilities [T,T] are masked. */
function maskedAt(place: string, config: DecoderConfig, shapes: ReadonlyMap<string, readonly number[]>): Mask['of'] {
  return place.endsWith('.probabilities') ? { heads: config.heads } : { width: shapes.get(`${place}.weight`)?.[1] ?? config.hiddenSize };
}

const bytesOf = (of: Mask['of'], length: number): number => ('width' in of ? of.width : of.heads * length);

/** What one token's masks take, of a micro-batch whose rows have `length` tokens. `rates` by place. */
export function maskBytesPerToken(config: DecoderConfig, rates: ReadonlyMap<string, number>, length: number): number {
  const places = [...rates].filter(([, rate]) => thresholdOf(rate) > 0);
  if (places.length === 0) return 0;
  const shapes = weightShapes(config);
  return places.reduce((sum, [place]) => sum + bytesOf(maskedAt(place, config, shapes), length), 0);
}

const thresholdOf = (rate: number): number => Math.round(rate * HALVES);

export class DropoutMasks {
  private readonly masks = new Map<string, Mask>();

  /** `rates`: share to drop, at least 0 and below 1, by place. */
  constructor(
    private readonly runtime: Runtime,
    private readonly config: DecoderConfig,
    rates: ReadonlyMap<string, number>,
  ) {
    const shapes = weightShapes(config);
    for (const [place, rate] of rates) {
      const threshold = thresholdOf(rate);
      if (threshold > 0) this.masks.set(place, { of: maskedAt(place, config, shapes), threshold, tensor: undefined });
    }
  }

  /** What kept values of a place are multiplied by; undefined where nothing is dropped. */
  scale(place: string): number | undefined {
    const mask = this.masks.get(place);
    return mask === undefined ? undefined : HALVES / (HALVES - mask.threshold);
  }

  /** uint8 [rows · length, width], or [rows, KV, (H/KV) · length, length] of probabilities, as last drawn. */
  get(place: string): Tensor | undefined {
    return this.masks.get(place)?.tensor;
  }

  /** Of a micro-batch whose rows are this long. */
  bytesPerToken(length: number): number {
    return [...this.masks.values()].reduce((sum, { of }) => sum + bytesOf(of, length), 0);
  }

  /** Draws every mask for a micro-batch, sequence by sequence; lets the event loop run between places. */
  async draw({ rows, length, places }: Pick<MicroBatch, 'rows' | 'length' | 'places'>, randomOf: RandomOfRow | undefined): Promise<void> {
    const { heads, kvHeads } = this.config;
    for (const [name, mask] of this.masks) {
      if (randomOf === undefined) throw new Error(`${name} has dropout, and no random numbers were given`);
      const { of, threshold } = mask;
      const shape = 'width' in of ? [rows * length, of.width] : [rows, kvHeads, (heads / kvHeads) * length, length];
      if (mask.tensor?.shape.join() !== shape.join()) {
        mask.tensor?.dispose();
        mask.tensor = this.runtime.empty('uint8', shape);
      }
      const data = mask.tensor.data as Uint8Array;
      for (const [row, place] of places.entries()) {
        if ('width' in of) fillMask(data.subarray(place.start * of.width, (place.start + place.length) * of.width), threshold, randomOf(row, name));
        else fillProbabilities(data, of.heads, length, place, threshold, randomOf(row, name));
      }
      await nextTurn();
    }
  }

  dispose(): void {
    for (const { tensor } of this.masks.values()) tensor?.dispose();
    this.masks.clear();
  }
}

/** The probabilities [H,T,T] of one sequence inside its row's [H,length,length]: for every head and token, those of the tokens up to it. */
function fillProbabilities(data: Uint8Array, heads: number, length: number, { start, length: size }: Place, threshold: number, random: Xoshiro128): void {
  const first = start % length;
  const row = Math.floor(start / length) * heads;
  for (let head = 0; head < heads; head++) {
    for (let t = 0; t < size; t++) {
      const at = ((row + head) * length + first + t) * length + first;
      fillMask(data.subarray(at, at + t + 1), threshold, random);
    }
  }
}

/** 1 where 16 random bits reach the threshold, else 0. */
export function fillMask(mask: Uint8Array, threshold: number, random: Xoshiro128): void {
  for (let i = 0; i < mask.length; i += 2) {
    const word = random.nextUint32();
    mask[i] = (word & 0xffff) >= threshold ? 1 : 0;
    if (i + 1 < mask.length) mask[i + 1] = word >>> 16 >= threshold ? 1 : 0;
  }
}
