/** Turns of the event loop for long arithmetic: a loop reports its work and is told when to wait. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LoricaError } from './errors.js';

/** Multiplications between two turns: some ten milliseconds. */
const OPERATIONS_PER_TURN = 1 << 22;

/**
 * A counter of work. It returns a promise to await once enough has been done, else undefined. Throws CANCELLED with `what` when
 * `signal` is aborted.
 */
export function turns(what: string, signal?: AbortSignal): (operations: number) => Promise<void> | undefined {
  let done = 0;
  return (operations) => {
    done += operations;
    if (done < OPERATIONS_PER_TURN) return undefined;
    done = 0;
    if (signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', `${what} was cancelled`, { cause: signal.reason });
    return nextTurn();
  };
}
