/** Parts of files in messages: each at most 1 MiB, each at the offset where the one before ended. */
import { invalidFields } from '../common/errors.js';
import type { FileChunk } from '../gen/lorica/v1/types.js';

/** A part of a file by name, as adapters and word vectors send them. */
export interface NamedChunk {
  readonly file: string;
  readonly chunk?: FileChunk | undefined;
}

export const MAX_CHUNK_BYTES = 1 << 20;

/** Checks the parts of one file as they arrive. */
export class FileOffsets {
  private next = 0;

  /** `field` is the path of the chunk in its message, for errors. */
  constructor(private readonly field: string) {}

  /** The bytes of the next part. INVALID_ARGUMENT when it is empty, too long or not where it should be. */
  accept(chunk: FileChunk): Uint8Array {
    const { offset, data } = chunk;
    if (offset !== this.next)
      throw invalidFields([{ field: `${this.field}.offset`, description: `must be ${this.next}, the bytes sent so far, not ${offset}` }]);
    if (data.length === 0 || data.length > MAX_CHUNK_BYTES)
      throw invalidFields([{ field: `${this.field}.data`, description: `must be 1 to ${MAX_CHUNK_BYTES} bytes, not ${data.length}` }]);
    this.next += data.length;
    return data;
  }
}

/** Checks the parts of several files as they arrive. */
export class FilePieces {
  private readonly offsets = new Map<string, FileOffsets>();

  accept({ file, chunk }: NamedChunk): { readonly file: string; readonly data: Uint8Array } {
    if (!/^[\w.-]{1,128}$/.test(file) || file.startsWith('.'))
      throw invalidFields([{ field: 'chunk.file', description: `must be a file name without folders, not ${JSON.stringify(file)}` }]);
    if (chunk === undefined) throw invalidFields([{ field: 'chunk.chunk', description: 'is required' }]);
    const offset = this.offsets.get(file) ?? new FileOffsets('chunk.chunk');
    this.offsets.set(file, offset);
    return { file, data: offset.accept(chunk) };
  }
}
