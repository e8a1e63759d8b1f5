/**
 * Memory of activations: buffers of [capacity, width] rows that are viewed at the size of the current micro-batch and made anew when a
 * larger one comes. Views are made once per size, so that bindings which use them need no rebinding while the size stays.
 */
import { attentionKinds, ropeTables, rotaryWidth, type AttentionKind, type DecoderConfig } from '../models/config.js';
import { maskInput } from '../models/training-form-attention.js';
import type { Runtime, Tensor } from '../runtime/index.js';
import type { Place } from './batches.js';
import type { LentMemory } from './lent-memory.js';

class Buffer {
  private current: Tensor;

  /** Takes over `all`, [capacity, width]. */
  constructor(private readonly all: Tensor, private readonly width: number) {
    this.current = all.view(all.shape);
  }

  /** The first `rows` rows; what they held is lost when the number changes. */
  rows(rows: number): Tensor {
    if (this.current.shape[0] === rows) return this.current;
    this.current.dispose();
    this.current = this.all.view([rows, this.width]);
    return this.current;
  }

  dispose(): void {
    this.current.dispose();
    this.all.dispose();
  }
}

/** Named buffers of one pass over the model. */
export class Activations {
  private readonly buffers = new Map<string, Buffer>();
  private rowCount = 0;
  private capacity = 0;

  /** `lent`: where buffers may lie that are done with early. */
  constructor(private readonly runtime: Runtime, private readonly lent?: LentMemory) {}

  /** Rows (B·T) of the micro-batch that comes next. */
  resize(rows: number): void {
    this.rowCount = rows;
    if (rows <= this.capacity) return;
    this.dispose();
    this.capacity = rows;
  }

  /** The buffer `name` as [rows, width]. `until`: the layer whose backward run is the last to read it, where there is one. */
  get(name: string, width: number, until?: number): Tensor {
    let buffer = this.buffers.get(name);
    if (buffer === undefined) {
      const lent = until === undefined ? undefined : this.lent?.lend(this.capacity, width, until);
      buffer = new Buffer(lent ?? this.runtime.empty('float32', [this.capacity, width]), width);
      this.buffers.set(name, buffer);
    }
    return buffer.rows(this.rowCount);
  }

  dispose(): void {
    for (const buffer of this.buffers.values()) buffer.dispose();
    this.buffers.clear();
    this.lent?.takeBack();
  }
}

/** What attention of one kind of layer takes. */
export interface AttentionShapeInputs {
  /** float32 [T, rotaryWidth/2]; absent where positions are learned. */
  readonly cos?: Tensor;
  readonly sin?: Tensor;
  /**
   * By the inputs' names, a block of queries each, float32 [U,(i+1)*U] or [B,1,1,U,(i+1)*U] of packed rows, added to attention scores: 0 where row may see
   * column, else a number that no softmax survives.
   */
  readonly masks: ReadonlyMap<string, Tensor>;
}

/** What depends only on the micro-batch's shape. */
export interface ShapeInputs {
  /** int64 [B,T], 0 … T−1 in every row. */
  readonly positions: Tensor;
  /** By the name of the layers' AttentionKind. */
  readonly attention: ReadonlyMap<AttentionKind['name'], AttentionShapeInputs>;
}

const MASKED = -1e30;
const CACHED_SHAPES = 16;

/** Queries [first, first + rows) of T and how many keys, from 0, they are given. */
export interface QueryBlock {
  readonly first: number;
  readonly rows: number;
  readonly keys: number;
}

/** T queries in blocks of one size. Throws a RangeError where there is none. */
export function cutQueries(length: number, blocks: number): readonly QueryBlock[] {
  const rows = length / blocks;
  if (!Number.isInteger(rows)) throw new RangeError(`${length} queries do not make ${blocks} blocks of one size`);
  return Array.from({ length: blocks }, (_, i) => ({ first: i * rows, rows, keys: (i + 1) * rows }));
}

/** Causal mask [rows,keys] of a block; with a sliding window a token sees itself and window − 1 before it. */
export function causalMask({ first, rows, keys }: QueryBlock, slidingWindowTokens = Infinity): Float32Array {
  const mask = new Float32Array(rows * keys).fill(MASKED);
  for (let row = 0; row < rows; row++) mask.fill(0, row * keys + Math.max(0, first + row - slidingWindowTokens + 1), row * keys + first + row + 1);
  return mask;
}

/**
 * Block-diagonal causal masks [B,rows,keys] of a block of queries of B rows of T: a token sees its own sequence up to itself (or within the window);
 * padding sees itself. `places` are the sequences' flat positions and lengths.
 */
export function packedMask(batch: number, length: number, places: readonly Place[], { first, rows, keys }: QueryBlock, slidingWindowTokens = Infinity): Float32Array {
  const mask = new Float32Array(batch * rows * keys).fill(MASKED);
  for (let row = 0; row < batch * rows; row++) mask[row * keys + first + (row % rows)] = 0;
  for (const { start, length: size } of places) {
    const [b, column] = [Math.floor(start / length), start % length];
    for (let t = Math.max(0, first - column); t < Math.min(size, first + rows - column); t++) {
      const row = (b * rows + column + t - first) * keys + column;
      mask.fill(0, row + Math.max(0, t - slidingWindowTokens + 1), row + t + 1);
    }
  }
  return mask;
}

interface KindOfLayers {
  readonly name: AttentionKind['name'];
  readonly windowTokens: number | undefined;
  readonly tables: { readonly cos: Tensor; readonly sin: Tensor } | undefined;
}

/** Makes the inputs of a shape once; the oldest of 16 shapes is forgotten. */
export class ShapeInputsCache {
  private readonly shapes = new Map<string, ShapeInputs>();
  private readonly kinds: readonly KindOfLayers[];
  private readonly halfWidth: number;

  /**
   * `maxLengthTokens`: how many positions a row can have; a scaling of rotary positions may depend on it. `queryBlocks`: blocks that attention takes
   * queries in; the length of every micro-batch is a multiple of it.
   */
  constructor(private readonly runtime: Runtime, config: DecoderConfig, maxLengthTokens: number, private readonly queryBlocks: number) {
    this.halfWidth = rotaryWidth(config) / 2;
    const shape = [maxLengthTokens, this.halfWidth];
    this.kinds = attentionKinds(config).map(({ name, windowTokens, rope }) => {
      if (this.halfWidth === 0) return { name, windowTokens, tables: undefined };
      const { cos, sin } = ropeTables({ headDim: config.headDim, rotaryDim: rotaryWidth(config), ...rope }, maxLengthTokens);
      return { name, windowTokens, tables: { cos: runtime.from(cos, 'float32', shape), sin: runtime.from(sin, 'float32', shape) } };
    });
  }

  get(rows: number, length: number): ShapeInputs {
    const key = `${rows}x${length}`;
    const known = this.shapes.get(key);
    if (known !== undefined) {
      this.shapes.delete(key);
      this.shapes.set(key, known);
      return known;
    }
    const oldest = this.shapes.keys().next();
    if (this.shapes.size >= CACHED_SHAPES && oldest.done !== true) this.forget(oldest.value);
    const positions = this.runtime.empty('int64', [rows, length]);
    const data = positions.data as BigInt64Array;
    for (let i = 0; i < data.length; i++) data[i] = BigInt(i % length);
    return this.keep(key, positions, length, (block, windowTokens) => this.runtime.from(causalMask(block, windowTokens), 'float32', [block.rows, block.keys]));
  }

  /** Inputs of packed rows: positions from 0 in every sequence, and masks of their own. Good until the next call. */
  packed(rows: number, length: number, places: readonly Place[]): ShapeInputs {
    const key = 'packed';
    if (this.shapes.has(key)) this.forget(key);
    const positions = this.runtime.empty('int64', [rows, length]);
    const data = positions.data as BigInt64Array;
    for (const { start, length: size } of places) for (let t = 0; t < size; t++) data[start + t] = BigInt(t);
    return this.keep(key, positions, length, (block, windowTokens) =>
      this.runtime.from(packedMask(rows, length, places, block, windowTokens), 'float32', [rows, 1, 1, block.rows, block.keys]));
  }

  dispose(): void {
    for (const key of [...this.shapes.keys()]) this.forget(key);
    for (const { tables } of this.kinds) {
      tables?.cos.dispose();
      tables?.sin.dispose();
    }
  }

  private keep(key: string, positions: Tensor, length: number, mask: (block: QueryBlock, windowTokens: number | undefined) => Tensor): ShapeInputs {
    const view = (table: Tensor): Tensor => table.view([length, this.halfWidth]);
    const blocks = cutQueries(length, this.queryBlocks);
    const attention = new Map(this.kinds.map(({ name, windowTokens, tables }) => {
      const rotary = tables === undefined ? {} : { cos: view(tables.cos), sin: view(tables.sin) };
      return [name, { ...rotary, masks: new Map(blocks.map((block, i) => [maskInput(i), mask(block, windowTokens)])) }] as const;
    }));
    const inputs = { positions, attention };
    this.shapes.set(key, inputs);
    return inputs;
  }

  private forget(key: string): void {
    const { positions, attention } = this.shapes.get(key)!;
    positions.dispose();
    for (const { cos, sin, masks } of attention.values()) for (const tensor of [cos, sin, ...masks.values()]) tensor?.dispose();
    this.shapes.delete(key);
  }
}
