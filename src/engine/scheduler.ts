/**
 * Continuous batching: requests wait, are admitted up to the number of sequences, get their target into memory, and join the batch of
 * their model; models with something to do take turns, one native run each. One loop, no timers; it sleeps when nothing runs.
 */
import { LoricaError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import type { Metrics } from '../metrics/metrics.js';
import { ModelBatch } from './model-batch.js';
import type { Residency } from './residency.js';
import type { Sequence } from './sequence.js';
import type { ServingModel } from './serving-model.js';
import { WaitingQueue } from './waiting-queue.js';

export interface SchedulerOptions {
  readonly maxSequences: number;
  readonly maxWaiting: number;
  readonly chunkTokens: number;
}

export class Scheduler {
  readonly #residency: Residency;
  readonly #options: SchedulerOptions;
  readonly #metrics: Metrics;
  readonly #logger: Logger;
  readonly #waiting: WaitingQueue<Sequence>;
  readonly #batches = new Map<ServingModel, ModelBatch>();
  /** Admitted and not ended: loading, computing a prompt, or decoding. */
  readonly #active = new Set<Sequence>();
  #turn = 0;
  #wake: () => void = () => undefined;
  #idle: Promise<void>;
  #closing = false;
  #meanTotalMs = 1_000;
  readonly #loop: Promise<void>;

  constructor(residency: Residency, options: SchedulerOptions, metrics: Metrics, logger: Logger) {
    this.#residency = residency;
    this.#options = options;
    this.#metrics = metrics;
    this.#logger = logger;
    this.#waiting = new WaitingQueue(options.maxWaiting);
    this.#idle = this.#sleep();
    metrics.kvSlots.set(options.maxSequences);
    this.#loop = this.#run();
  }

  /** Takes a request. OVERLOADED when too many wait, SHUTTING_DOWN after `stop`. */
  submit(sequence: Sequence): void {
    if (this.#closing) throw shuttingDown();
    this.#waiting.push(sequence, () => (this.#meanTotalMs * this.#waiting.length) / this.#options.maxSequences);
    this.#admit();
    this.#report();
  }

  /** Ends a sequence; its row is free before the next run. */
  cancel(sequence: Sequence): void {
    if (sequence.ended) return;
    this.#waiting.remove(sequence);
    sequence.finish('cancelled');
    // While its target loads it is in no batch that would let it go.
    if (sequence.lease === undefined) this.#leave(sequence);
    this.#report();
    this.#wake();
  }

  /** Frees what was kept for a model that is dropped. */
  forget(model: ServingModel): void {
    this.#batches.get(model)?.dispose();
    this.#batches.delete(model);
  }

  /** Refuses new requests, lets the accepted ones go on for `graceMs`, then ends the rest. */
  async stop(graceMs: number): Promise<void> {
    this.#closing = true;
    this.#wake();
    const timer = setTimeout(() => {
      for (let waiting = this.#waiting.take(); waiting !== undefined; waiting = this.#waiting.take()) waiting.fail(shuttingDown());
      for (const sequence of [...this.#active]) this.cancel(sequence);
    }, graceMs);
    await this.#loop;
    clearTimeout(timer);
  }

  #admit(): void {
    while (this.#active.size < this.#options.maxSequences) {
      const sequence = this.#waiting.take();
      if (sequence === undefined) return;
      this.#active.add(sequence);
      sequence.admittedMs = performance.now();
      void this.#prepare(sequence);
    }
  }

  /** Gets the target and the sessions that it needs, while others run. */
  async #prepare(sequence: Sequence): Promise<void> {
    try {
      const lease = await this.#residency.acquire(sequence.request.target);
      try {
        await lease.model.prepareGeneration(lease.adapter !== undefined);
      } finally {
        if (sequence.ended) lease.release();
        else sequence.lease = lease;
      }
      if (sequence.lease !== undefined) this.#batch(lease.model).add(sequence);
    } catch (error) {
      sequence.fail(error);
      this.#leave(sequence);
      this.#report();
    }
    this.#wake();
  }

  #batch(model: ServingModel): ModelBatch {
    let batch = this.#batches.get(model);
    if (batch === undefined) {
      batch = new ModelBatch(model, this.#options.maxSequences, this.#options.chunkTokens, this.#metrics);
      this.#batches.set(model, batch);
    }
    return batch;
  }

  async #run(): Promise<void> {
    for (;;) {
      const batch = this.#next();
      if (batch === undefined) {
        if (this.#closing && this.#active.size === 0 && this.#waiting.length === 0) return;
        await this.#idle;
        this.#idle = this.#sleep();
        continue;
      }
      let left: readonly Sequence[];
      try {
        left = await batch.step();
      } catch (error) {
        this.#logger.error('a generation step failed', { error });
        left = batch.failAll(error);
      }
      for (const sequence of left) this.#leave(sequence);
      this.#report();
    }
  }

  /** The batches with something to do, in turn. */
  #next(): ModelBatch | undefined {
    const busy = [...this.#batches.values()].filter((batch) => batch.busy);
    return busy[this.#turn++ % Math.max(1, busy.length)];
  }

  #leave(sequence: Sequence): void {
    if (!this.#active.delete(sequence)) return;
    sequence.lease?.release();
    this.#meanTotalMs += 0.1 * (performance.now() - sequence.admittedMs - this.#meanTotalMs);
    this.#admit();
  }

  #sleep(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  #report(): void {
    let slots = 0;
    for (const batch of this.#batches.values()) slots += batch.slotsUsed;
    this.#metrics.kvSlotsUsed.set(slots);
    this.#metrics.runningSequences.set(this.#active.size);
    this.#metrics.waitingSequences.set(this.#waiting.length);
  }
}

function shuttingDown(): LoricaError {
  return new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the server is shutting down', { hint: 'Try another replica, or again in a moment.' });
}
