/**
 * Linear weights stored as small integers in blocks along the input dimension, in one neutral layout (that of
 * com.microsoft.MatMulNBits), and the published layouts of GPTQ and AWQ brought into it without rounding anything:
 * value = (q − zero point) × scale before and after.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LoricaError } from '../common/errors.js';

export interface QuantizedLinear {
  /** Outputs N. */
  readonly rows: number;
  /** Inputs K, a multiple of `blockSize`. */
  readonly columns: number;
  readonly bits: 4 | 8;
  /** Inputs that share a scale and a zero point: a power of two, 16 or more. */
  readonly blockSize: number;
  /** [N, K/blockSize, blockSize·bits/8], the earlier of two nibbles in the low half. */
  readonly packed: Uint8Array;
  /** [N, K/blockSize] */
  readonly scales: Float32Array;
  /** [N, ceil(K/blockSize·bits/8)], packed as the values are. */
  readonly zeroPoints: Uint8Array;
}

/** The tensors of one linear layer as both methods name them; scales [groups, N]. */
export interface PackedLinear {
  readonly qweight: Int32Array;
  readonly qzeros: Int32Array;
  readonly scales: Float32Array;
  readonly rows: number;
  readonly columns: number;
  readonly bits: 4 | 8;
  /** Inputs per scale. */
  readonly groupSize: number;
}

/** Words handled between turns of the event loop, about 2 ms. */
const WORDS_PER_TURN = 1 << 19;
/** Larger groups are cut into blocks of at most this many inputs, which repeat the group's scale. */
const MAX_BLOCK = 256;

/**
 * GPTQ: qweight [K/(32/bits), N], a word holding consecutive inputs of one output, lowest bits first; qzeros [groups, N/(32/bits)], a word
 * holding consecutive outputs. `storedMinus` is what the format took off each zero point (1 in its first version, 0 in "gptq_v2").
 * Throws MODEL_UNSUPPORTED for a zero point that `bits` can't hold; `label` names the layer.
 */
export async function fromGptq(layer: PackedLinear, storedMinus: 0 | 1, label: string): Promise<QuantizedLinear> {
  const { qweight, qzeros, rows, columns, bits } = layer;
  const perWord = 32 / bits;
  const mask = 2 ** bits - 1;
  const wordsPerRow = columns / perWord;
  const words = new Int32Array(rows * wordsPerRow);
  const step = Math.max(1, Math.floor(WORDS_PER_TURN / rows));
  for (let word = 0; word < wordsPerRow; word++) {
    for (let row = 0, from = word * rows; row < rows; row++, from++) words[row * wordsPerRow + word] = qweight[from] as number;
    if (word % step === 0) await nextTurn();
  }
  const groups = columns / layer.groupSize;
  const zeros = new Uint16Array(groups * rows);
  for (let group = 0, at = 0; group < groups; group++) {
    for (let row = 0; row < rows; row++, at++) {
      const word = qzeros[(group * rows) / perWord + Math.floor(row / perWord)] as number;
      zeros[at] = ((word >>> (bits * (row % perWord))) & mask) + storedMinus;
      if ((zeros[at] as number) > mask) {
        throw new LoricaError(
          'FAILED_PRECONDITION',
          'MODEL_UNSUPPORTED',
          `${label} has the zero point ${mask + 1}, which ${bits} bits can't hold`,
        );
      }
    }
  }
  return inBlocks(layer, new Uint8Array(words.buffer), zeros);
}

/** Output of each nibble of an AWQ word, lowest bits first. */
const AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7] as const;

/** AWQ ("gemm" version, 4 bits): qweight [K, N/8] and qzeros [groups, N/8], a word holding eight outputs in the order 0 2 4 6 1 3 5 7. */
export async function fromAwq(layer: PackedLinear): Promise<QuantizedLinear> {
  const { qweight, qzeros, rows, columns } = layer;
  const words = rows / 8;
  const packed = new Uint8Array((rows * columns) / 2);
  const step = Math.max(1, Math.floor(WORDS_PER_TURN / rows));
  for (let column = 0; column < columns; column++) {
    const half = (column & 1) * 4;
    for (let word = 0; word < words; word++) {
      const bits = qweight[column * words + word] as number;
      for (let nibble = 0; nibble < 8; nibble++) {
        const row = word * 8 + (AWQ_ORDER[nibble] as number);
        const at = (row * columns + column) >> 1;
        packed[at] = (packed[at] as number) | (((bits >>> (4 * nibble)) & 15) << half);
      }
    }
    if (column % step === 0) await nextTurn();
  }
  const zeros = new Uint16Array((columns / layer.groupSize) * rows);
  qzeros.forEach((bits, at) => {
    for (let nibble = 0; nibble < 8; nibble++) zeros[at * 8 + (AWQ_ORDER[nibble] as number)] = (bits >>> (4 * nibble)) & 15;
  });
  return inBlocks(layer, packed, zeros);
}

/** Scales and zero points, given as [groups, N], per block as [N, blocks]. */
function inBlocks({ scales, rows, columns, bits, groupSize }: PackedLinear, packed: Uint8Array, zeros: Uint16Array): QuantizedLinear {
  const blockSize = blockOf(groupSize);
  const blocks = columns / blockSize;
  const blocksPerGroup = groupSize / blockSize;
  const zeroBytes = Math.ceil((blocks * bits) / 8);
  const blockScales = new Float32Array(rows * blocks);
  const zeroPoints = new Uint8Array(rows * zeroBytes);
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const from = Math.floor(block / blocksPerGroup) * rows + row;
      blockScales[row * blocks + block] = scales[from] as number;
      const at = row * zeroBytes + ((block * bits) >> 3);
      zeroPoints[at] = (zeroPoints[at] as number) | ((zeros[from] as number) << ((block * bits) & 7));
    }
  }
  return { rows, columns, bits, blockSize, packed, scales: blockScales, zeroPoints };
}

/** The largest power of two up to 256 that divides a group: the block it is cut into. */
export function blockOf(groupSize: number): number {
  return Math.min(groupSize & -groupSize, MAX_BLOCK);
}

/** The weight [N, K] in float32. */
export async function dequantizeLinear(linear: QuantizedLinear): Promise<Float32Array> {
  const { rows, columns, bits, blockSize, packed, scales, zeroPoints } = linear;
  const blocks = columns / blockSize;
  const zeroBytes = Math.ceil((blocks * bits) / 8);
  const mask = 2 ** bits - 1;
  const out = new Float32Array(rows * columns);
  const step = Math.max(1, Math.floor(WORDS_PER_TURN / columns));
  for (let row = 0, at = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const scale = scales[row * blocks + block] as number;
      const zero = ((zeroPoints[row * zeroBytes + ((block * bits) >> 3)] as number) >> ((block * bits) & 7)) & mask;
      for (let end = at + blockSize; at < end; at++) {
        const value = bits === 8 ? (packed[at] as number) : ((packed[at >> 1] as number) >> ((at & 1) * 4)) & 15;
        out[at] = (value - zero) * scale;
      }
    }
    if (row % step === 0) await nextTurn();
  }
  return out;
}
