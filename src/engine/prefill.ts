/**
 * Computes the prompt of one sequence in pieces on a slot of the cache, so that running streams get their steps between the pieces,
 * and the logits after its last token. One per serving model; one sequence at a time.
 */
import type { Binding, Session, Tensor } from '../runtime/index.js';
import type { KvCache } from './kv-cache.js';
import type { ResidentAdapter } from './resident-adapter.js';
import type { ServingModel } from './serving-model.js';

interface Bound {
  readonly session: Session;
  readonly binding: Binding;
  slot: number;
  adapter: ResidentAdapter | undefined;
}

export class Prefill {
  readonly #model: ServingModel;
  readonly #cache: KvCache;
  readonly #chunkTokens: number;
  readonly #lastIndex: Tensor;
  readonly #longest: Tensor;
  readonly #rows: Tensor;
  readonly #tokens: Tensor;
  readonly #hidden: Tensor;
  readonly #logits: Tensor;
  readonly #bound = new Map<string, Bound>();
  #head: { session: Session; binding: Binding } | undefined;

  constructor(model: ServingModel, cache: KvCache, chunkTokens: number) {
    const { runtime, config } = model;
    this.#model = model;
    this.#cache = cache;
    this.#chunkTokens = chunkTokens;
    this.#lastIndex = runtime.empty('int32', [1]);
    this.#longest = runtime.empty('int32', []);
    this.#rows = runtime.empty('int64', [1]);
    this.#tokens = runtime.empty('int64', [1, chunkTokens]);
    this.#hidden = runtime.empty('float32', [1, config.hiddenSize]);
    this.#logits = runtime.empty('float32', [1, config.vocabSize]);
  }

  /** Computes the next piece of `tokens` after the `done` that the slot holds already; gives how many it holds now. */
  async chunk(tokens: readonly number[], done: number, slot: number, adapter: ResidentAdapter | undefined, signal: AbortSignal | undefined): Promise<number> {
    const size = Math.min(this.#chunkTokens, tokens.length - done);
    const bound = await this.#bind(slot, adapter);
    const piece = this.#tokens.view([1, size]);
    try {
      const ids = piece.data as BigInt64Array;
      for (let i = 0; i < size; i++) ids[i] = BigInt(tokens[done + i]!);
      (this.#lastIndex.data as Int32Array)[0] = done + size - 1;
      (this.#longest.data as Int32Array)[0] = done + size;
      (this.#rows.data as BigInt64Array)[0] = BigInt(size - 1);
      bound.binding.input('tokens', piece);
      await bound.session.run(bound.binding, { lane: 'generation', signal });
    } finally {
      piece.dispose();
    }
    return done + size;
  }

  /** Logits [V] after the last token of the last chunk; valid until the next call. */
  async logits(): Promise<Float32Array> {
    if (this.#head === undefined) {
      const session = await this.#model.session('head');
      this.#head = { session, binding: session.binding().input('hidden', this.#hidden).output('logits', this.#logits) };
    }
    await this.#head.session.run(this.#head.binding, { lane: 'generation' });
    return this.#logits.f32();
  }

  dispose(): void {
    for (const { binding } of this.#bound.values()) binding.dispose();
    this.#head?.binding.dispose();
    for (const tensor of [this.#lastIndex, this.#longest, this.#rows, this.#tokens, this.#hidden, this.#logits]) tensor.dispose();
  }

  async #bind(slot: number, adapter: ResidentAdapter | undefined): Promise<Bound> {
    const kind = adapter === undefined ? 'chunk.none' : 'chunk.shared';
    let bound = this.#bound.get(kind);
    if (bound === undefined) {
      const session = await this.#model.session(kind);
      const binding = session.binding().input('last_index', this.#lastIndex).input('longest', this.#longest)
        .input('rows', this.#rows).output('hidden', this.#hidden);
      bound = { session, binding, slot: -1, adapter: undefined };
      this.#bound.set(kind, bound);
    }
    if (bound.slot !== slot) {
      this.#cache.bind(bound.binding, slot, 1);
      bound.slot = slot;
    }
    if (adapter !== undefined && bound.adapter !== adapter) {
      for (const [name, tensor] of adapter.inputs) bound.binding.input(name, tensor);
      bound.adapter = adapter;
    }
    return bound;
  }
}
