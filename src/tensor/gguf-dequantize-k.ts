/**
 * Dequantization of GGML's K types: superblocks of 256 elements whose groups have small integer scales (and minima) under one
 * float16 scale. Layouts as in ggml-common.h. Every product here has at most 24 significant bits, so that one rounding to
 * float32 at the end gives ggml's own result to the bit.
 */
import { float16Value } from './half.js';

/** Elements of a superblock. */
const SUPERBLOCK = 256;

function half(bytes: Uint8Array, at: number): number {
  return float16Value((bytes[at] as number) | ((bytes[at + 1] as number) << 8));
}

/** Scale `j` of the eight 6-bit scales and eight 6-bit minima that Q4_K and Q5_K pack into 12 bytes. */
function scaleOf(bytes: Uint8Array, at: number, j: number): number {
  if (j < 4) return (bytes[at + j] as number) & 63;
  return ((bytes[at + j + 4] as number) & 15) | (((bytes[at + j - 4] as number) >> 6) << 4);
}

function minimumOf(bytes: Uint8Array, at: number, j: number): number {
  if (j < 4) return (bytes[at + j + 4] as number) & 63;
  return ((bytes[at + j + 4] as number) >> 4) | (((bytes[at + j] as number) >> 6) << 4);
}

/**
 * Q4_K and Q5_K. Superblock: float16 scale, float16 scale of minima, 12 bytes of 6-bit scales and minima, for Q5_K 32 bytes of fifth
 * bits, 128 bytes of nibbles. A group is 32 elements; groups 2g and 2g+1 are the low and high nibbles of bytes 32g to 32g+31, and
 * their fifth bits are bits 2g and 2g+1. Value: q × scale − minimum.
 */
export function dequantizeQ45K(bytes: Uint8Array, out: Float32Array, fifthBits: boolean): void {
  const blockBytes = fifthBits ? 176 : 144;
  for (let block = 0, to = 0; to < out.length; block += blockBytes, to += SUPERBLOCK) {
    const scale = half(bytes, block);
    const minimum = half(bytes, block + 2);
    const high = block + 16;
    for (let group = 0; group < 8; group++) {
      const groupScale = scale * scaleOf(bytes, block + 4, group);
      const groupMinimum = minimum * minimumOf(bytes, block + 4, group);
      const from = block + (fifthBits ? 48 : 16) + (group >> 1) * 32;
      const shift = (group & 1) * 4;
      for (let i = 0; i < 32; i++) {
        const fifth = fifthBits ? (((bytes[high + i] as number) >> group) & 1) << 4 : 0;
        out[to + group * 32 + i] = ((((bytes[from + i] as number) >> shift) & 15) | fifth) * groupScale - groupMinimum;
      }
    }
  }
}

/**
 * Q6_K. Superblock: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales (one per 16 elements), float16 scale.
 * Each half of 128 elements is four runs of 32: runs 0 and 1 are the low nibbles of its 64 bytes, 2 and 3 the high ones; run r's
 * upper bits are pair r of its 32 bytes. Value: (q − 32) × scale.
 */
export function dequantizeQ6K(bytes: Uint8Array, out: Float32Array): void {
  for (let block = 0, to = 0; to < out.length; block += 210, to += SUPERBLOCK) {
    const scale = half(bytes, block + 208);
    for (let run = 0; run < 8; run++) {
      const within = run & 3;
      const low = block + (run >> 2) * 64 + (within & 1) * 32;
      const upper = block + 128 + (run >> 2) * 32;
      for (let i = 0; i < 32; i++) {
        const nibble = ((bytes[low + i] as number) >> ((within >> 1) * 4)) & 15;
        const pair = ((bytes[upper + i] as number) >> (within * 2)) & 3;
        const groupScale = ((bytes[block + 192 + run * 2 + (i >> 4)] as number) << 24) >> 24;
        out[to + run * 32 + i] = scale * groupScale * ((nibble | (pair << 4)) - 32);
      }
    }
  }
}
