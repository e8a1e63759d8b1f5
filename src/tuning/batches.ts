/**
 * Rows of tokens, the order in which they are trained on, and the padded arrays of one micro-batch. Everything follows from
 * the rows and a random stream; nothing here touches a runtime.
 */
import type { RenderedExample } from '../models/prompt.js';
import type { Xoshiro128 } from '../common/random.js';
import { shuffle } from './random.js';

/** One row, ready to train on: position t is fed `inputs[t]` and should predict `targets[t]` (a token, or a label's index) where `counts[t]` is 1. */
export interface TokenRow {
  readonly inputs: Int32Array;
  readonly targets: Int32Array;
  readonly counts: Uint8Array;
  readonly lossTokens: number;
}

/** A row from tokens and the mask of those that count; undefined when no token counts. Positions after the last that counts are not fed. */
export function tokenRow({ tokens, lossMask }: RenderedExample): TokenRow | undefined {
  const last = lossMask.lastIndexOf(true);
  if (last < 1) return undefined;
  const counts = Uint8Array.from(lossMask.slice(1, last + 1), Number);
  return {
    inputs: Int32Array.from(tokens.slice(0, last)),
    targets: Int32Array.from(tokens.slice(1, last + 1)),
    counts,
    lossTokens: counts.reduce((sum, c) => sum + c, 0),
  };
}

/** Steps of one pass, each a list of micro-batches, each a list of row indices. */
export type EpochPlan = readonly (readonly (readonly number[])[])[];

/** Rows sorted by length together: long enough to save padding, short enough to keep batches random. */
const BUCKET_BATCHES = 16;

/** Optimizer steps of one pass over `rows` rows. */
export function stepsPerEpoch(rows: number, batchSize: number, accumulationSteps: number): number {
  return Math.ceil(Math.ceil(rows / batchSize) / accumulationSteps);
}

/**
 * The order of one pass: rows shuffled, sorted by length within windows of 16 micro-batches (so that a micro-batch holds rows of
 * like length), the micro-batches shuffled, then grouped into steps. Every row comes once; the last step may be smaller.
 */
export function planEpoch(lengths: readonly number[], batchSize: number, accumulationSteps: number, random: Xoshiro128): EpochPlan {
  const order = shuffle(lengths.map((_, i) => i), random);
  const batches: number[][] = [];
  const window = batchSize * BUCKET_BATCHES;
  for (let start = 0; start < order.length; start += window) {
    const bucket = order.slice(start, start + window).sort((a, b) => lengths[b]! - lengths[a]!);
    for (let i = 0; i < bucket.length; i += batchSize) batches.push(bucket.slice(i, i + batchSize));
  }
  shuffle(batches, random);
  const steps: number[][][] = [];
  for (let i = 0; i < batches.length; i += accumulationSteps) steps.push(batches.slice(i, i + accumulationSteps));
  return steps;
}

/** Lengths are padded to a multiple of this, so that few shapes occur. */
const LENGTH_MULTIPLE = 8;

export function padded(length: number): number {
  return Math.ceil(length / LENGTH_MULTIPLE) * LENGTH_MULTIPLE;
}

export interface MicroBatch {
  /** B and T. */
  readonly rows: number;
  readonly length: number;
  /** [B,T], right-padded with 0: causal attention keeps padding from reaching real tokens. */
  readonly tokens: BigInt64Array;
  /** Flat positions b·T + t that count, ascending, and the token that each should predict. */
  readonly lossPositions: BigInt64Array;
  readonly lossTargets: BigInt64Array;
  /** Tokens fed, padding not counted. */
  readonly fedTokens: number;
  /** Where each of the rows lies, in the order in which they were given: flat position b·T + t and length. */
  readonly places: readonly Place[];
}

export interface Place {
  readonly start: number;
  readonly length: number;
}

/** Lays rows out as one micro-batch, a sequence a row. */
export function layOut(rows: readonly TokenRow[]): MicroBatch {
  const length = padded(Math.max(...rows.map((row) => row.inputs.length)));
  return layOutAt(rows, rows.map((row, b) => ({ start: b * length, length: row.inputs.length })), rows.length, length);
}

/**
 * Lays rows out as one micro-batch whose rows hold several sequences one after another (first fit, longest first), as many as fit into
 * the length of the longest. Sequences must not see each other: attention needs `places`.
 */
export function pack(rows: readonly TokenRow[]): MicroBatch {
  const longest = padded(Math.max(...rows.map((row) => row.inputs.length)));
  const used: number[] = [];
  const bins: { bin: number; start: number; length: number }[] = [];
  const order = rows.map((_, i) => i).sort((a, b) => rows[b]!.inputs.length - rows[a]!.inputs.length);
  for (const i of order) {
    const size = rows[i]!.inputs.length;
    const found = used.findIndex((taken) => taken + size <= longest);
    const bin = found === -1 ? used.push(0) - 1 : found;
    bins[i] = { bin, start: used[bin]!, length: size };
    used[bin]! += size;
  }
  const length = padded(Math.max(...used));
  return layOutAt(rows, bins.map(({ bin, start, length: size }) => ({ start: bin * length + start, length: size })), used.length, length);
}

function layOutAt(rows: readonly TokenRow[], places: readonly Place[], rowCount: number, length: number): MicroBatch {
  const tokens = new BigInt64Array(rowCount * length);
  const lossCount = rows.reduce((sum, row) => sum + row.lossTokens, 0);
  const lossPositions = new BigInt64Array(lossCount);
  const lossTargets = new BigInt64Array(lossCount);
  let next = 0;
  const inOrder = rows.map((row, i) => ({ row, start: places[i]!.start })).sort((a, b) => a.start - b.start);
  for (const { row, start } of inOrder) {
    row.inputs.forEach((token, t) => {
      tokens[start + t] = BigInt(token);
      if (row.counts[t] !== 1) return;
      lossPositions[next] = BigInt(start + t);
      lossTargets[next] = BigInt(row.targets[t]!);
      next += 1;
    });
  }
  return { rows: rowCount, length, tokens, lossPositions, lossTargets, fedTokens: rows.reduce((sum, row) => sum + row.inputs.length, 0), places };
}

/**
 * Micro-batches of at most `maxTokens` padded tokens (at least one row each), in the given order. Gradients are normalized by
 * tokens, so that cutting a micro-batch changes memory and rounding, never the step.
 */
export function cutByTokens(batches: readonly (readonly number[])[], lengths: readonly number[], maxTokens: number): number[][] {
  const result: number[][] = [];
  for (const batch of batches) {
    let current: number[] = [];
    let longest = 0;
    for (const row of batch) {
      const length = Math.max(longest, padded(lengths[row]!));
      if (current.length > 0 && (current.length + 1) * length > maxTokens) {
        result.push(current);
        current = [];
        longest = 0;
      }
      current.push(row);
      longest = Math.max(longest, padded(lengths[row]!));
    }
    if (current.length > 0) result.push(current);
  }
  return result;
}

/** Whether `cutByTokens` leaves every step of `batchSize` rows and one batch whole, whichever rows it gets. */
export function neverCut(batchSize: number, lengths: readonly number[], maxTokens: number): boolean {
  return Math.min(batchSize, lengths.length) * padded(lengths.reduce((most, length) => Math.max(most, length), 1)) <= maxTokens;
}
