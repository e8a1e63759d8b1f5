/**
 * Float32 weights to the 8-bit form of com.microsoft.MatMulNBits: blocks of 32 along the input dimension, symmetric around 128.
 * Pure arithmetic; it yields to the event loop between pieces so that a model can be quantized while others are served.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';

// Looked up once: a global in a hot loop costs ten times the loop where code runs in a context of its own, as under jest.
const { fround, min } = Math;

/** Elements of one block, which share a scale. */
export const QUANTIZATION_BLOCK = 32;
/** The stored value that means zero. */
export const ZERO_POINT = 128;

/** About 2 ms of work between turns of the event loop. */
const ELEMENTS_PER_TURN = 1 << 20;

/** weight[n,k] ≈ (values[n, k/32, k%32] − 128) · scales[n, k/32]. */
export interface QuantizedWeight {
  /** Output rows N. */
  readonly rows: number;
  /** Input columns K, not counting the padding of the last block. */
  readonly columns: number;
  /** uint8 [N, ceil(K/32), 32]; padding holds 128. */
  readonly values: Uint8Array;
  /** float32 [N, ceil(K/32)]. */
  readonly scales: Float32Array;
}

export function blocksPerRow(columns: number): number {
  return Math.ceil(columns / QUANTIZATION_BLOCK);
}

/**
 * Quantizes weight [rows, columns] (row-major, [out, in]). Per block: scale = max|w| / 127, value = round(w / scale) + 128; the
 * error of an element is at most half a scale. A block of zeros has scale 0.
 */
export async function quantizeInt8(weight: Float32Array, rows: number, columns: number): Promise<QuantizedWeight> {
  if (weight.length !== rows * columns) throw new RangeError(`quantizeInt8: ${weight.length} elements for [${rows},${columns}]`);
  const blocks = blocksPerRow(columns);
  const values = new Uint8Array(rows * blocks * QUANTIZATION_BLOCK);
  const scales = new Float32Array(rows * blocks);
  const rowsPerTurn = Math.max(1, Math.floor(ELEMENTS_PER_TURN / columns));
  for (let from = 0; from < rows; from += rowsPerTurn) {
    quantizeRows(weight, columns, from, Math.min(rows, from + rowsPerTurn), values, scales);
    await nextTurn();
  }
  return { rows, columns, values, scales };
}

function quantizeRows(weight: Float32Array, columns: number, from: number, to: number, values: Uint8Array, scales: Float32Array): void {
  const blocks = blocksPerRow(columns);
  for (let row = from; row < to; row++) {
    for (let block = 0; block < blocks; block++) {
      const start = row * columns + block * QUANTIZATION_BLOCK;
      const end = min(start + QUANTIZATION_BLOCK, (row + 1) * columns);
      const out = (row * blocks + block) * QUANTIZATION_BLOCK;
      let largest = 0;
      for (let i = start; i < end; i++) {
        const value = weight[i]!;
        if (value > largest) largest = value;
        else if (-value > largest) largest = -value;
      }
      const scale = fround(largest / 127);
      scales[row * blocks + block] = scale;
      const inverse = scale > 0 ? 1 / scale : 0;
      let at = out;
      // x + 128.5 is positive, so truncation rounds to nearest; |x| exceeds 127 by rounding of the scale only.
      for (let i = start; i < end; i++, at++) values[at] = (weight[i]! * inverse + (ZERO_POINT + 0.5)) | 0;
      for (; at < out + QUANTIZATION_BLOCK; at++) values[at] = ZERO_POINT;
    }
  }
}

/** The float32 weight [rows, columns] that the quantized form stands for. */
export function dequantizeInt8(weight: QuantizedWeight): Float32Array {
  const { rows, columns, values, scales } = weight;
  const blocks = blocksPerRow(columns);
  const out = new Float32Array(rows * columns);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at++) {
      const block = row * blocks + Math.floor(column / QUANTIZATION_BLOCK);
      out[at] = (values[block * QUANTIZATION_BLOCK + (column % QUANTIZATION_BLOCK)]! - ZERO_POINT) * scales[block]!;
    }
  }
  return out;
}
