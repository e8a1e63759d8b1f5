/**
 * A folder of uploaded files as word vectors: a BERT checkpoint where it has safetensors, else its one file of words. Every defect is one
 * kind of error with the lines of the files named by their names alone; folders of the machine are never shown.
 */
import { readdir } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { LoricaError, type ErrorReason } from '../common/errors.js';
import { readBertWordEmbeddings } from './pretrained-embeddings-bert.js';
import { readWordVectors, type ReadWordVectorsOptions } from './pretrained-embeddings-read.js';
import type { WordVectors } from './pretrained-embeddings-table.js';

/** Files that a BERT checkpoint is read from. */
const BERT_FILE = /^(vocab\.txt|tokenizer\.json|.*\.safetensors)$/;
/** What the readers throw of files that they can't take. */
const DEFECTS: ReadonlySet<ErrorReason> = new Set(['CHECKPOINT_CORRUPT', 'CHECKPOINT_MISSING', 'MODEL_UNSUPPORTED']);

export interface EmbeddingFolder {
  readonly vectors: WordVectors;
  /** Names of the files that were read. */
  readonly files: readonly string[];
}

/** Throws INVALID_ARGUMENT / EMBEDDINGS_INVALID, CANCELLED. Of a BERT checkpoint all words are read, whatever `maxWords` says. */
export async function readEmbeddingFolder(folder: string, options: Pick<ReadWordVectorsOptions, 'maxWords' | 'signal'> = {}): Promise<EmbeddingFolder> {
  const names = (await readdir(folder)).sort();
  try {
    if (names.some((name) => name.endsWith('.safetensors'))) return { vectors: await readBertWordEmbeddings(folder), files: names.filter((name) => BERT_FILE.test(name)) };
    const [file] = names;
    if (file === undefined || names.length > 1) throw invalid(names.length === 0 ? 'there is no file' : `there are ${names.length} files (${names.slice(0, 5).join(', ')}) and none of them is safetensors`);
    return { vectors: await readWordVectors(join(folder, file), options), files: [file] };
  } catch (error) {
    if (!(error instanceof LoricaError) || !DEFECTS.has(error.reason)) throw error;
    throw invalid(error.message.replaceAll(folder + sep, '').replaceAll(folder, 'the folder'), error);
  }
}

function invalid(message: string, cause?: LoricaError): LoricaError {
  return new LoricaError('INVALID_ARGUMENT', 'EMBEDDINGS_INVALID', message, {
    hint: cause?.hint ?? 'Send one file of GloVe or word2vec vectors, or a BERT checkpoint: a safetensors file with vocab.txt or tokenizer.json.',
    ...(cause === undefined ? {} : { violations: cause.violations, cause }),
  });
}
