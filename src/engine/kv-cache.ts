/**
 * Keys and values of running sequences: per layer one float32 tensor [slots,KV,S,D] each, S tokens a slot. Whoever computes a
 * sequence binds a range of slots in place. Untouched slots cost address space only. Knows nothing of sequences.
 */
import type { DecoderConfig } from '../models/config.js';
import { cacheNames } from '../models/serving-form.js';
import type { Binding, Runtime, Tensor } from '../runtime/index.js';

export class KvCache {
  readonly slots: number;
  readonly #config: DecoderConfig;
  readonly #contextTokens: number;
  readonly #layers: readonly { key: Tensor; value: Tensor }[];
  readonly #views = new Map<string, readonly { key: Tensor; value: Tensor }[]>();

  constructor(runtime: Runtime, config: DecoderConfig, slots: number, contextTokens: number) {
    this.slots = slots;
    this.#config = config;
    this.#contextTokens = contextTokens;
    const shape = [slots, config.kvHeads, contextTokens, config.headDim];
    this.#layers = Array.from({ length: config.layers }, () => ({ key: runtime.empty('float32', shape), value: runtime.empty('float32', shape) }));
  }

  /** Binds slots first … first+rows−1 as past and present of `binding`. */
  bind(binding: Binding, first: number, rows: number): void {
    this.#range(first, rows).forEach(({ key, value }, layer) => {
      const names = cacheNames(layer);
      binding.input(names.pastKey, key).output(names.presentKey, key);
      binding.input(names.pastValue, value).output(names.presentValue, value);
    });
  }

  /** Copies the first `tokens` of a slot to another one. Never while a run uses either. */
  move(from: number, to: number, tokens: number): void {
    const { kvHeads, headDim } = this.#config;
    const perHead = this.#contextTokens * headDim;
    for (const { key, value } of this.#layers) {
      for (const data of [key.f32(), value.f32()]) {
        for (let head = 0; head < kvHeads; head++) {
          const source = (from * kvHeads + head) * perHead;
          data.copyWithin((to * kvHeads + head) * perHead, source, source + tokens * headDim);
        }
      }
    }
  }

  dispose(): void {
    for (const views of this.#views.values()) for (const { key, value } of views) [key, value].forEach((tensor) => tensor.dispose());
    for (const { key, value } of this.#layers) [key, value].forEach((tensor) => tensor.dispose());
  }

  #range(first: number, rows: number): readonly { key: Tensor; value: Tensor }[] {
    const name = `${first}+${rows}`;
    let views = this.#views.get(name);
    if (views === undefined) {
      const { kvHeads, headDim } = this.#config;
      const shape = [rows, kvHeads, this.#contextTokens, headDim];
      const offset = first * kvHeads * this.#contextTokens * headDim;
      views = this.#layers.map(({ key, value }) => ({ key: key.view(shape, offset), value: value.view(shape, offset) }));
      this.#views.set(name, views);
    }
    return views;
  }
}
