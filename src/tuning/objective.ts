/**
 * What a stage minimizes, as its training loop sees it: rows that feed some tokens each, and for any of them the sum of their losses with
 * its gradients. The loop plans, cuts, scales, clips and steps; an objective knows what a row is and how its loss is made.
 * Invariant: a sum over rows does not depend on how they are cut into micro-batches. An objective must not touch the optimizer.
 */
import type { Xoshiro128 } from '../common/random.js';
import type { HeadChoice } from './head-pass.js';
import type { ModelPass } from './model-pass.js';

/** Figures of a step that only some objectives have; a step reports their means over its terms. */
export type ExtraFigure = 'preferenceAccuracy' | 'preferenceMargin';

export interface GradientOptions {
  /** What the sum of losses is multiplied by in the gradients. */
  readonly scale: number;
  /** Adds to the gradients that are there instead of writing. */
  readonly adding: boolean;
  readonly signal: AbortSignal | undefined;
  /** Random numbers of one sequence (its number is the objective's choice, the same in every pass over the data) and module, for dropout. */
  readonly randomOf: (sequence: number, module: string) => Xoshiro128;
}

/** Sums over the terms of some rows. */
export interface MeasuredSums {
  /** Of the losses, in nats. */
  readonly lossSum: number;
  readonly extras?: Readonly<Partial<Record<ExtraFigure, number>>>;
}

export interface MicroBatchOutcome extends MeasuredSums {
  /** Tokens fed, padding not counted. */
  readonly tokens: number;
}

export interface Objective {
  /** What its passes score hidden states by. */
  readonly head: HeadChoice;
  /** Tokens of one row of data, for the order of an epoch and the cutting of micro-batches: one number per row. */
  readonly lengths: readonly number[];
  /** Longest sequence that a pass gets, padding not counted. */
  readonly longestTokens: number;
  /** What was measured of the model as the stage began, where something was: a checkpoint keeps it. */
  readonly reference?: Float64Array;
  /** How many terms a row adds to the loss: a step's loss is the mean over the terms of its rows. At least 1. */
  terms(row: number): number;
  /** Loss of some rows (their indices) as one micro-batch, and the gradients of scale · loss in the pass's parameters. */
  gradients(pass: ModelPass, rows: readonly number[], options: GradientOptions): Promise<MicroBatchOutcome>;
  /** Sums over some rows, by a pass without dropout. */
  measure(pass: ModelPass, rows: readonly number[], signal: AbortSignal | undefined): Promise<MeasuredSums>;
}
