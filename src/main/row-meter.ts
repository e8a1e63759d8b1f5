/**
 * Measures rows of a dataset on threads of their own, so that neither tokenizing nor a chat template holds up the calls of others.
 * Invariants: at most one validation has threads at a time, others wait for their turn; the threads end with the meter, whatever happened;
 * batches are answered in order.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { invalidFields, LoricaError, type ErrorCode, type ErrorReason } from '../common/errors.js';
import { packageRoot } from '../config/package-root.js';
import type { Example, RowMeasure } from '../datasets/index.js';
import type { Checkpoint } from '../models/checkpoint.js';
import type { MeterRequest, OpenRowMeter, RowMeters } from '../services/index.js';
import { DEFAULT_MAX_LENGTH_TOKENS } from '../tuning/specification.js';
import type { MeasureOptions } from './row-measure.js';

export interface MeterSetup {
  readonly path: string;
  readonly id: string;
  readonly digest: string;
  readonly options: MeasureOptions;
}

export type MeterBatch = readonly Example[];

export type MeterAnswer =
  | { readonly measures: readonly RowMeasure[] }
  | { readonly failure: { readonly code: ErrorCode; readonly reason: ErrorReason; readonly message: string; readonly hint: string | undefined } };

/** A tokenizer takes about 100 MiB a thread; more threads than this bring little beside the reading of rows. */
const MOST_THREADS = 2;
/** Compiled code, also where tests run the sources. */
const WORKER = join(packageRoot(), 'dist', 'src', 'main', 'row-meter-worker.js');

export class ThreadedRowMeters implements RowMeters {
  private last: Promise<void> = Promise.resolve();

  constructor(private readonly checkpoint: (id: string) => Promise<Checkpoint>) {}

  async open(request: MeterRequest, signal: AbortSignal): Promise<OpenRowMeter> {
    const { path, digest, config } = await this.checkpoint(request.baseModel);
    const maxLengthTokens = request.maxLengthTokens ?? Math.min(DEFAULT_MAX_LENGTH_TOKENS, config.maxPositionTokens);
    if (maxLengthTokens > config.maxPositionTokens)
      throw invalidFields([{ field: 'max_length_tokens', description: `the model takes at most ${config.maxPositionTokens} tokens` }]);
    const { labelTemplate, loss } = request;
    const options = { maxLengthTokens, ...(labelTemplate === undefined ? {} : { labelTemplate }), ...(loss === undefined ? {} : { loss }) };
    const release = await this.turn(signal);
    return new ThreadedRowMeter({ path, id: request.baseModel, digest, options }, signal, release);
  }

  /** Waits until no other validation has threads. The function that is returned ends the turn. */
  private async turn(signal: AbortSignal): Promise<() => void> {
    const before = this.last;
    let release = (): void => undefined;
    this.last = new Promise<void>((resolve) => {
      release = resolve;
    });
    await before;
    if (!signal.aborted) return release;
    release();
    throw signal.reason;
  }
}

class ThreadedRowMeter implements OpenRowMeter {
  readonly maxLengthTokens: number;
  private readonly threads: Thread[];
  private closed = false;
  private readonly onAbort = (): void => void this.close();

  constructor(
    setup: MeterSetup,
    private readonly signal: AbortSignal,
    private readonly release: () => void,
  ) {
    this.maxLengthTokens = setup.options.maxLengthTokens;
    this.threads = Array.from({ length: Math.min(MOST_THREADS, availableParallelism()) }, () => new Thread(setup));
    signal.addEventListener('abort', this.onAbort);
  }

  measure(rows: readonly Example[]): Promise<readonly RowMeasure[]> {
    this.signal.throwIfAborted();
    const idlest = this.threads.reduce((best, thread) => (thread.waiting < best.waiting ? thread : best));
    return idlest.measure(rows);
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.signal.removeEventListener('abort', this.onAbort);
    const reason = this.signal.reason as unknown;
    const gone = reason instanceof Error ? reason : new LoricaError('CANCELLED', 'CANCELLED', 'the validation has ended');
    await Promise.all(this.threads.map((thread) => thread.end(gone)));
    this.release();
  }
}

interface Waiting {
  readonly resolve: (measures: readonly RowMeasure[]) => void;
  readonly reject: (error: unknown) => void;
}

class Thread {
  private readonly worker: Worker;
  private readonly queue: Waiting[] = [];
  private dead: Error | undefined;

  constructor(setup: MeterSetup) {
    this.worker = new Worker(WORKER, { workerData: setup, execArgv: [] });
    this.worker.on('message', (answer: MeterAnswer) => {
      const next = this.queue.shift();
      if ('measures' in answer) next?.resolve(answer.measures);
      else {
        const { code, reason, message, hint } = answer.failure;
        next?.reject(new LoricaError(code, reason, message, hint === undefined ? {} : { hint }));
      }
    });
    this.worker.on('error', (cause) => this.fail(new LoricaError('INTERNAL', 'INTERNAL', 'the thread that measures rows has failed', { cause })));
    this.worker.on('exit', () => this.fail(new LoricaError('INTERNAL', 'INTERNAL', 'the thread that measures rows has ended')));
  }

  get waiting(): number {
    return this.queue.length;
  }

  measure(rows: MeterBatch): Promise<readonly RowMeasure[]> {
    return new Promise((resolve, reject) => {
      if (this.dead !== undefined) {
        reject(this.dead);
        return;
      }
      this.queue.push({ resolve, reject });
      this.worker.postMessage(rows);
    });
  }

  async end(reason: Error): Promise<void> {
    this.fail(reason);
    await this.worker.terminate();
  }

  private fail(error: Error): void {
    this.dead ??= error;
    for (const { reject } of this.queue.splice(0)) reject(this.dead);
  }
}
