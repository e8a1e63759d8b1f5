/**
 * The order of runs on one device: one at a time, in two classes. Generation goes first, but never twice in a row while
 * training or evaluation waits, so that decode steps and training segments interleave; the others go first come, first served.
 * Knows nothing of native code: a job is a function that starts and calls back once when it has ended.
 */
import { LoricaError } from '../common/errors.js';
import type { Lane } from './types.js';

/** Starts the work; `done` must be called exactly once. `cancel` asks started work to end early (it still calls `done`). */
export interface Job {
  start(done: (error: Error | null) => void): void;
  cancel(): void;
}

interface Entry {
  readonly job: Job;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly signal: AbortSignal | undefined;
  readonly onAbort: (() => void) | undefined;
}

export function cancelled(what: string, cause?: unknown): LoricaError {
  return new LoricaError('CANCELLED', 'CANCELLED', `${what} was cancelled`, { cause });
}

export class RunQueue {
  private readonly generation: Entry[] = [];
  private readonly others: Entry[] = [];
  private current: Entry | null = null;
  private lastWasGeneration = false;
  private idle: (() => void)[] = [];

  /** Runs waiting, the started one not counted. */
  get waiting(): number {
    return this.generation.length + this.others.length;
  }

  /** Resolves when the job has ended without error. An aborted signal rejects with CANCELLED, at once if the job has not started. */
  schedule(what: string, lane: Lane, signal: AbortSignal | undefined, job: Job): Promise<void> {
    if (signal?.aborted) return Promise.reject(cancelled(what, signal.reason));
    return new Promise((resolve, reject) => {
      const line = lane === 'generation' ? this.generation : this.others;
      const onAbort = signal === undefined ? undefined : (): void => {
        const at = line.indexOf(entry);
        if (at < 0) {
          job.cancel();
          return;
        }
        line.splice(at, 1);
        reject(cancelled(what, signal.reason));
      };
      const entry: Entry = { job, resolve, reject, signal, onAbort };
      if (onAbort !== undefined) signal?.addEventListener('abort', onAbort, { once: true });
      line.push(entry);
      this.next();
    });
  }

  /** Resolves when nothing runs and nothing waits. */
  drained(): Promise<void> {
    return this.current === null && this.waiting === 0 ? Promise.resolve() : new Promise((resolve) => this.idle.push(resolve));
  }

  private next(): void {
    if (this.current !== null) return;
    const turnOfGeneration = this.generation.length > 0 && (!this.lastWasGeneration || this.others.length === 0);
    const entry = turnOfGeneration ? this.generation.shift() : this.others.shift();
    if (entry === undefined) {
      for (const resolve of this.idle.splice(0)) resolve();
      return;
    }
    this.current = entry;
    this.lastWasGeneration = turnOfGeneration;
    let ended = false;
    const done = (error: Error | null): void => {
      if (ended) return;
      ended = true;
      this.current = null;
      if (entry.onAbort !== undefined) entry.signal?.removeEventListener('abort', entry.onAbort);
      if (error === null) entry.resolve();
      else entry.reject(error);
      this.next();
    };
    try {
      entry.job.start(done);
    } catch (error) {
      done(error instanceof Error ? error : new Error(String(error)));
    }
  }
}
