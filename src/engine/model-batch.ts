/**
 * The sequences of one serving model: those that decode (row i on slot i, no gaps) and those whose prompts are still to be computed,
 * one at a time, in pieces, on the slot after the rows. One call of `step` is one native run and what follows from it.
 * Invariants: a sequence that ended leaves its row before the next run and is given out as left once, also when a run fails; rows never
 * grow but by a finished prompt; what fails for one sequence alone (its prompt, its logits, its text) ends that one only.
 */
import type { Metrics } from '../metrics/metrics.js';
import { Decode } from './decode.js';
import { KvCache } from './kv-cache.js';
import { Prefill } from './prefill.js';
import { Sampler } from './sampler.js';
import type { Sequence } from './sequence.js';
import type { ServingModel } from './serving-model.js';

export type BatchMetrics = Pick<Metrics, 'generatedTokensTotal' | 'promptTokensTotal' | 'timeToFirstTokenSeconds' | 'interTokenSeconds'>;

interface Prompt {
  readonly sequence: Sequence;
  /** Where its keys and values are; -1 until it begins. */
  slot: number;
  done: number;
}

export class ModelBatch {
  readonly #cache: KvCache;
  readonly #prefill: Prefill;
  readonly #decode: Decode;
  readonly #sampler: Sampler;
  readonly #metrics: BatchMetrics;
  readonly #rows: Sequence[] = [];
  readonly #prompts: Prompt[] = [];
  /** Taken out, not yet given out. */
  readonly #left: Sequence[] = [];
  #promptNext = true;

  constructor(model: ServingModel, slots: number, chunkTokens: number, metrics: BatchMetrics) {
    this.#cache = new KvCache(model.runtime, model.config, slots, model.contextTokens);
    this.#prefill = new Prefill(model, this.#cache, chunkTokens);
    this.#decode = new Decode(model, this.#cache);
    this.#sampler = new Sampler(model.config.vocabSize);
    this.#metrics = metrics;
  }

  add(sequence: Sequence): void {
    this.#prompts.push({ sequence, slot: -1, done: 0 });
  }

  get busy(): boolean {
    return this.#rows.length + this.#prompts.length > 0;
  }

  /** Slots that hold something. */
  get slotsUsed(): number {
    return this.#rows.length + Number((this.#prompts[0]?.slot ?? -1) >= 0);
  }

  /** One native run: a piece of a prompt and a decode step take turns. Gives the sequences that left the batch. */
  async step(): Promise<readonly Sequence[]> {
    this.#sweep();
    const prompt = this.#prompts[0];
    if (prompt !== undefined && (this.#promptNext || this.#rows.length === 0)) {
      this.#promptNext = false;
      await this.#computePrompt(prompt);
    } else if (this.#rows.length > 0) {
      this.#promptNext = true;
      await this.#decodeRows();
    }
    this.#sweep();
    return this.#left.splice(0);
  }

  /** Ends every sequence with `error`; gives them and those that had left. */
  failAll(error: unknown): readonly Sequence[] {
    const all = [...this.#rows.splice(0), ...this.#prompts.splice(0).map(({ sequence }) => sequence)];
    for (const sequence of all) sequence.fail(error);
    return [...this.#left.splice(0), ...all];
  }

  dispose(): void {
    this.#prefill.dispose();
    this.#decode.dispose();
    this.#cache.dispose();
  }

  async #computePrompt(prompt: Prompt): Promise<void> {
    const { sequence } = prompt;
    const { promptTokens, signal } = sequence.request;
    if (prompt.slot < 0) prompt.slot = this.#rows.length;
    let logits: Float32Array;
    try {
      prompt.done = await this.#prefill.chunk(promptTokens, prompt.done, prompt.slot, sequence.lease!.adapter, signal);
      if (prompt.done < promptTokens.length) return;
      this.#metrics.promptTokensTotal.inc({ tenant: sequence.tenant }, promptTokens.length);
      logits = await this.#prefill.logits();
    } catch (error) {
      // Only this sequence was in the run.
      if (signal?.aborted === true) sequence.finish('cancelled');
      else sequence.fail(error);
      return;
    }
    // Cancelled during the run: the next sweep takes it out.
    if (sequence.ended || !this.#sample(sequence, logits)) return;
    this.#prompts.shift();
    this.#metrics.timeToFirstTokenSeconds.observe((sequence.firstTokenMs - sequence.acceptedMs) / 1000);
    if (prompt.slot !== this.#rows.length) this.#cache.move(prompt.slot, this.#rows.length, prompt.done);
    this.#rows.push(sequence);
  }

  async #decodeRows(): Promise<void> {
    const rows = [...this.#rows];
    const logits = await this.#decode.step(rows.map((sequence) => ({
      token: sequence.lastToken, position: sequence.cachedTokens, adapter: sequence.lease!.adapter,
    })));
    rows.forEach((sequence, row) => {
      if (sequence.ended) return;
      const before = sequence.lastTokenMs;
      if (this.#sample(sequence, logits[row]!)) this.#metrics.interTokenSeconds.observe((sequence.lastTokenMs - before) / 1000);
    });
  }

  /** Gives the sequence its next token; false when there is none to be had (an adapter with values that are not finite), which ends it. */
  #sample(sequence: Sequence, logits: Float32Array): boolean {
    try {
      const id = this.#sampler.sample(logits, sequence.settings, sequence.generated);
      const wanted = sequence.request.sampling.logProbabilities === true;
      sequence.accept(id, wanted ? this.#sampler.logProbability(logits, id) : undefined);
    } catch (error) {
      sequence.fail(error);
      return false;
    }
    this.#metrics.generatedTokensTotal.inc({ tenant: sequence.tenant, adapter: sequence.request.target.adapter?.name ?? '' });
    return true;
  }

  /** Takes out what has ended; the last row moves into a gap. */
  #sweep(): void {
    for (let at = this.#prompts.length - 1; at >= 0; at--) {
      if (this.#prompts[at]!.sequence.ended) this.#left.push(this.#prompts.splice(at, 1)[0]!.sequence);
    }
    for (let row = this.#rows.length - 1; row >= 0; row--) {
      const sequence = this.#rows[row]!;
      if (!sequence.ended) continue;
      this.#left.push(sequence);
      const last = this.#rows.pop()!;
      if (last === sequence) continue;
      this.#cache.move(this.#rows.length, row, last.cachedTokens);
      this.#rows[row] = last;
    }
  }
}
