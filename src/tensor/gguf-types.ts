/** The values, tensor infos and storage types that a GGUF file is made of, as far as we read them. */

export interface GgmlType {
  readonly code: number;
  readonly name: 'F32' | 'F16' | 'BF16' | 'Q4_0' | 'Q4_1' | 'Q5_0' | 'Q5_1' | 'Q8_0' | 'Q4_K' | 'Q5_K' | 'Q6_K';
  readonly blockElements: number;
  readonly blockBytes: number;
}

export const GGML_TYPES: readonly GgmlType[] = [
  { code: 0, name: 'F32', blockElements: 1, blockBytes: 4 },
  { code: 1, name: 'F16', blockElements: 1, blockBytes: 2 },
  { code: 30, name: 'BF16', blockElements: 1, blockBytes: 2 },
  { code: 2, name: 'Q4_0', blockElements: 32, blockBytes: 18 },
  { code: 3, name: 'Q4_1', blockElements: 32, blockBytes: 20 },
  { code: 6, name: 'Q5_0', blockElements: 32, blockBytes: 22 },
  { code: 7, name: 'Q5_1', blockElements: 32, blockBytes: 24 },
  { code: 8, name: 'Q8_0', blockElements: 32, blockBytes: 34 },
  { code: 12, name: 'Q4_K', blockElements: 256, blockBytes: 144 },
  { code: 13, name: 'Q5_K', blockElements: 256, blockBytes: 176 },
  { code: 14, name: 'Q6_K', blockElements: 256, blockBytes: 210 },
];

export type GgufValue = number | bigint | boolean | string | readonly GgufValue[];

export interface GgufTensorInfo {
  readonly name: string;
  /** Row-major, outermost dimension first. */
  readonly shape: readonly number[];
  readonly type: GgmlType;
  /** Offset from the start of the file. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}
