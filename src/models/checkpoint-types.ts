/**
 * A base model as it lies on disk, opened and checked: config, weights, tokenizer and chat template agree with each other, or
 * `openCheckpoint` throws. Weights are read one tensor at a time, on demand; nothing is converted before it is asked for.
 */
import type { QuantizedLinear } from '../tensor/quantized-linear.js';
import type { ChatTemplate } from './chat-template.js';
import type { DecoderConfig } from './config.js';
import type { Tokenizer } from './tokenizer-types.js';

export interface WeightSource {
  /** Hugging Face names, exactly those of `weightShapes(config)`. */
  names(): string[];
  /** Linear weights are [out, in]. */
  shape(name: string): readonly number[];
  /** As the file spells it: F32, F16, BF16, a GGML type such as Q8_0 and Q4_K, or INT4 and INT8 of GPTQ and AWQ. */
  storedAs(name: string): string;
  /** The tensor dequantized, in memory of its own; long work is cut into pieces that let the event loop run. */
  float32(name: string): Promise<Float32Array>;
  /** The format of `quantized`, without reading the tensor; undefined when it isn't stored so. */
  quantizedAs?(name: string): { readonly bits: 4 | 8; readonly blockSize: number } | undefined;
  /** A linear weight as the small integers that it is stored as (GPTQ, AWQ); undefined when it isn't. `float32` gives the same values. */
  quantized?(name: string): Promise<QuantizedLinear> | undefined;
}

export interface Checkpoint {
  readonly id: string;
  readonly config: DecoderConfig;
  readonly weights: WeightSource;
  readonly tokenizer: Tokenizer;
  /** The tokenizer.json that the tokenizer was made of; for a GGUF file, the one that its metadata stands for. */
  readonly tokenizerJson: unknown;
  readonly chatTemplate: ChatTemplate | undefined;
  /** `sha256:…` of the file (GGUF), or of the sorted list of its files' digests (folder). */
  readonly digest: string;
  readonly path: string;
  close: () => Promise<void>;
}

export interface OpenOptions {
  /** Defaults to the name of the file or folder. */
  readonly id?: string;
  /** `sha256:…` known from a verified download; saves hashing the files again. */
  readonly knownDigest?: string;
}
