/**
 * Dequantization of GGML's storage types to float32 in the block layouts of ggml-common.h. The
 * result is bit-equal to ggml's own.
 */
import type { FileHandle } from 'node:fs/promises';
import { bfloat16ToFloat32, float16ToFloat32, float16Value } from './half.js';
import { elementCount } from './dtype.js';
import type { GgmlType, GgufTensorInfo } from './gguf-types.js';
import { readAsFloat32 } from './read-float32.js';

/** Taken out of `Math` once: in a test's realm every look-up of a global in a loop is slow (40 s instead of 0.5 for SmolLM2). */
const { fround } = Math;

/** Dequantizes `bytes` (whole blocks, beginning 4-byte aligned) into `out`. */
export function dequantize(type: GgmlType['name'], bytes: Uint8Array, out: Float32Array): void {
  switch (type) {
    case 'F32':
      out.set(new Float32Array(bytes.buffer, bytes.byteOffset, out.length));
      return;
    case 'F16':
      float16ToFloat32(new Uint16Array(bytes.buffer, bytes.byteOffset, out.length), out);
      return;
    case 'BF16':
      bfloat16ToFloat32(new Uint16Array(bytes.buffer, bytes.byteOffset, out.length), out);
      return;
    case 'Q8_0':
      { dequantizeQ8(bytes, out); return; }
    case 'Q4_0':
      { dequantizeQ40(bytes, out); return; }
    case 'Q4_1':
      { dequantizeQ41(bytes, out); return; }
  }
}

function half(bytes: Uint8Array, at: number): number {
  return float16Value((bytes[at] as number) | ((bytes[at + 1] as number) << 8));
}

/** Block: float16 scale, 32 signed bytes. */
function dequantizeQ8(bytes: Uint8Array, out: Float32Array): void {
  for (let block = 0, to = 0; to < out.length; block += 34) {
    const scale = half(bytes, block);
    for (let i = block + 2; i < block + 34; i++) out[to++] = scale * (((bytes[i] as number) << 24) >> 24);
  }
}

/** Block: float16 scale, 16 bytes: low nibbles are elements 0–15, high ones 16–31; value (nibble − 8) × scale. */
function dequantizeQ40(bytes: Uint8Array, out: Float32Array): void {
  for (let block = 0, to = 0; to < out.length; block += 18, to += 32) {
    const scale = half(bytes, block);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[block + 2 + i] as number;
      out[to + i] = ((pair & 15) - 8) * scale;
      out[to + 16 + i] = ((pair >> 4) - 8) * scale;
    }
  }
}

/** Block: float16 scale, float16 minimum, 16 bytes as in Q4_0; value nibble × scale + minimum, rounded after each operation as float32 does. */
function dequantizeQ41(bytes: Uint8Array, out: Float32Array): void {
  for (let block = 0, to = 0; to < out.length; block += 20, to += 32) {
    const scale = half(bytes, block);
    const minimum = half(bytes, block + 2);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[block + 4 + i] as number;
      out[to + i] = fround((pair & 15) * scale) + minimum;
      out[to + 16 + i] = fround((pair >> 4) * scale) + minimum;
    }
  }
}

/** Reads a tensor from its open file as float32, row-major, in memory of its own. */
export function readGgufFloat32(file: FileHandle, info: GgufTensorInfo, label: string): Promise<Float32Array> {
  const { blockElements, blockBytes, name } = info.type;
  const stored = { offsetBytes: info.offsetBytes, elements: elementCount(info.shape), blockElements, blockBytes };
  return readAsFloat32(file, stored, (bytes, out) => dequantize(name, bytes, out), label);
}
