/**
 * How the weights lie in memory while a model is served: as float32, or as small integers in blocks along the inputs that share a scale
 * (docs/decisions/0013-int4.md says why which layer gets which). Layers that a checkpoint stores as such integers keep them: they are
 * never quantized a second time.
 */
import type { WeightSource } from './checkpoint-types.js';

/** What an operator chooses: 4 bits with the sensitive layers in 8, 8 bits throughout, or float32. */
export type ServingForm = 'int4' | 'int8' | 'float32';

/** Integers of com.microsoft.MatMulNBits: value = (q − zero point) · scale per block. */
export interface BlockFormat {
  readonly bits: 4 | 8;
  /** Inputs that share a scale. */
  readonly blockSize: number;
  /** Whether blocks have zero points of their own; otherwise it is 2^(bits−1). */
  readonly zeroPoints: boolean;
}

export type LinearFormat = BlockFormat | 'float32';
/** Formats of merged layers whose integers come from the checkpoint, by the layer's name. */
export type StoredFormats = ReadonlyMap<string, BlockFormat>;
/** How a checkpoint stores a tensor, where it stores it as integers. */
export type QuantizedAs = (source: string) => ReturnType<NonNullable<WeightSource['quantizedAs']>>;
export const NOTHING_STORED: StoredFormats = new Map();

export const INT8: BlockFormat = { bits: 8, blockSize: 32, zeroPoints: false };
export const INT4: BlockFormat = { bits: 4, blockSize: 32, zeroPoints: false };

/** What a merged layer is to the formats: only its role in a decoder layer matters. */
interface Layer {
  readonly name: string;
  readonly modules: readonly string[];
}

/** The format of a merged linear layer. The head and the down projection lose most by 4 bits and keep 8. */
export function linearFormat({ name }: Layer, form: ServingForm, stored: StoredFormats): LinearFormat {
  if (form === 'float32') return 'float32';
  const kept = stored.get(name);
  if (kept !== undefined) return kept;
  return form === 'int8' || name === 'head' || name.endsWith('.down') ? INT8 : INT4;
}

/** The formats of those layers all of whose modules are stored as integers in one format. */
export function storedFormats(layers: readonly Layer[], form: ServingForm, quantizedAs: QuantizedAs): StoredFormats {
  const formats = new Map<string, BlockFormat>();
  if (form === 'float32') return formats;
  for (const { name, modules } of layers) {
    const [first, ...others] = modules.map((module) => quantizedAs(`${module}.weight`));
    if (first === undefined || !others.every((other) => other?.bits === first.bits && other.blockSize === first.blockSize)) continue;
    formats.set(name, { ...first, zeroPoints: true });
  }
  return formats;
}

/** Bytes of one row of packed integers, or of one row of zero points. */
export function packedBytes(elements: number, bits: 4 | 8): number {
  return Math.ceil((elements * bits) / 8);
}
