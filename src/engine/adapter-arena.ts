/**
 * The stacked adapter inputs of a decode step in which rows differ: row i of every tensor holds the adapter of the batch's row i.
 * Copies happen only when a row's adapter or the batch's rank changes (about 0.6 ms for a rank-8 adapter of SmolLM2-135M).
 * Invariant: after `prepare`, the bound views hold exactly the given adapters, ranks padded with zeros, zeros for the base.
 */
import type { DecoderConfig } from '../models/config.js';
import { fillStacked, stackedTensors, type StackedTensor } from '../models/serving-form-lora.js';
import type { Binding, Runtime, Tensor } from '../runtime/index.js';
import type { ResidentAdapter } from './resident-adapter.js';

interface Place {
  readonly stacked: StackedTensor;
  /** Elements of one row. */
  readonly elements: number;
  /** Where the tensor's row 0 begins, in elements; rows are consecutive. */
  readonly offset: number;
}

const BASE = 'base';

export class AdapterArena {
  readonly #runtime: Runtime;
  readonly #config: DecoderConfig;
  readonly #rows: number;
  #memory: Tensor | undefined;
  #rank = 0;
  #places: readonly Place[] = [];
  /** Digest that each row holds now; undefined: unknown. */
  #held: (string | undefined)[] = [];
  /** Views of the first n rows, by n. */
  #views = new Map<number, ReadonlyMap<string, Tensor>>();

  constructor(runtime: Runtime, config: DecoderConfig, rows: number) {
    this.#runtime = runtime;
    this.#config = config;
    this.#rows = rows;
  }

  /** Brings the rows up to date. True when memory was laid out anew, so that every binding must be bound again. */
  prepare(adapters: readonly (ResidentAdapter | undefined)[]): boolean {
    const rank = Math.max(1, ...adapters.map((adapter) => adapter?.rank ?? 0));
    const relaid = rank !== this.#rank;
    if (relaid) this.#layOut(rank);
    adapters.forEach((adapter, row) => {
      const digest = adapter?.digest ?? BASE;
      if (this.#held[row] === digest) return;
      this.#fill(row, adapter);
      this.#held[row] = digest;
    });
    return relaid;
  }

  /** Binds the first `rows` rows. */
  bind(binding: Binding, rows: number): void {
    let views = this.#views.get(rows);
    if (views === undefined) {
      views = new Map(this.#places.map(({ stacked, offset }) => [stacked.name, this.#memory!.view([rows, ...stacked.shape], offset)]));
      this.#views.set(rows, views);
    }
    for (const [name, view] of views) binding.input(name, view);
  }

  dispose(): void {
    this.#dropViews();
    this.#memory?.dispose();
    this.#memory = undefined;
    this.#rank = 0;
  }

  #layOut(rank: number): void {
    this.#dropViews();
    let offset = 0;
    this.#places = stackedTensors(this.#config, rank).map((stacked) => {
      const elements = stacked.shape.reduce((product, dim) => product * dim, 1);
      const place = { stacked, elements, offset };
      offset += Math.ceil((elements * this.#rows) / 16) * 16;
      return place;
    });
    if (this.#memory === undefined || this.#memory.byteLength < offset * 4) {
      this.#memory?.dispose();
      this.#memory = this.#runtime.empty('float32', [offset]);
    }
    this.#rank = rank;
    this.#held = new Array<string | undefined>(this.#rows).fill(undefined);
  }

  #fill(row: number, adapter: ResidentAdapter | undefined): void {
    const memory = this.#memory!.f32();
    for (const { stacked, elements, offset } of this.#places) {
      const target = memory.subarray(offset + row * elements, offset + (row + 1) * elements);
      if (adapter === undefined) target.fill(0);
      else fillStacked(stacked, this.#rank, adapter.elements, adapter.rank, adapter.offsets, target);
    }
  }

  #dropViews(): void {
    for (const views of this.#views.values()) for (const view of views.values()) view.dispose();
    this.#views.clear();
  }
}
