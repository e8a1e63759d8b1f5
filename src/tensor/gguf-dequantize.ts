/**
 * Dequantization of GGML's storage types to float32 in the block layouts of ggml-common.h. The
 * result is bit-equal to ggml's own.
 */
import type { FileHandle } from 'node:fs/promises';
import { bfloat16ToFloat32, float16ToFloat32, float16Value } from './half.js';
import { elementCount } from './dtype.js';
import { dequantizeQ45K, dequantizeQ6K } from './gguf-dequantize-k.js';
import type { GgmlType, GgufTensorInfo } from './gguf-types.js';
import { readAsFloat32 } from './read-float32.js';

/** Taken out of `Math` once: in a test's realm every look-up of a global in a loop is slow (40 s instead of 0.5 for SmolLM2). */
const { fround } = Math;

type Convert = (bytes: Uint8Array, out: Float32Array) => void;

const CONVERSIONS: Readonly<Record<GgmlType['name'], Convert>> = {
  F32: (bytes, out) => {
    out.set(new Float32Array(bytes.buffer, bytes.byteOffset, out.length));
  },
  F16: (bytes, out) => {
    float16ToFloat32(new Uint16Array(bytes.buffer, bytes.byteOffset, out.length), out);
  },
  BF16: (bytes, out) => {
    bfloat16ToFloat32(new Uint16Array(bytes.buffer, bytes.byteOffset, out.length), out);
  },
  Q8_0: dequantizeQ8,
  Q4_0: dequantizeQ40,
  Q4_1: dequantizeQ41,
  Q5_0: (bytes, out) => {
    dequantizeQ5(bytes, out, false);
  },
  Q5_1: (bytes, out) => {
    dequantizeQ5(bytes, out, true);
  },
  Q4_K: (bytes, out) => {
    dequantizeQ45K(bytes, out, false);
  },
  Q5_K: (bytes, out) => {
    dequantizeQ45K(bytes, out, true);
  },
  Q6_K: dequantizeQ6K,
};

/** Dequantizes `bytes` (whole blocks, beginning 4-byte aligned) into `out`. */
export function dequantize(type: GgmlType['name'], bytes: Uint8Array, out: Float32Array): void {
  CONVERSIONS[type](bytes, out);
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

/**
 * Q5_0 and Q5_1. Block: float16 scale, for Q5_1 a float16 minimum, 32 fifth bits (bit i is element i's), 16 bytes of nibbles as in Q4_0.
 * Value (q − 16) × scale, or q × scale + minimum (at most 16 significant bits in the product, so one rounding).
 */
function dequantizeQ5(bytes: Uint8Array, out: Float32Array, hasMinimum: boolean): void {
  const head = hasMinimum ? 4 : 2;
  for (let block = 0, to = 0; to < out.length; block += head + 20, to += 32) {
    const scale = half(bytes, block);
    const minimum = hasMinimum ? half(bytes, block + 2) : 0;
    const offset = hasMinimum ? 0 : 16;
    for (let i = 0; i < 32; i++) {
      const nibble = ((bytes[block + head + 4 + (i & 15)] as number) >> (i & 16 ? 4 : 0)) & 15;
      const fifth = ((bytes[block + head + (i >> 3)] as number) >> (i & 7)) & 1;
      const product = ((nibble | (fifth << 4)) - offset) * scale;
      out[to + i] = hasMinimum ? product + minimum : product;
    }
  }
}

/** Reads a tensor from its open file as float32, row-major, in memory of its own. */
export function readGgufFloat32(file: FileHandle, info: GgufTensorInfo, label: string): Promise<Float32Array> {
  const { blockElements, blockBytes, name } = info.type;
  const stored = { name: info.name, offsetBytes: info.offsetBytes, elements: elementCount(info.shape), blockElements, blockBytes };
  return readAsFloat32(file, stored, (bytes, out) => dequantize(name, bytes, out), label);
}
