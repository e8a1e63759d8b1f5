/**
 * Direct preference optimization (Rafailov et al. 2023) on pairs of answers. Both answers of a pair are sequences of one micro-batch; the
 * loss of a pair is a function of the sums of their token losses, so that the head runs first for the losses and then for the
 * gradients with a weight per token, over one set of saved activations. The reference is no second model: its log-probabilities
 * are two numbers a pair, measured before the first step.
 */
import { layOut, pack, padded, type MicroBatch, type TokenRow } from './batches.js';
import type { ModelPass } from './model-pass.js';
import type { MeasuredSums, Objective } from './objective.js';
import type { PreferenceObjective } from './objective-specification.js';

export interface PreferenceOptions extends Omit<Required<PreferenceObjective>, 'kind'> {
  readonly packing: boolean;
}

/** Loss of one pair, and its derivatives by the chosen and by the rejected answer's negative log-likelihood. */
export interface PairLoss {
  readonly loss: number;
  readonly chosen: number;
  readonly rejected: number;
  /** z: the difference of the implicit rewards β·(log π − log π₀). */
  readonly margin: number;
}

/** log σ(x) without overflow. */
function logSigmoid(x: number): number {
  return x >= 0 ? -Math.log1p(Math.exp(-x)) : x - Math.log1p(Math.exp(x));
}

/**
 * The loss of a pair from negative log-likelihoods (nats, summed over the answer's tokens), now and of the reference, chosen first;
 * `chosenTokens` is the chosen answer's length.
 */
export function pairLoss(now: readonly [number, number], reference: readonly [number, number], chosenTokens: number, options: Omit<PreferenceOptions, 'packing'>): PairLoss {
  const { beta, labelSmoothing, sftWeight } = options;
  const margin = beta * (now[1] - reference[1] - (now[0] - reference[0]));
  // −dloss/dz; σ(−z) = exp(log σ(−z)).
  const pull = (1 - labelSmoothing) * Math.exp(logSigmoid(-margin)) - labelSmoothing * Math.exp(logSigmoid(margin));
  return {
    loss: -(1 - labelSmoothing) * logSigmoid(margin) - labelSmoothing * logSigmoid(-margin) + (sftWeight * now[0]) / chosenTokens,
    chosen: beta * pull + sftWeight / chosenTokens,
    rejected: -beta * pull,
    margin,
  };
}

/** Negative log-likelihood of every row (float64), by a pass without dropout; `maxTokens` padded tokens a micro-batch, or one row. */
export async function sequenceLosses(pass: ModelPass, rows: readonly TokenRow[], maxTokens: number, signal: AbortSignal | undefined): Promise<Float64Array> {
  const result = new Float64Array(rows.length);
  const order = rows.map((_, i) => i).sort((a, b) => rows[b]!.inputs.length - rows[a]!.inputs.length);
  for (let at = 0; at < order.length; ) {
    const size = Math.max(1, Math.min(order.length - at, Math.floor(maxTokens / padded(rows[order[at]!]!.inputs.length))));
    const indices = order.slice(at, at + size);
    const batch = layOut(indices.map((row) => rows[row]!));
    sumsOfSequences(batch, await pass.losses(batch, signal)).forEach((sum, i) => (result[indices[i]!] = sum));
    at += size;
  }
  return result;
}

/**
 * `rows` alternate, chosen and rejected; `reference` holds their negative log-likelihoods under the reference. A term is a pair.
 */
export function preferenceObjective(rows: readonly TokenRow[], reference: Float64Array, options: PreferenceOptions): Objective {
  const pairs = rows.length / 2;
  const longest = (pair: number): number => Math.max(rows[2 * pair]!.inputs.length, rows[2 * pair + 1]!.inputs.length);
  const lengths = Array.from({ length: pairs }, (_, pair) => 2 * padded(longest(pair)));
  const ofPairs = (indices: readonly number[], losses: readonly number[]): PairLoss[] =>
    indices.map((pair, i) =>
      pairLoss([losses[2 * i]!, losses[2 * i + 1]!], [reference[2 * pair]!, reference[2 * pair + 1]!], rows[2 * pair]!.lossTokens, options));
  const sequencesOf = (indices: readonly number[]): number[] => indices.flatMap((pair) => [2 * pair, 2 * pair + 1]);
  return {
    head: 'languageModel',
    reference,
    lengths,
    longestTokens: rows.reduce((most, row) => Math.max(most, row.inputs.length), 1),
    terms: () => 1,
    gradients: async (pass, indices, { scale, adding, signal, randomOf }) => {
      const sequences = sequencesOf(indices);
      const batch = (options.packing ? pack : layOut)(sequences.map((row) => rows[row]!));
      let outcome: PairLoss[] = [];
      const weigh = (losses: Float32Array): Float32Array => {
        outcome = ofPairs(indices, sumsOfSequences(batch, losses));
        const slopes = outcome.flatMap(({ chosen, rejected }) => [scale * chosen, scale * rejected]);
        return Float32Array.from(sequenceOfLoss(batch), (sequence) => slopes[sequence]!);
      };
      await pass.gradients(batch, weigh, adding, signal, (place, module) => randomOf(sequences[place]!, module));
      return { ...summed(outcome), tokens: batch.fedTokens };
    },
    measure: async (pass, indices, signal) => {
      const batch = layOut(sequencesOf(indices).map((row) => rows[row]!));
      return summed(ofPairs(indices, sumsOfSequences(batch, await pass.losses(batch, signal))));
    },
  };
}

function summed(pairs: readonly PairLoss[]): MeasuredSums {
  const sum = (of: (pair: PairLoss) => number): number => pairs.reduce((total, pair) => total + of(pair), 0);
  return {
    lossSum: sum(({ loss }) => loss),
    extras: { preferenceAccuracy: sum(({ margin }) => (margin > 0 ? 1 : 0)), preferenceMargin: sum(({ margin }) => margin) },
  };
}

/** For each loss position, in order, the sequence (index of its place) that it lies in. */
function sequenceOfLoss({ places, lossPositions }: MicroBatch): Int32Array {
  const order = places.map((_, i) => i).sort((a, b) => places[a]!.start - places[b]!.start);
  let at = 0;
  return Int32Array.from(lossPositions, (position) => {
    while (Number(position) >= places[order[at]!]!.start + places[order[at]!]!.length) at += 1;
    return order[at]!;
  });
}

/** Sums of the losses of each sequence, in the order of places, in float64. */
function sumsOfSequences(batch: MicroBatch, losses: Float32Array): number[] {
  const sums = new Array<number>(batch.places.length).fill(0);
  sequenceOfLoss(batch).forEach((sequence, i) => (sums[sequence]! += losses[i]!));
  return sums;
}
