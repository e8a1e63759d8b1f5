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
  float64: 'F64', float32: 'F32', float16: 'F16', bfloat16: 'BF16', int64: 'I64', int32: 'I32', int16: 'I16', int8: 'I8',
  uint64: 'U64', uint32: 'U32', uint16: 'U16', uint8: 'U8', bool: 'BOOL',
};

type Tensors = ReadonlyMap<string, HostTensor>;
type Metadata = Readonly<Record<string, string>>;

/** Header (with its length prefix) and the tensors in file order. Wide dtypes come first so that every tensor is aligned to its element. */
function layOut(tensors: Tensors, metadata: Metadata): { header: Uint8Array; ordered: HostTensor[] } {
  const names = [...tensors.keys()].sort((a, b) => {
    const width = (name: string): number => byteLength((tensors.get(name) as HostTensor).dtype, []);
    return width(b) - width(a) || (a < b ? -1 : 1);
  });
  const entries: Record<string, unknown> = {};
  const keys = Object.keys(metadata).sort();
  if (keys.length > 0) entries['__metadata__'] = Object.fromEntries(keys.map((key) => [key, metadata[key]]));
  let at = 0;
  const ordered: HostTensor[] = [];
  for (const name of names) {
    const tensor = tensors.get(name) as HostTensor;
    const end = at + byteLength(tensor.dtype, tensor.shape);
    if (tensor.data.byteLength !== end - at) {
      throw new LoricaError('INTERNAL', 'GRAPH_INVALID', `tensor "${name}" holds ${tensor.data.byteLength} bytes, its shape needs ${end - at}`);
    }
    entries[name] = { dtype: NAMES[tensor.dtype], shape: tensor.shape, data_offsets: [at, end] };
    ordered.push(tensor);
    at = end;
  }
  let json = Buffer.from(JSON.stringify(entries), 'utf8');
  if (json.length % 8 !== 0) json = Buffer.concat([json, Buffer.alloc(8 - (json.length % 8), ' ')]);
  const header = new Uint8Array(8 + json.length);
  new DataView(header.buffer).setBigUint64(0, BigInt(json.length), true);
  header.set(json, 8);
  return { header, ordered };
}

function bytesOf(tensor: HostTensor): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}

/** The file's bytes in order, a piece a tensor, without copying any. */
export function* safetensorsPieces(tensors: Tensors, metadata: Metadata = {}): Generator<Uint8Array> {
  const { header, ordered } = layOut(tensors, metadata);
  yield header;
  for (const tensor of ordered) yield bytesOf(tensor);
}

/** The whole file in memory. */
export function encodeSafetensors(tensors: Tensors, metadata: Metadata = {}): Uint8Array {
  const { header, ordered } = layOut(tensors, metadata);
  const out = new Uint8Array(ordered.reduce((sum, tensor) => sum + tensor.data.byteLength, header.length));
  out.set(header, 0);
  let at = header.length;
  for (const tensor of ordered) {
    out.set(bytesOf(tensor), at);
    at += tensor.data.byteLength;
  }
  return out;
}

/** Writes `path` by way of a temporary file in the same folder, synced before the rename. A full disk is STORAGE_FULL and leaves nothing. */
export async function writeSafetensors(path: string, tensors: Tensors, metadata: Metadata = {}): Promise<void> {
  const { header, ordered } = layOut(tensors, metadata);
  await writeAtomically(path, [header, ...ordered.map(bytesOf)]);
}

/** Writes the chunks to `path`, all or nothing. */
export async function writeAtomically(path: string, chunks: readonly Uint8Array[]): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    const file = await open(temporary, 'wx');
    try {
      for (const chunk of chunks) await file.writeFile(chunk);
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
    return new LoricaError('RESOURCE_EXHAUSTED', 'STORAGE_FULL', `no space left to write ${path}`, { cause, hint: 'Free space and try again.' });
  }
  return new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', `${path} can't be written: ${String(cause)}`, { cause });
}
