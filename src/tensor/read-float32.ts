/**
 * Reads a stored tensor as float32 by pieces: read a range, convert it, let the event loop run, go on. A piece costs about a
 * millisecond of conversion, so that generation goes on while a model loads.
 */
import type { FileHandle } from 'node:fs/promises';
import { LoricaError } from '../common/errors.js';
import { readRange } from './file-range.js';

/** Elements converted at a time; a multiple of every quantization block. */
const PIECE_ELEMENTS = 1 << 20;

export interface StoredTensor {
  /** Names the tensor in errors. */
  readonly name: string;
  readonly offsetBytes: number;
  readonly elements: number;
  readonly blockElements: number;
  readonly blockBytes: number;
}

/**
 * `convert` turns whole blocks into as many floats as `out` has. The result owns its memory. `label` names the file in errors. Throws
 * CHECKPOINT_CORRUPT for a value that is no finite number: one of them would turn every output into NaN, far from its cause.
 */
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
    checkFinite(out.subarray(from, to), stored.name, label, from);
  }
  return out;
}

/** Throws CHECKPOINT_CORRUPT, naming the first value of `values` that is NaN or infinite; `offset` is added to its index. */
export function checkFinite(values: Float32Array, name: string, label: string, offset = 0): void {
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (value - value !== 0) {
      throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${label}: element ${offset + i} of "${name}" is ${value}`, {
        hint: 'The weights are damaged, or their training diverged; fetch or export them again.',
      });
    }
  }
}
