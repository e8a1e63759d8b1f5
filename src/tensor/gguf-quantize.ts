/** float32 values in the storage types that we write as GGUF: F32, F16 and Q8_0, to the bit as ggml's reference quantization. */
import { LoricaError } from '../common/errors.js';
import { float32ToFloat16, toFloat16Bits } from './half.js';

/** Taken out of `Math` once: in a test's realm every look-up of a global in a loop is slow. */
const { abs, ceil, floor, fround } = Math;

export type GgufStorage = 'F32' | 'F16' | 'Q8_0';

/** Elements of a Q8_0 block, and its bytes: a float16 scale and 32 signed bytes. */
const BLOCK = 32;
const BLOCK_BYTES = 34;

/** Bytes that `quantize` needs for `elements`. */
export function storedBytes(type: GgufStorage, elements: number): number {
  return type === 'F32' ? elements * 4 : type === 'F16' ? elements * 2 : (elements / BLOCK) * BLOCK_BYTES;
}

/** Throws MODEL_UNSUPPORTED for a value that float16 (or a block's float16 scale) can't hold; `label` names the tensor there. */
export function quantize(type: GgufStorage, values: Float32Array, label: string): Uint8Array {
  if (type === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (type === 'Q8_0') return quantizeQ8(values, label);
  const halves = float32ToFloat16(values);
  for (const bits of halves) if ((bits & 0x7c00) === 0x7c00) throw tooLarge(type, label);
  return new Uint8Array(halves.buffer);
}

/** Per block: scale max|x| / 127 in float32, values rounded half away from zero by that scale, the scale then stored as float16. */
function quantizeQ8(values: Float32Array, label: string): Uint8Array {
  const out = new Uint8Array(storedBytes('Q8_0', values.length));
  for (let from = 0, to = 0; from < values.length; from += BLOCK, to += BLOCK_BYTES) {
    let largest = 0;
    let finite = true;
    for (let i = from; i < from + BLOCK; i++) {
      const magnitude = abs(values[i] as number);
      if (magnitude > largest) largest = magnitude;
      if (magnitude !== magnitude) finite = false;
    }
    const scale = fround(largest / 127);
    const bits = toFloat16Bits(scale);
    if (!finite || (bits & 0x7c00) === 0x7c00) throw tooLarge('Q8_0', label);
    out[to] = bits & 255;
    out[to + 1] = bits >> 8;
    const inverse = scale === 0 ? 0 : fround(1 / scale);
    for (let i = 0; i < BLOCK; i++) {
      const scaled = fround((values[from + i] as number) * inverse);
      out[to + 2 + i] = scaled < 0 ? ceil(scaled - 0.5) : floor(scaled + 0.5);
    }
  }
  return out;
}

function tooLarge(type: GgufStorage, label: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `tensor "${label}" holds values that ${type} can't`, {
    hint: 'Write the model in float32.',
  });
}
