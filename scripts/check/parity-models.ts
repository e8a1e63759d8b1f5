/** What the parity checks compute with: one pass of a serving form over a text, and what is said of its logits. */
import { ServingModel } from '../../src/engine/serving-model.js';
import { ServingWeights } from '../../src/engine/serving-weights.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import type { ServingForm } from '../../src/models/serving-form-weights.js';
import type { Runtime } from '../../src/runtime/index.js';

/** Logits [T,V] of a text of T tokens, from an empty past. */
export type Score = (tokens: readonly number[]) => Promise<Float32Array>;

export interface Scored<T> {
  readonly result: T;
  /** Bytes of the weights in this form. */
  readonly weightBytes: number;
}

/** Loads a checkpoint in a serving form for texts of at most `contextTokens`, and frees it when `use` is done. */
export async function withForm<T>(
  runtime: Runtime, checkpoint: Checkpoint, form: ServingForm, contextTokens: number, use: (score: Score) => Promise<T>,
): Promise<Scored<T>> {
  const { config } = checkpoint;
  const weights = await ServingWeights.load(runtime, checkpoint, form, contextTokens);
  const model = new ServingModel({ runtime, checkpoint, config, weights, form, contextTokens });
  try {
    return { result: await use((tokens) => score(model, tokens)), weightBytes: weights.ownBytes };
  } finally {
    model.dispose();
  }
}

async function score(model: ServingModel, tokens: readonly number[]): Promise<Float32Array> {
  const { runtime } = model;
  const lane = { lane: 'generation' } as const;
  const inputs = {
    tokens: runtime.from(tokens, 'int64', [1, tokens.length]),
    last_index: runtime.from([tokens.length - 1], 'int32', [1]),
    longest: runtime.from([tokens.length], 'int32', []),
    rows: runtime.from(tokens.map((_, i) => i), 'int64', [tokens.length]),
  };
  const { hidden } = await (await model.session('batch.none')).call(inputs, lane);
  const { logits } = await (await model.session('head')).call({ hidden: hidden! }, lane);
  const values = logits!.f32().slice();
  for (const tensor of [...Object.values(inputs), hidden!, logits!]) tensor.dispose();
  return values;
}

/** Sum of −log p of every token but the first, from the logits [T,V]. */
export function negativeLogLikelihood(logits: Float32Array, tokens: readonly number[]): number {
  const vocab = logits.length / tokens.length;
  let sum = 0;
  for (let i = 1; i < tokens.length; i++) {
    const row = logits.subarray((i - 1) * vocab, i * vocab);
    let top = -Infinity;
    for (const value of row) if (value > top) top = value;
    let total = 0;
    for (const value of row) total += Math.exp(value - top);
    sum += Math.log(total) + top - row[tokens[i]!]!;
  }
  return sum;
}

/** The token with the largest logit, and by how much it leads. */
export function topTwo(row: Float32Array): { readonly token: number; readonly margin: number } {
  let token = 0;
  let first = -Infinity;
  let second = -Infinity;
  row.forEach((value, i) => {
    if (value > first) {
      second = first;
      first = value;
      token = i;
    } else if (value > second) second = value;
  });
  return { token, margin: first - second };
}

/** Throws when the lengths differ; NaN counts as infinite. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) throw new Error(`${a.length} and ${b.length} values`);
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= largest)) largest = Number.isNaN(difference) ? Infinity : difference;
  }
  return largest;
}
