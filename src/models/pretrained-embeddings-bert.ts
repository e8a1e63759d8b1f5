/**
 * The word embeddings of a BERT checkpoint (Devlin et al. 2019) as word vectors: a folder with safetensors and a WordPiece
 * vocabulary, vocab.txt or tokenizer.json. Pieces with '##' continue a word and are kept apart; special tokens are left out.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import { openForReading } from '../tensor/file-range.js';
import { readSafetensorsHeader, readTensorFloat32, type SafetensorsFile } from '../tensor/safetensors.js';
import type { WordVectors } from './pretrained-embeddings-table.js';

const EMBEDDINGS = /(^|\.)embeddings\.word_embeddings\.weight$/;
/** [CLS], [unused12] … : no text. */
const SPECIAL = /^\[[^\]\s]+\]$/;

/**
 * Reads the folder's embeddings [N,D]. Throws CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, MODEL_UNSUPPORTED (a tokenizer that isn't
 * WordPiece, or no BERT embeddings in the file).
 */
export async function readBertWordEmbeddings(folder: string): Promise<WordVectors> {
  const vocabulary = await readVocabulary(folder);
  const { file, name, shape } = await findEmbeddings(folder);
  const [rows, dimension] = shape;
  if (vocabulary.pieces.length > rows) {
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${folder}: the vocabulary has ${vocabulary.pieces.length} pieces, "${name}" ${rows} rows`);
  }
  const handle = await openForReading(file.path);
  try {
    const vectors = await readTensorFloat32(file, name, handle);
    const words = new Map<string, number>();
    const continuations = new Map<string, number>();
    let duplicates = 0;
    for (const [row, piece] of vocabulary.pieces.entries()) {
      if (piece === undefined || piece === '' || SPECIAL.test(piece)) continue;
      const continues = piece.startsWith(vocabulary.continuationPrefix) && piece.length > vocabulary.continuationPrefix.length;
      const [map, text] = continues ? [continuations, piece.slice(vocabulary.continuationPrefix.length)] : [words, piece];
      if (map.has(text)) duplicates++;
      else map.set(text, row);
    }
    return { format: 'bert', dimension, words, continuations, vectors, duplicates };
  } finally {
    await handle.close();
  }
}

interface Vocabulary {
  /** By row. */
  readonly pieces: readonly (string | undefined)[];
  readonly continuationPrefix: string;
}

async function readVocabulary(folder: string): Promise<Vocabulary> {
  const lines = await readText(join(folder, 'vocab.txt'));
  if (lines !== undefined) return { pieces: lines.replace(/\r?\n$/, '').split(/\r?\n/), continuationPrefix: '##' };
  const path = join(folder, 'tokenizer.json');
  const text = await readText(path);
  if (text === undefined) throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${folder} has neither vocab.txt nor tokenizer.json`);
  let model: { type?: unknown; vocab?: unknown; continuing_subword_prefix?: unknown } | undefined;
  try {
    model = (JSON.parse(text) as { model?: typeof model } | null)?.model;
  } catch (cause) {
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${path} is not JSON`, { cause });
  }
  if (model?.type !== 'WordPiece') {
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${path} holds a tokenizer of type ${JSON.stringify(model?.type ?? null)}`, { hint: 'Supported: WordPiece, as BERT has.' });
  }
  if (typeof model.vocab !== 'object' || model.vocab === null) throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${path}: model.vocab is not a map`);
  const pieces: (string | undefined)[] = [];
  for (const [piece, row] of Object.entries(model.vocab as Record<string, unknown>)) {
    if (typeof row !== 'number' || !Number.isInteger(row) || row < 0 || row > 1 << 24) {
      throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${path}: '${piece}' has row ${JSON.stringify(row)}`);
    }
    pieces[row] = piece;
  }
  const prefix = model.continuing_subword_prefix;
  return { pieces: Array.from(pieces), continuationPrefix: typeof prefix === 'string' && prefix !== '' ? prefix : '##' };
}

async function readText(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  });
}

async function findEmbeddings(folder: string): Promise<{ file: SafetensorsFile; name: string; shape: readonly [number, number] }> {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.safetensors')).sort();
  if (names.length === 0) throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${folder} has no safetensors file`, { hint: 'Save the model with safe_serialization=True.' });
  for (const fileName of names) {
    const file = await readSafetensorsHeader(join(folder, fileName));
    for (const [name, { shape }] of file.tensors) {
      if (EMBEDDINGS.test(name) && shape.length === 2 && shape.every((size) => size > 0)) return { file, name, shape: shape as unknown as readonly [number, number] };
    }
  }
  throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${folder} has no tensor embeddings.word_embeddings.weight [N,D]`, { hint: 'Supported: BERT checkpoints.' });
}
