/**
 * Writing GGUF, version 3 (github.com/ggml-org/ggml docs/gguf.md): header, metadata, tensor infos, then the tensors at
 * multiples of 32 bytes, each read and quantized when its turn comes, so that one tensor is in memory at a time. The bytes are
 * a function of the content alone; a file appears whole or not at all.
 */
import { elementCount } from './dtype.js';
import { quantize, storedBytes, type GgufStorage } from './gguf-quantize.js';
import { GGML_TYPES } from './gguf-types.js';
import { writeAtomically } from './safetensors-write.js';

/** A metadata value with its type in the file. */
export type GgufField =
  | { readonly type: 'uint32' | 'float32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'int32s' | 'float32s'; readonly value: readonly number[] };

export interface GgufTensorContent {
  readonly name: string;
  /** Row-major, outermost dimension first; for Q8_0 the innermost is a multiple of 32. */
  readonly shape: readonly number[];
  readonly storage: GgufStorage;
  /** The values, `elementCount(shape)` of them. */
  values(): Promise<Float32Array>;
}

export interface GgufContent {
  readonly metadata: ReadonlyMap<string, GgufField>;
  readonly tensors: readonly GgufTensorContent[];
}

const ALIGNMENT = 32;
const CODES = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9 } as const;

function padding(length: number): Uint8Array {
  return new Uint8Array(Math.ceil(length / ALIGNMENT) * ALIGNMENT - length);
}

const u32 = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer);
const u64 = (value: number): Uint8Array => new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);

function text(value: string): Uint8Array {
  const bytes = Buffer.from(value, 'utf8');
  return Buffer.concat([u64(bytes.length), bytes]);
}

function encodeField(field: GgufField): Uint8Array {
  switch (field.type) {
    case 'uint32':
      return Buffer.concat([u32(CODES.uint32), u32(field.value)]);
    case 'float32':
      return Buffer.concat([u32(CODES.float32), new Uint8Array(Float32Array.of(field.value).buffer)]);
    case 'bool':
      return Buffer.concat([u32(CODES.bool), Uint8Array.of(field.value ? 1 : 0)]);
    case 'string':
      return Buffer.concat([u32(CODES.string), text(field.value)]);
    case 'strings':
      return Buffer.concat([u32(CODES.array), u32(CODES.string), u64(field.value.length), ...field.value.map(text)]);
    case 'int32s':
      return Buffer.concat([
        u32(CODES.array),
        u32(CODES.int32),
        u64(field.value.length),
        new Uint8Array(Int32Array.from(field.value).buffer),
      ]);
    case 'float32s':
      return Buffer.concat([
        u32(CODES.array),
        u32(CODES.float32),
        u64(field.value.length),
        new Uint8Array(Float32Array.from(field.value).buffer),
      ]);
  }
}

function encodeHeader({ metadata, tensors }: GgufContent): Uint8Array {
  const parts = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(metadata.size)];
  for (const [key, field] of metadata) parts.push(text(key), encodeField(field));
  let offset = 0;
  for (const { name, shape, storage } of tensors) {
    const code = GGML_TYPES.find((type) => type.name === storage)?.code as number;
    parts.push(text(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(code), u64(offset));
    const bytes = storedBytes(storage, elementCount(shape));
    offset += bytes + padding(bytes).length;
  }
  const header = Buffer.concat(parts);
  return Buffer.concat([header, padding(header.length)]);
}

async function* pieces(content: GgufContent): AsyncGenerator<Uint8Array> {
  yield encodeHeader(content);
  for (const tensor of content.tensors) {
    const bytes = quantize(tensor.storage, await tensor.values(), tensor.name);
    yield bytes;
    yield padding(bytes.length);
  }
}

/** Throws MODEL_UNSUPPORTED for values that the storage can't hold, STORAGE_FULL or STORAGE_FAILED; then no file is left. */
export async function writeGguf(path: string, content: GgufContent): Promise<void> {
  await writeAtomically(path, pieces(content));
}
