/**
 * Writing safetensors. The bytes are a function of the tensors alone: entries sorted by name, metadata sorted by key, the header
 * padded to 8 bytes; equal content gives equal files. A file appears whole or not at all.
 */
import { open, rename, rm } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { isStorageFull, LoricaError } from '../common/errors.js';
import { byteLength, type DType } from './dtype.js';
import type { HostTensor } from './host-tensor.js';

const NAMES: Readonly<Record<DType, string>> = {
  float64: 'F64',
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  int64: 'I64',
  int32: 'I32',
  int16: 'I16',
  int8: 'I8',
  uint64: 'U64',
  uint32: 'U32',
  uint16: 'U16',
  uint8: 'U8',
  bool: 'BOOL',
};

type Tensors = ReadonlyMap<string, HostTensor>;
/** What a tensor will be, before its data is at hand. */
export type TensorLayout = ReadonlyMap<string, Pick<HostTensor, 'dtype' | 'shape'>>;
type Metadata = Readonly<Record<string, string>>;
/** What the header's length is a multiple of, in bytes; the format asks for 8. */
const HEADER_ALIGNMENT = 8;

/** Header (with its length prefix) and the names of the tensors in file order. Wide dtypes come first so that every tensor is aligned to its element. */
function layOut(tensors: TensorLayout, metadata: Metadata, alignment = HEADER_ALIGNMENT): { header: Uint8Array; ordered: string[] } {
  const names = [...tensors.keys()].sort((a, b) => {
    const width = (name: string): number => byteLength((tensors.get(name) as HostTensor).dtype, []);
    return width(b) - width(a) || (a < b ? -1 : 1);
  });
  const entries: Record<string, unknown> = {};
  const keys = Object.keys(metadata).sort();
  if (keys.length > 0) entries['__metadata__'] = Object.fromEntries(keys.map((key) => [key, metadata[key]]));
  let at = 0;
  for (const name of names) {
    const { dtype, shape } = tensors.get(name) as HostTensor;
    const end = at + byteLength(dtype, shape);
    entries[name] = { dtype: NAMES[dtype], shape, data_offsets: [at, end] };
    at = end;
  }
  let json = Buffer.from(JSON.stringify(entries), 'utf8');
  const over = (8 + json.length) % alignment;
  if (over !== 0) json = Buffer.concat([json, Buffer.alloc(alignment - over, ' ')]);
  const header = new Uint8Array(8 + json.length);
  new DataView(header.buffer).setBigUint64(0, BigInt(json.length), true);
  header.set(json, 8);
  return { header, ordered: names };
}

/** The bytes of `data`, as many as the layout says. */
function bytesOf(name: string, { dtype, shape }: Pick<HostTensor, 'dtype' | 'shape'>, data: HostTensor['data']): Uint8Array {
  const needed = byteLength(dtype, shape);
  if (data.byteLength !== needed) {
    throw new LoricaError('INTERNAL', 'GRAPH_INVALID', `tensor "${name}" holds ${data.byteLength} bytes, its shape needs ${needed}`);
  }
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** The file's bytes in order, a piece a tensor, without copying any. The first tensor lies at a multiple of `alignment` bytes. */
export function* safetensorsPieces(tensors: Tensors, metadata: Metadata = {}, alignment = HEADER_ALIGNMENT): Generator<Uint8Array> {
  const { header, ordered } = layOut(tensors, metadata, alignment);
  yield header;
  for (const name of ordered) {
    const tensor = tensors.get(name) as HostTensor;
    yield bytesOf(name, tensor, tensor.data);
  }
}

/** The whole file in memory. */
export function encodeSafetensors(tensors: Tensors, metadata: Metadata = {}): Uint8Array {
  const pieces = [...safetensorsPieces(tensors, metadata)];
  const out = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/** Writes `path` by way of a temporary file in the same folder, synced before the rename. A full disk is STORAGE_FULL and leaves nothing. `alignment` as for the pieces. */
export async function writeSafetensors(path: string, tensors: Tensors, metadata: Metadata = {}, alignment = HEADER_ALIGNMENT): Promise<void> {
  await writeAtomically(path, safetensorsPieces(tensors, metadata, alignment));
}

/** As `writeSafetensors` for tensors that `read` brings one by one, in the order of the file: one is in memory at a time. */
export async function streamSafetensors(
  path: string,
  layout: TensorLayout,
  read: (name: string) => Promise<HostTensor['data']>,
  metadata: Metadata = {},
): Promise<void> {
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    const { header, ordered } = layOut(layout, metadata);
    yield header;
    for (const name of ordered) yield bytesOf(name, layout.get(name) as HostTensor, await read(name));
  };
  await writeAtomically(path, pieces());
}

/** Writes the chunks to `path`, all or nothing. */
export async function writeAtomically(path: string, chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    const file = await open(temporary, 'wx');
    try {
      for await (const chunk of chunks) await file.writeFile(chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw storageError(path, cause);
  }
}

/** STORAGE_FULL for a full disk, else STORAGE_FAILED, naming the path. A LoricaError passes through. */
export function storageError(path: string, cause: unknown): LoricaError {
  if (cause instanceof LoricaError) return cause;
  if (isStorageFull(cause)) {
    return new LoricaError('RESOURCE_EXHAUSTED', 'STORAGE_FULL', `no space left to write ${path}`, {
      cause,
      hint: 'Free space and try again.',
    });
  }
  return new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', `${path} can't be written: ${String(cause)}`, { cause });
}
