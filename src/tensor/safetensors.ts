/**
 * The safetensors format (github.com/huggingface/safetensors): 8 bytes of header length, a JSON header, then the tensors' bytes.
 * A header is believed only after every length, offset, overlap, gap, dtype and shape in it has been checked against the size
 * of the file; tensors are then read by range, one at a time. Nothing here executes or unpickles anything.
 */
import type { FileHandle } from 'node:fs/promises';
import { LoricaError } from '../common/errors.js';
import { DTYPES, elementCount, type DType, type TypedArray } from './dtype.js';
import { openForReading, readRange } from './file-range.js';
import { toFloat32, type HostTensor } from './host-tensor.js';
import { readAsFloat32 } from './read-float32.js';

export { toFloat32 };
export { encodeSafetensors, safetensorsPieces, streamSafetensors, writeSafetensors } from './safetensors-write.js';

/** A header may take at most this many bytes, the limit of the reference implementation. */
export const MAX_HEADER_BYTES = 100_000_000;

export const SAFETENSORS_DTYPES: Readonly<Record<string, DType>> = {
  F64: 'float64',
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I64: 'int64',
  I32: 'int32',
  I16: 'int16',
  I8: 'int8',
  U64: 'uint64',
  U32: 'uint32',
  U16: 'uint16',
  U8: 'uint8',
  BOOL: 'bool',
};

export interface SafetensorsEntry {
  readonly dtype: DType;
  /** The dtype as the file spells it, such as BF16. */
  readonly storedAs: string;
  readonly shape: readonly number[];
  /** Offset from the start of the file. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
  readonly metadata: Readonly<Record<string, string>>;
}

export interface SafetensorsFile extends SafetensorsHeader {
  readonly path: string;
}

function corrupt(label: string, why: string): LoricaError {
  return new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${label} is not a valid safetensors file: ${why}`, {
    hint: 'Fetch or export the file again.',
  });
}

function headerLength(first8: Uint8Array, fileBytes: number, label: string): number {
  if (first8.length < 8) throw corrupt(label, `${fileBytes} bytes, too short for a header`);
  const length = new DataView(first8.buffer, first8.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) throw corrupt(label, `the header claims ${length} bytes, more than ${MAX_HEADER_BYTES}`);
  if (8 + Number(length) > fileBytes) throw corrupt(label, `truncated: the header claims ${length} bytes, the file has ${fileBytes}`);
  return Number(length);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function parseEntry(name: string, value: unknown, dataStart: number, label: string): SafetensorsEntry {
  const fail = (why: string): LoricaError => corrupt(label, `tensor "${name}": ${why}`);
  if (typeof value !== 'object' || value === null) throw fail('its entry is not an object');
  const { dtype: storedAs, shape, data_offsets: offsets } = value as Record<string, unknown>;
  const dtype = typeof storedAs === 'string' && Object.hasOwn(SAFETENSORS_DTYPES, storedAs) ? SAFETENSORS_DTYPES[storedAs] : undefined;
  if (dtype === undefined) throw fail(`unknown dtype ${JSON.stringify(storedAs)}`);
  if (!Array.isArray(shape) || shape.length > 8 || !shape.every(isCount)) throw fail('its shape is not a list of sizes');
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) throw fail('its data_offsets are not two offsets');
  const [begin, end] = offsets as [number, number];
  const lengthBytes = elementCount(shape) * DTYPES[dtype].bytes;
  if (!Number.isSafeInteger(lengthBytes) || end - begin !== lengthBytes) {
    throw fail(`data_offsets span ${end - begin} bytes, ${String(storedAs)} [${shape.join(',')}] needs ${lengthBytes}`);
  }
  return { dtype, storedAs: storedAs as string, shape: shape, offsetBytes: dataStart + begin, lengthBytes };
}

function parseHeader(json: Uint8Array, fileBytes: number, label: string): SafetensorsHeader {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch (cause) {
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${label} is not a valid safetensors file: the header is not JSON`, {
      cause,
    });
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header)) throw corrupt(label, 'the header is not a JSON object');
  const tensors = new Map<string, SafetensorsEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header as Record<string, unknown>)) {
    if (name !== '__metadata__') {
      tensors.set(name, parseEntry(name, value, 8 + json.length, label));
      continue;
    }
    if (typeof value !== 'object' || value === null || !Object.values(value).every((v) => typeof v === 'string')) {
      throw corrupt(label, '__metadata__ is not a map of strings');
    }
    metadata = value as Record<string, string>;
  }
  let at = 8 + json.length;
  for (const [name, entry] of [...tensors].sort((a, b) => a[1].offsetBytes - b[1].offsetBytes || a[1].lengthBytes - b[1].lengthBytes)) {
    if (entry.offsetBytes < at) throw corrupt(label, `tensor "${name}" overlaps another`);
    if (entry.offsetBytes > at) throw corrupt(label, `${entry.offsetBytes - at} bytes before tensor "${name}" belong to no tensor`);
    at += entry.lengthBytes;
    if (at > fileBytes) throw corrupt(label, `truncated: tensor "${name}" ends at byte ${at}, the file has ${fileBytes}`);
  }
  if (at !== fileBytes) throw corrupt(label, `${fileBytes - at} bytes after the last tensor`);
  return { tensors, metadata };
}

/** Reads and validates the header of the file at `path`. Throws CHECKPOINT_MISSING or CHECKPOINT_CORRUPT. */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsFile> {
  const file = await openForReading(path);
  try {
    const { size } = await file.stat();
    const length = headerLength(await readRange(file, 0, Math.min(8, size), path), size, path);
    return { path, ...parseHeader(await readRange(file, 8, length, path), size, path) };
  } finally {
    await file.close();
  }
}

function typed(bytes: Uint8Array<ArrayBuffer>, entry: SafetensorsEntry): HostTensor {
  const data: TypedArray = new DTYPES[entry.dtype].array(bytes.buffer, 0, elementCount(entry.shape));
  return { dtype: entry.dtype, shape: entry.shape, data };
}

/** Reads one tensor in its stored dtype, into memory of its own. Throws CHECKPOINT_MISSING when the file has none of that name. */
export async function readTensor(file: SafetensorsFile, name: string, handle?: FileHandle): Promise<HostTensor> {
  const entry = file.tensors.get(name);
  if (entry === undefined) throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${file.path} has no tensor "${name}"`);
  const own = handle ?? (await openForReading(file.path));
  try {
    return typed(await readRange(own, entry.offsetBytes, entry.lengthBytes, file.path), entry);
  } finally {
    if (handle === undefined) await own.close();
  }
}

/** Parses a whole file held in memory; tensors are copies. `label` names it in errors. */
export function parseSafetensors(bytes: Uint8Array, label = 'the upload'): Map<string, HostTensor> {
  const length = headerLength(bytes.subarray(0, 8), bytes.length, label);
  const { tensors } = parseHeader(bytes.subarray(8, 8 + length), bytes.length, label);
  const out = new Map<string, HostTensor>();
  for (const [name, entry] of tensors) {
    const copy = new Uint8Array(bytes.subarray(entry.offsetBytes, entry.offsetBytes + entry.lengthBytes));
    out.set(name, typed(copy, entry));
  }
  return out;
}

/** Reads one F32, F16, BF16 or F64 tensor, or `count` elements of it from `first` on, as float32, by pieces that let the event loop run. */
export async function readTensorFloat32(file: SafetensorsFile, name: string, handle: FileHandle, part?: { readonly first: number; readonly count: number }): Promise<Float32Array> {
  const entry = file.tensors.get(name);
  if (entry === undefined) throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${file.path} has no tensor "${name}"`);
  const blockBytes = DTYPES[entry.dtype].bytes;
  const { first, count } = part ?? { first: 0, count: elementCount(entry.shape) };
  const stored = { name, offsetBytes: entry.offsetBytes + first * blockBytes, elements: count, blockElements: 1, blockBytes };
  const convert = (bytes: Uint8Array, out: Float32Array): void => {
    const data = new DTYPES[entry.dtype].array(bytes.buffer, bytes.byteOffset, out.length);
    out.set(toFloat32({ dtype: entry.dtype, shape: [out.length], data }));
  };
  return readAsFloat32(handle, stored, convert, file.path);
}
