/**
 * One decode step: the next token of every running row of a model at once, row i on slot i of the cache, each row on its own
 * adapter or the base. Which sequences the rows are is not known here.
 */
import type { AdapterForm } from '../models/serving-form-lora.js';
import type { Binding, Session, Tensor } from '../runtime/index.js';
import { AdapterArena } from './adapter-arena.js';
import type { KvCache } from './kv-cache.js';
import type { ResidentAdapter } from './resident-adapter.js';
import type { ServingModel } from './serving-model.js';

export interface DecodeRow {
  /** The token to feed. */
  readonly token: number;
  /** Its position: tokens that the slot holds before it. */
  readonly position: number;
  readonly adapter: ResidentAdapter | undefined;
}

interface Bound {
  readonly session: Session;
  readonly binding: Binding;
  /** The shared adapter, or the layout of the arena, that the binding has now. */
  adapters: ResidentAdapter | number | undefined;
}

export class Decode {
  readonly #model: ServingModel;
  readonly #cache: KvCache;
  readonly #arena: AdapterArena;
  readonly #tokens: Tensor;
  readonly #lastIndex: Tensor;
  readonly #longest: Tensor;
  readonly #logits: Tensor;
  readonly #views: Tensor[] = [];
  readonly #bound = new Map<string, Bound>();
  /** Counts the layouts of the arena. */
  #layout = 0;

  constructor(model: ServingModel, cache: KvCache) {
    const { runtime, config } = model;
    this.#model = model;
    this.#cache = cache;
    this.#arena = new AdapterArena(runtime, config, cache.slots);
    this.#tokens = runtime.empty('int64', [cache.slots, 1]);
    this.#lastIndex = runtime.empty('int32', [cache.slots]);
    this.#longest = runtime.empty('int32', []);
    this.#logits = runtime.empty('float32', [cache.slots, config.vocabSize]);
  }

  /** Logits [V] of every row, valid until the next step. */
  async step(rows: readonly DecodeRow[]): Promise<readonly Float32Array[]> {
    const tokens = this.#tokens.data as BigInt64Array;
    const lastIndex = this.#lastIndex.data as Int32Array;
    let longest = 0;
    rows.forEach(({ token, position }, row) => {
      tokens[row] = BigInt(token);
      lastIndex[row] = position;
      longest = Math.max(longest, position + 1);
    });
    (this.#longest.data as Int32Array)[0] = longest;
    const { session, binding } = await this.#bind(rows.map((row) => row.adapter));
    await session.run(binding, { lane: 'generation' });
    const logits = this.#logits.f32();
    const { vocabSize } = this.#model.config;
    return rows.map((_, row) => logits.subarray(row * vocabSize, (row + 1) * vocabSize));
  }

  dispose(): void {
    for (const { binding } of this.#bound.values()) binding.dispose();
    this.#arena.dispose();
    for (const tensor of [...this.#views, this.#tokens, this.#lastIndex, this.#longest, this.#logits]) tensor.dispose();
  }

  async #bind(adapters: readonly (ResidentAdapter | undefined)[]): Promise<Bound> {
    const first = adapters[0];
    const form: AdapterForm = adapters.some((adapter) => adapter !== first) ? 'rows' : first === undefined ? 'none' : 'shared';
    if (form === 'rows' && this.#arena.prepare(adapters)) this.#layout++;
    const wanted = form === 'rows' ? this.#layout : first;
    const bound = await this.#binding(form, adapters.length);
    if (bound.adapters !== wanted) {
      if (form === 'rows') this.#arena.bind(bound.binding, adapters.length);
      else if (first !== undefined) for (const [name, tensor] of first.inputs) bound.binding.input(name, tensor);
      bound.adapters = wanted;
    }
    return bound;
  }

  async #binding(form: AdapterForm, rows: number): Promise<Bound> {
    const key = `${form}.${rows}`;
    let bound = this.#bound.get(key);
    if (bound === undefined) {
      const session = await this.#model.session(`decode.${form}`);
      const binding = session.binding().input('longest', this.#longest)
        .input('tokens', this.#view(this.#tokens, [rows, 1])).input('last_index', this.#view(this.#lastIndex, [rows]))
        .output('logits', this.#view(this.#logits, [rows, this.#model.config.vocabSize]));
      this.#cache.bind(binding, 0, rows);
      bound = { session, binding, adapters: undefined };
      this.#bound.set(key, bound);
    }
    return bound;
  }

  #view(tensor: Tensor, shape: readonly number[]): Tensor {
    const view = tensor.view(shape);
    this.#views.push(view);
    return view;
  }
}
