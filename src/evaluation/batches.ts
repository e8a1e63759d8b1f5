/** Runs the rows of one target through the scorer in batches of similar length, with progress and cancellation between batches. */
import { LoricaError } from '../common/errors.js';

const ROWS_PER_BATCH = 64;

export interface BatchRun {
  /** Tokens of each row, to put rows of similar length together. */
  readonly lengths: readonly number[];
  /** Scores these rows (indices) and keeps what it wants of them. */
  readonly run: (rows: readonly number[]) => Promise<void>;
  readonly progress: (rowsDone: number) => Promise<void> | void;
  readonly signal: AbortSignal | undefined;
}

export async function inBatches({ lengths, run, progress, signal }: BatchRun): Promise<void> {
  const order = [...lengths.keys()].sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  for (let at = 0; at < order.length; at += ROWS_PER_BATCH) {
    throwIfCancelled(signal);
    await run(order.slice(at, at + ROWS_PER_BATCH));
    await progress(Math.min(order.length, at + ROWS_PER_BATCH));
  }
}

export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', 'the evaluation was cancelled');
}
