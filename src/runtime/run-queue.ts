/**
 * The order of runs on one device: one at a time, in two lines. Generation has one; training and evaluation have the other, first come first
 * served. Which line is next follows from the time that each has had (time-sharing.ts).
 * Knows nothing of native code: a job is a function that starts and calls back once when it has ended.
 */
import { LoricaError } from '../common/errors.js';
import { GENERATION_FIRST, other, ShareAccount, type Share, type TimeSharing } from './time-sharing.js';
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
  private readonly lines: Readonly<Record<Share, Entry[]>> = { generation: [], work: [] };
  private readonly account: ShareAccount;
  private current: { readonly entry: Entry; readonly share: Share } | null = null;
  private awaiting: NodeJS.Timeout | undefined;
  private idle: (() => void)[] = [];

  /** `nowMs`: a monotonic clock. */
  constructor(
    sharing: TimeSharing = GENERATION_FIRST,
    private readonly nowMs: () => number = () => performance.now(),
  ) {
    this.account = new ShareAccount(sharing);
  }

  /** Runs waiting, the started one not counted. */
  get waiting(): number {
    return this.lines.generation.length + this.lines.work.length;
  }

  /** Resolves when the job has ended without error. An aborted signal rejects with CANCELLED, at once if the job has not started. */
  schedule(what: string, lane: Lane, signal: AbortSignal | undefined, job: Job): Promise<void> {
    if (signal?.aborted) return Promise.reject(cancelled(what, signal.reason));
    return new Promise((resolve, reject) => {
      const share: Share = lane === 'generation' ? 'generation' : 'work';
      const line = this.lines[share];
      const onAbort = signal === undefined ? undefined : (): void => {
        const at = line.indexOf(entry);
        if (at < 0) {
          job.cancel();
          return;
        }
        line.splice(at, 1);
        reject(cancelled(what, signal.reason));
        this.next();
      };
      const entry: Entry = { job, resolve, reject, signal, onAbort };
      if (onAbort !== undefined) signal?.addEventListener('abort', onAbort, { once: true });
      if (line.length === 0 && this.current?.share !== share) this.account.arrive(share, this.nowMs());
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
    clearTimeout(this.awaiting);
    const share = this.choose();
    const entry = share === undefined ? undefined : this.lines[share].shift();
    if (share === undefined || entry === undefined) {
      if (this.waiting === 0) for (const resolve of this.idle.splice(0)) resolve();
      return;
    }
    this.current = { entry, share };
    const startedMs = this.nowMs();
    let ended = false;
    const done = (error: Error | null): void => {
      if (ended) return;
      ended = true;
      this.current = null;
      const nowMs = this.nowMs();
      this.account.charge(share, nowMs - startedMs, nowMs);
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

  /** The line to take from; undefined when nothing waits, or the device stays free a moment for the one that is behind. */
  private choose(): Share | undefined {
    const first = this.account.behind;
    if (this.lines[first].length > 0) return first;
    const second = other(first);
    if (this.lines[second].length === 0) return undefined;
    const awaitedMs = this.account.awaitedMs(first, this.nowMs());
    if (awaitedMs <= 0) return second;
    this.awaiting = setTimeout(() => this.next(), awaitedMs);
    return undefined;
  }
}
