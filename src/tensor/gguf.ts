/**
 * The GGUF format, versions 2 and 3, little endian (github.com/ggml-org/ggml docs/gguf.md): magic, counts, key-value metadata,
 * tensor infos, then aligned tensor data. Every count, length and offset is checked against the size of the file before it is
 * believed; tensors are read by range. Shapes are given outermost first, the reverse of how the file lists them.
 */
import type { FileHandle } from 'node:fs/promises';
import { LoricaError } from '../common/errors.js';
import { openForReading, readRange } from './file-range.js';
import { GGML_TYPES, type GgufTensorInfo, type GgufValue } from './gguf-types.js';

export type { GgmlType, GgufTensorInfo, GgufValue } from './gguf-types.js';

export interface GgufFile {
  readonly path: string;
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
  readonly bytes: number;
}

/** Metadata (with a vocabulary inside) may take at most this many bytes. */
const MAX_HEADER_BYTES = 256 * 1024 * 1024;
const FIRST_READ_BYTES = 4 * 1024 * 1024;
const MAX_NESTING = 4;

/** Thrown by the cursor when the bytes at hand end; more of the file may mend it. */
class Underrun extends Error {}

class Damaged extends Error {}

/** Reads little-endian values off the beginning of a file. */
class Cursor {
  private readonly view: DataView;
  at = 0;
  constructor(private readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  private take(length: number): number {
    const from = this.at;
    if (length > this.bytes.length - from) throw new Underrun();
    this.at = from + length;
    return from;
  }
  u8 = (): number => this.view.getUint8(this.take(1));
  i8 = (): number => this.view.getInt8(this.take(1));
  u16 = (): number => this.view.getUint16(this.take(2), true);
  i16 = (): number => this.view.getInt16(this.take(2), true);
  u32 = (): number => this.view.getUint32(this.take(4), true);
  i32 = (): number => this.view.getInt32(this.take(4), true);
  f32 = (): number => this.view.getFloat32(this.take(4), true);
  f64 = (): number => this.view.getFloat64(this.take(8), true);
  u64 = (): bigint => this.view.getBigUint64(this.take(8), true);
  i64 = (): bigint => this.view.getBigInt64(this.take(8), true);

  /** A 64-bit count that must be plausible: below `most`. */
  count(what: string, most: number): number {
    const value = this.u64();
    if (value > BigInt(most)) throw new Damaged(`${what} is ${value}, more than ${most}`);
    return Number(value);
  }

  string(what: string): string {
    const length = this.count(`the length of ${what}`, MAX_HEADER_BYTES);
    const from = this.take(length);
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset + from, length).toString('utf8');
  }
}

function readValue(cursor: Cursor, type: number, key: string, depth: number): GgufValue {
  switch (type) {
    case 0: return cursor.u8();
    case 1: return cursor.i8();
    case 2: return cursor.u16();
    case 3: return cursor.i16();
    case 4: return cursor.u32();
    case 5: return cursor.i32();
    case 6: return cursor.f32();
    case 7: return cursor.u8() !== 0;
    case 8: return cursor.string(`metadata "${key}"`);
    case 9: {
      if (depth >= MAX_NESTING) throw new Damaged(`metadata "${key}" nests arrays more than ${MAX_NESTING} deep`);
      const element = cursor.u32();
      const length = cursor.count(`the length of metadata "${key}"`, MAX_HEADER_BYTES);
      const values: GgufValue[] = [];
      for (let i = 0; i < length; i++) values.push(readValue(cursor, element, key, depth + 1));
      return values;
    }
    case 10: return small(cursor.u64());
    case 11: return small(cursor.i64());
    case 12: return cursor.f64();
    default: throw new Damaged(`metadata "${key}" has the unknown value type ${type}`);
  }
}

function small(value: bigint): number | bigint {
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}

function readInfo(cursor: Cursor): Omit<GgufTensorInfo, 'lengthBytes'> {
  const name = cursor.string('a tensor name');
  const dimensions = cursor.u32();
  if (dimensions < 1 || dimensions > 4) throw new Damaged(`tensor "${name}" has ${dimensions} dimensions`);
  const shape: number[] = [];
  for (let i = 0; i < dimensions; i++) shape.unshift(cursor.count(`a dimension of tensor "${name}"`, 2 ** 40));
  const code = cursor.u32();
  const type = GGML_TYPES.find((candidate) => candidate.code === code);
  if (type === undefined) {
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `tensor "${name}" is stored as GGML type ${code}, which isn't supported`, {
      hint: `Supported: ${GGML_TYPES.map((known) => known.name).join(', ')}. Convert the file to one of them, Q8_0 say.`,
    });
  }
  return { name, shape, type, offsetBytes: cursor.count(`the offset of tensor "${name}"`, Number.MAX_SAFE_INTEGER) };
}

function parseHeader(bytes: Uint8Array, fileBytes: number): Omit<GgufFile, 'path' | 'bytes'> {
  const cursor = new Cursor(bytes);
  const magic = cursor.u32();
  if (magic !== 0x46554747) throw new Damaged('it does not begin with "GGUF"');
  const version = cursor.u32();
  if (version !== 2 && version !== 3) {
    throw new Damaged((version & 0xffff) === 0 ? 'it is big-endian' : `version ${version} is neither 2 nor 3`);
  }
  const tensorCount = cursor.count('the number of tensors', 2 ** 20);
  const keyCount = cursor.count('the number of metadata keys', 2 ** 20);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = cursor.string('a metadata key');
    if (metadata.has(key)) throw new Damaged(`metadata "${key}" occurs twice`);
    metadata.set(key, readValue(cursor, cursor.u32(), key, 0));
  }
  const alignment = metadata.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || alignment < 1 || (alignment & (alignment - 1)) !== 0) throw new Damaged(`alignment ${String(alignment)}`);
  const infos = Array.from({ length: tensorCount }, () => readInfo(cursor));
  const dataStart = Math.ceil(cursor.at / alignment) * alignment;
  const tensors = new Map<string, GgufTensorInfo>();
  for (const info of infos) {
    if (tensors.has(info.name)) throw new Damaged(`tensor "${info.name}" occurs twice`);
    tensors.set(info.name, place(info, dataStart, alignment, fileBytes));
  }
  let end = 0;
  for (const info of [...tensors.values()].sort((a, b) => a.offsetBytes - b.offsetBytes)) {
    if (info.offsetBytes < end) throw new Damaged(`tensor "${info.name}" overlaps another`);
    end = info.offsetBytes + info.lengthBytes;
  }
  return { version, metadata, tensors };
}

function place(info: Omit<GgufTensorInfo, 'lengthBytes'>, dataStart: number, alignment: number, fileBytes: number): GgufTensorInfo {
  const columns = info.shape.at(-1) as number;
  const elements = info.shape.reduce((product, dim) => product * dim, 1);
  if (columns % info.type.blockElements !== 0) throw new Damaged(`rows of ${columns} in tensor "${info.name}" are no whole ${info.type.name} blocks`);
  const lengthBytes = (elements / info.type.blockElements) * info.type.blockBytes;
  if (info.offsetBytes % alignment !== 0) throw new Damaged(`tensor "${info.name}" is not aligned to ${alignment} bytes`);
  const offsetBytes = dataStart + info.offsetBytes;
  if (!Number.isSafeInteger(lengthBytes) || offsetBytes + lengthBytes > fileBytes) {
    throw new Damaged(`truncated: tensor "${info.name}" ends at byte ${offsetBytes + lengthBytes}, the file has ${fileBytes}`);
  }
  return { ...info, offsetBytes, lengthBytes };
}

/** Reads and validates metadata and tensor infos. Throws CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, or MODEL_UNSUPPORTED for a tensor type. */
export async function readGgufHeader(path: string): Promise<GgufFile> {
  const file = await openForReading(path);
  try {
    const { size } = await file.stat();
    return { path, bytes: size, ...(await readGrowing(file, size, path)) };
  } catch (cause) {
    if (!(cause instanceof Damaged)) throw cause;
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${path} is not a valid GGUF file: ${cause.message}`, {
      cause,
      hint: 'Fetch the file again.',
    });
  } finally {
    await file.close();
  }
}

/** The header's length is known only when it has been parsed: read a beginning, and four times as much while it was too short. */
async function readGrowing(file: FileHandle, size: number, path: string): Promise<Omit<GgufFile, 'path' | 'bytes'>> {
  for (let length = Math.min(FIRST_READ_BYTES, size); ; length = Math.min(length * 4, size, MAX_HEADER_BYTES)) {
    try {
      return parseHeader(await readRange(file, 0, length, path), size);
    } catch (error) {
      if (!(error instanceof Underrun)) throw error;
      if (length === size) throw new Damaged(`truncated inside its header, after ${size} bytes`);
      if (length === MAX_HEADER_BYTES) throw new Damaged(`its header is longer than ${MAX_HEADER_BYTES} bytes`);
    }
  }
}
