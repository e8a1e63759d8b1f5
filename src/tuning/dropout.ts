/**
 * LoRA dropout: masks over the inputs of the low-rank paths, drawn on the host for one micro-batch and used by its forward and its
 * backward pass. The mask of a row and a module is a function of the job's seed, the stage, the step, the row's index in the data and the
 * module (`dropoutStream`), never of how rows are batched or cut. Elements [t, i] are taken in order, two from every 32-bit number, low
 * half first; one is dropped where its 16 bits are below round(rate · 65536). Kept ones are multiplied by 65536 / (65536 − that).
 */
import { labelledStream } from '../common/random-streams.js';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Xoshiro128 } from '../common/random.js';
import { weightShapes, type DecoderConfig } from '../models/config.js';
import type { Runtime, Tensor } from '../runtime/index.js';
import type { MicroBatch } from './batches.js';

/** The stream of a row (its number among those of the micro-batch) and a full module name. */
export type RandomOfRow = (row: number, module: string) => Xoshiro128;

export function dropoutStream(seed: number, stage: number, step: number, row: number, module: string): Xoshiro128 {
  return labelledStream(seed, `dropout/${stage}/${step}/${row}/${module}`);
}

const HALVES = 65536;

interface Mask {
  readonly width: number;
  readonly threshold: number;
  tensor: Tensor | undefined;
}

export class DropoutMasks {
  private readonly masks = new Map<string, Mask>();

  /** `rates`: share of inputs to drop, at least 0 and below 1, by full module name. */
  constructor(
    private readonly runtime: Runtime,
    config: DecoderConfig,
    rates: ReadonlyMap<string, number>,
  ) {
    const shapes = weightShapes(config);
    for (const [module, rate] of rates) {
      const threshold = Math.round(rate * HALVES);
      if (threshold > 0) this.masks.set(module, { width: shapes.get(`${module}.weight`)![1]!, threshold, tensor: undefined });
    }
  }

  /** What kept inputs of a module are multiplied by; undefined where nothing is dropped. */
  scale(module: string): number | undefined {
    const mask = this.masks.get(module);
    return mask === undefined ? undefined : HALVES / (HALVES - mask.threshold);
  }

  /** uint8 [rows · length, in], as last drawn. */
  get(module: string): Tensor | undefined {
    return this.masks.get(module)?.tensor;
  }

  get bytesPerToken(): number {
    return [...this.masks.values()].reduce((sum, { width }) => sum + width, 0);
  }

  /** Draws every mask for a micro-batch, sequence by sequence; lets the event loop run between modules. */
  async draw({ rows, length, places }: Pick<MicroBatch, 'rows' | 'length' | 'places'>, randomOf: RandomOfRow | undefined): Promise<void> {
    for (const [module, mask] of this.masks) {
      if (randomOf === undefined) throw new Error(`${module} has dropout, and no random numbers were given`);
      if (mask.tensor?.shape[0] !== rows * length) {
        mask.tensor?.dispose();
        mask.tensor = this.runtime.empty('uint8', [rows * length, mask.width]);
      }
      const data = mask.tensor.data as Uint8Array;
      for (const [row, place] of places.entries()) {
        fillMask(data.subarray(place.start * mask.width, (place.start + place.length) * mask.width), mask.threshold, randomOf(row, module));
      }
      await nextTurn();
    }
  }

  dispose(): void {
    for (const { tensor } of this.masks.values()) tensor?.dispose();
    this.masks.clear();
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
