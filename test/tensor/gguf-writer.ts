/** Writes small GGUF files for tests, well-formed unless told otherwise. */
import type { GgufValue } from '../../src/tensor/gguf.js';

export type Typed =
  | { readonly u32: number } | { readonly f32: number } | { readonly bool: boolean } | { readonly text: string }
  | { readonly texts: readonly string[] } | { readonly f32s: readonly number[] } | { readonly i32s: readonly number[] }
  | { readonly raw: Buffer };

export interface GgufTensor {
  readonly name: string;
  /** Outermost first. */
  readonly shape: readonly number[];
  /** GGML type code; 0 is F32. */
  readonly type?: number;
  readonly data: Uint8Array;
  /** Replaces the offset that the layout gives. */
  readonly offset?: number;
}

export interface GgufContent {
  readonly metadata?: Readonly<Record<string, Typed>>;
  readonly tensors?: readonly GgufTensor[];
  readonly version?: number;
  readonly magic?: string;
  readonly tensorCount?: bigint;
  readonly keyCount?: bigint;
}

const u32 = (value: number): Buffer => Buffer.from(Uint32Array.of(value).buffer);
const u64 = (value: number | bigint): Buffer => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
const f32 = (value: number): Buffer => Buffer.from(Float32Array.of(value).buffer);
export const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

function value(typed: Typed): Buffer {
  if ('u32' in typed) return Buffer.concat([u32(4), u32(typed.u32)]);
  if ('f32' in typed) return Buffer.concat([u32(6), f32(typed.f32)]);
  if ('bool' in typed) return Buffer.concat([u32(7), Buffer.of(typed.bool ? 1 : 0)]);
  if ('text' in typed) return Buffer.concat([u32(8), text(typed.text)]);
  if ('texts' in typed) return Buffer.concat([u32(9), u32(8), u64(typed.texts.length), ...typed.texts.map(text)]);
  if ('f32s' in typed) return Buffer.concat([u32(9), u32(6), u64(typed.f32s.length), ...typed.f32s.map(f32)]);
  if ('i32s' in typed) return Buffer.concat([u32(9), u32(5), u64(typed.i32s.length), ...typed.i32s.map((item) => u32(item))]);
  return typed.raw;
}

export function encodeGguf(content: GgufContent): Buffer {
  const { metadata = {}, tensors = [] } = content;
  const keys = Object.entries(metadata);
  const head = [
    Buffer.from(content.magic ?? 'GGUF'), u32(content.version ?? 3), u64(content.tensorCount ?? tensors.length), u64(content.keyCount ?? keys.length),
    ...keys.map(([key, typed]) => Buffer.concat([text(key), value(typed)])),
  ];
  const data: Buffer[] = [];
  let at = 0;
  for (const tensor of tensors) {
    const shape = [...tensor.shape].reverse();
    head.push(text(tensor.name), u32(shape.length), ...shape.map(u64), u32(tensor.type ?? 0), u64(tensor.offset ?? at));
    const padded = Math.ceil(tensor.data.length / 32) * 32;
    data.push(Buffer.from(tensor.data), Buffer.alloc(padded - tensor.data.length));
    at += padded;
  }
  const header = Buffer.concat(head);
  return Buffer.concat([header, Buffer.alloc(Math.ceil(header.length / 32) * 32 - header.length), ...data]);
}

export function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Metadata as `readGgufHeader` gives it, for code that takes only that. */
export function metadataMap(entries: Readonly<Record<string, GgufValue>>): ReadonlyMap<string, GgufValue> {
  return new Map(Object.entries(entries));
}
