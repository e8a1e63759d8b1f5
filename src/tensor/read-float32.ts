/**
 * Reads a stored tensor as float32 by pieces: read a range, convert it, let the event loop run, go on. A piece costs about a
 * millisecond of conversion, so that generation goes on while a model loads.
 */
import type { FileHandle } from 'node:fs/promises';
import { readRange } from './file-range.js';

/** Elements converted at a time; a multiple of every quantization block. */
const PIECE_ELEMENTS = 1 << 20;

export interface StoredTensor {
  readonly offsetBytes: number;
  readonly elements: number;
  readonly blockElements: number;
  readonly blockBytes: number;
}

/** `convert` turns whole blocks into as many floats as `out` has. The result owns its memory. `label` names the file in errors. */
export async function readAsFloat32(
  file: FileHandle,
  stored: StoredTensor,
  convert: (bytes: Uint8Array, out: Float32Array) => void,
  label: string,
): Promise<Float32Array> {
  const out = new Float32Array(stored.elements);
  const bytesOf = (count: number): number => (count / stored.blockElements) * stored.blockBytes;
  for (let from = 0; from < stored.elements; from += PIECE_ELEMENTS) {
    const to = Math.min(from + PIECE_ELEMENTS, stored.elements);
    const bytes = await readRange(file, stored.offsetBytes + bytesOf(from), bytesOf(to - from), label);
    convert(bytes, out.subarray(from, to));
  }
  return out;
}
