/**
 * Float32 weights to the 4-bit form of com.microsoft.MatMulNBits: blocks of 32 along the inputs, symmetric around 8. Pure arithmetic; it
 * yields to the event loop between pieces so that a model can be quantized while others are served.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';

// Looked up once: a global in a hot loop costs ten times the loop where code runs in a context of its own, as under jest.
const { fround, min } = Math;

/** Elements of one block, which share a scale. */
export const INT4_BLOCK = 32;
/** The stored value that means zero. */
const ZERO_POINT = 8;
/** About 2 ms of work between turns of the event loop. */
const ELEMENTS_PER_TURN = 1 << 19;

/** weight[n,k] ≈ (q[n,k] − 8) · scales[n, k/32]. */
export interface Int4Weight {
  /** N */
  readonly rows: number;
  /** K, not counting the padding of the last block. */
  readonly columns: number;
  /** uint8 [N, ceil(K/32), 16], the earlier of two values in the low half; padding holds 8. */
  readonly values: Uint8Array;
  /** float32 [N, ceil(K/32)] */
  readonly scales: Float32Array;
}

/**
 * Quantizes weight [rows, columns] (row-major, [out, in]) as ggml's Q4_0 does, the scale kept in float32: scale = w / −8 of the element that
 * is largest by magnitude, so that this one is exact; value = round(w / scale) + 8, at most 15. A block of zeros has scale 0.
 */
export async function quantizeInt4(weight: Float32Array, rows: number, columns: number): Promise<Int4Weight> {
  if (weight.length !== rows * columns) throw new RangeError(`quantizeInt4: ${weight.length} elements for [${rows},${columns}]`);
  const blocks = Math.ceil(columns / INT4_BLOCK);
  const values = new Uint8Array((rows * blocks * INT4_BLOCK) / 2).fill(ZERO_POINT * 17);
  const scales = new Float32Array(rows * blocks);
  const rowsPerTurn = Math.max(1, Math.floor(ELEMENTS_PER_TURN / columns));
  for (let from = 0; from < rows; from += rowsPerTurn) {
    quantizeRows(weight, columns, from, Math.min(rows, from + rowsPerTurn), values, scales);
    await nextTurn();
  }
  return { rows, columns, values, scales };
}

function quantizeRows(weight: Float32Array, columns: number, from: number, to: number, values: Uint8Array, scales: Float32Array): void {
  const blocks = Math.ceil(columns / INT4_BLOCK);
  for (let row = from; row < to; row++) {
    for (let block = 0; block < blocks; block++) {
      const start = row * columns + block * INT4_BLOCK;
      const end = min(start + INT4_BLOCK, (row + 1) * columns);
      let low = 0;
      let high = 0;
      for (let i = start; i < end; i++) {
        const value = weight[i]!;
        if (value < low) low = value;
        else if (value > high) high = value;
      }
      const scale = fround((high > -low ? high : low) / -ZERO_POINT);
      const at = row * blocks + block;
      scales[at] = scale;
      const inverse = scale === 0 ? 0 : 1 / scale;
      let out = (at * INT4_BLOCK) / 2;
      // x + 8.5 is not negative, so truncation rounds to nearest.
      for (let i = start; i < end; i += 2, out++) {
        const first = min(15, (weight[i]! * inverse + (ZERO_POINT + 0.5)) | 0);
        const second = i + 1 < end ? min(15, (weight[i + 1]! * inverse + (ZERO_POINT + 0.5)) | 0) : ZERO_POINT;
        values[out] = first | (second << 4);
      }
    }
  }
}

/** The float32 weight [rows, columns] that the quantized form stands for. */
export function dequantizeInt4({ rows, columns, values, scales }: Int4Weight): Float32Array {
  const blocks = Math.ceil(columns / INT4_BLOCK);
  const out = new Float32Array(rows * columns);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at++) {
      const element = row * blocks * INT4_BLOCK + column;
      const value = (values[element >> 1]! >> ((element & 1) * 4)) & 15;
      out[at] = (value - ZERO_POINT) * scales[row * blocks + Math.floor(column / INT4_BLOCK)]!;
    }
  }
  return out;
}
