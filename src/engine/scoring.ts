/**
 * Log-probabilities of given tokens, or of the labels of a classification head. Sequences of similar length run together from an empty past, right-padded; a longer one runs
 * alone in pieces over a slot of its own, so that no run holds the device long. Only the positions asked for reach the head, and
 * normalization happens in the graph, off the event loop.
 */
import type { Runtime, Tensor } from '../runtime/index.js';
import { KvCache } from './kv-cache.js';
import type { ResidentAdapter } from './resident-adapter.js';
import type { ServingModel } from './serving-model.js';

/** Rows of logits in memory at once. */
const HEAD_ROWS = 64;

/** Where to look and for which tokens: the hidden state at `position` predicts `candidates` (none where a classification head scores). */
export interface Query {
  readonly position: number;
  readonly candidates: readonly number[];
}

export interface ScoringItem {
  readonly tokens: readonly number[];
  readonly queries: readonly Query[];
}

export interface ScoringRun {
  readonly adapter: ResidentAdapter | undefined;
  /** [K,C] of a classification head: scores K labels instead of each query's candidates. */
  readonly labels?: Tensor;
  readonly lane: 'generation' | 'evaluation';
  readonly signal: AbortSignal | undefined;
}

export class Scoring {
  readonly #model: ServingModel;
  readonly #runtime: Runtime;
  readonly #batchTokens: number;
  #cache: KvCache | undefined;
  /** Long sequences take turns on the one slot. */
  #slotFree: Promise<unknown> = Promise.resolve();

  /** A right-padded batch has at most `batchTokens` positions (256: about 0.2 s on two cores for a 135M model). */
  constructor(model: ServingModel, batchTokens: number) {
    this.#model = model;
    this.#batchTokens = batchTokens;
    this.#runtime = model.runtime;
  }

  /** Log-probabilities per item, those of its queries one after another. All queries of a call have equally many candidates. */
  async run(items: readonly ScoringItem[], run: ScoringRun): Promise<Float64Array[]> {
    const results = new Array<Float64Array>(items.length);
    const order = [...items.keys()].sort((a, b) => items[a]!.tokens.length - items[b]!.tokens.length);
    for (let at = 0; at < order.length; ) {
      // Shortest first, so the last of the taken ones gives the width.
      const first = items[order[at]!]!;
      let count = 1;
      while (at + count < order.length && items[order[at + count]!]!.tokens.length * (count + 1) <= this.#batchTokens) count++;
      const indices = order.slice(at, at + count);
      at += count;
      const found = first.tokens.length > this.#batchTokens ? [await this.#long(first, run)] : await this.#batch(indices.map((i) => items[i]!), run);
      indices.forEach((index, i) => {
        results[index] = found[i]!;
      });
    }
    return results;
  }

  dispose(): void {
    this.#cache?.dispose();
  }

  async #batch(items: readonly ScoringItem[], run: ScoringRun): Promise<Float64Array[]> {
    const runtime = this.#runtime;
    const width = Math.max(...items.map((item) => item.tokens.length));
    const tokens = runtime.empty('int64', [items.length, width]);
    const ids = tokens.data as BigInt64Array;
    items.forEach((item, row) => item.tokens.forEach((id, i) => (ids[row * width + i] = BigInt(id))));
    const rows = items.flatMap((item, row) => item.queries.map((query) => row * width + query.position));
    const inputs = {
      tokens, rows: runtime.from(rows, 'int64', [rows.length]), longest: runtime.from([width], 'int32', []),
      last_index: runtime.from(items.map((item) => item.tokens.length - 1), 'int32', [items.length]),
    };
    const session = await this.#model.session(run.adapter === undefined ? 'batch.none' : 'batch.shared');
    const { hidden } = await session.call({ ...inputs, ...Object.fromEntries(run.adapter?.inputs ?? []) }, run);
    const values = await this.#head(hidden!, items.flatMap((item) => item.queries), run);
    for (const tensor of [...Object.values(inputs), hidden!]) tensor.dispose();
    let at = 0;
    return items.map((item) => {
      const length = item.queries.reduce((sum, query) => sum + widthOf(query, run), 0);
      at += length;
      return values.slice(at - length, at);
    });
  }

  /** log p per query and candidate (or label), in order. */
  async #head(hidden: Tensor, queries: readonly Query[], run: ScoringRun): Promise<Float64Array> {
    const { labels } = run;
    const session = await this.#model.session(labels === undefined ? 'score' : 'classify');
    const { hiddenSize } = this.#model.config;
    const width = widthOf(queries[0]!, run);
    const values = new Float64Array(queries.length * width);
    for (let from = 0; from < queries.length; from += HEAD_ROWS) {
      const part = queries.slice(from, from + HEAD_ROWS);
      const rows = hidden.view([part.length, hiddenSize], from * hiddenSize);
      const candidates = labels === undefined ? this.#runtime.from(part.flatMap((query) => query.candidates), 'int64', [part.length, width]) : undefined;
      const { log_probabilities: found } = await session.call({ hidden: rows, ...(candidates === undefined ? { weight: labels! } : { candidates }) }, run);
      values.set(found!.f32(), from * width);
      for (const tensor of [rows, candidates, found]) tensor?.dispose();
    }
    return values;
  }

  async #long(item: ScoringItem, run: ScoringRun): Promise<Float64Array> {
    const turn = this.#slotFree.then(() => this.#pieces(item, run));
    this.#slotFree = turn.catch(() => undefined);
    return turn;
  }

  async #pieces({ tokens, queries }: ScoringItem, run: ScoringRun): Promise<Float64Array> {
    const runtime = this.#runtime;
    const { config, contextTokens } = this.#model;
    this.#cache ??= new KvCache(runtime, config, 1, contextTokens);
    const session = await this.#model.session(run.adapter === undefined ? 'chunk.none' : 'chunk.shared');
    const binding = session.binding();
    const values: number[] = [];
    try {
      this.#cache.bind(binding, 0, 1);
      for (const [name, tensor] of run.adapter?.inputs ?? []) binding.input(name, tensor);
      for (let from = 0; from < tokens.length; from += this.#batchTokens) {
        const piece = tokens.slice(from, from + this.#batchTokens);
        const inPiece = queries.filter(({ position }) => position >= from && position < from + piece.length);
        const rows = inPiece.length === 0 ? [0] : inPiece.map(({ position }) => position - from);
        const hidden = runtime.empty('float32', [rows.length, config.hiddenSize]);
        const inputs = {
          tokens: runtime.from(piece, 'int64', [1, piece.length]), rows: runtime.from(rows, 'int64', [rows.length]),
          last_index: runtime.from([from + piece.length - 1], 'int32', [1]), longest: runtime.from([from + piece.length], 'int32', []),
        };
        for (const [name, tensor] of Object.entries(inputs)) binding.input(name, tensor);
        await session.run(binding.output('hidden', hidden), run);
        if (inPiece.length > 0) values.push(...(await this.#head(hidden, inPiece, run)));
        for (const tensor of [...Object.values(inputs), hidden]) tensor.dispose();
      }
    } finally {
      binding.dispose();
    }
    return Float64Array.from(values);
  }
}

/** Numbers that a query gives. */
function widthOf({ candidates }: Query, { labels }: ScoringRun): number {
  return labels?.shape[0] ?? candidates.length;
}
