/**
 * Files of word vectors: GloVe text ('word v1 … vD' a line; Pennington et al. 2014), word2vec text (the same under a line 'N D';
 * also fastText's .vec) and word2vec binary (Mikolov et al. 2013). Files are read as a stream; damaged lines are refused with
 * their numbers, never skipped. This file knows no tokens.
 */
import type { FileHandle } from 'node:fs/promises';
import { LoricaError } from '../common/errors.js';
import { openForReading } from '../tensor/file-range.js';
import { BinaryReader } from './pretrained-embeddings-binary.js';
import { TextReader } from './pretrained-embeddings-text.js';
import type { WordVectors } from './pretrained-embeddings-table.js';

export type WordVectorFormat = 'glove' | 'word2vec' | 'word2vec-binary';

export interface ReadWordVectorsOptions {
  /** Default: told from the first bytes. */
  readonly format?: WordVectorFormat;
  /** Reads the first words only, the most frequent ones of such files. Default all. */
  readonly maxWords?: number;
  readonly signal?: AbortSignal;
}

/** Bytes of one turn of the event loop: some 100,000 numbers of text. */
const CHUNK_BYTES = 1 << 20;
/** Bytes that the format is told from. */
const PROBE_BYTES = 4096;

/**
 * Reads word vectors. 400,000 words of 100 dimensions take 160 MB. Throws CHECKPOINT_MISSING, CHECKPOINT_CORRUPT (violations name
 * lines, 20 at most), CANCELLED.
 */
export async function readWordVectors(path: string, options: ReadWordVectorsOptions = {}): Promise<WordVectors> {
  const maxWords = options.maxWords ?? Infinity;
  const file = await openForReading(path);
  try {
    const format = options.format ?? (await probe(file));
    const parser = format === 'word2vec-binary' ? new BinaryReader(path, maxWords) : new TextReader(path, format, maxWords);
    for await (const chunk of file.createReadStream({ highWaterMark: CHUNK_BYTES, start: 0, autoClose: false })) {
      if (options.signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', `reading ${path} was cancelled`, { cause: options.signal.reason });
      if (parser.push(chunk as Buffer)) break;
    }
    return parser.finish();
  } finally {
    await file.close();
  }
}

async function probe(file: FileHandle): Promise<WordVectorFormat> {
  const bytes = new Uint8Array(PROBE_BYTES);
  const { bytesRead } = await file.read(bytes, 0, PROBE_BYTES, 0);
  const head = Buffer.from(bytes.buffer, 0, bytesRead);
  const line = head.subarray(0, Math.max(0, head.indexOf(0x0a))).toString('latin1');
  if (!/^\d+ \d+\s*$/.test(line)) return 'glove';
  // Text holds no control characters but white space; the bytes of floats soon do.
  const text = head.subarray(line.length).every((byte) => byte >= 0x20 || (byte >= 0x09 && byte <= 0x0d));
  return text ? 'word2vec' : 'word2vec-binary';
}
