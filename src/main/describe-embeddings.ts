/** What the store of word vectors asks of the models layer: whether files can be read, and what is in them. */
import type { DescribeEmbeddings } from '../datasets/index.js';
import { readEmbeddingFolder } from '../models/pretrained-embeddings.js';

/** Reads everything once; the vectors are let go. */
export const describeEmbeddings: DescribeEmbeddings = async (folder, signal) => {
  const { vectors, files } = await readEmbeddingFolder(folder, signal === undefined ? {} : { signal });
  return { format: vectors.format, words: vectors.words.size, continuations: vectors.continuations.size, dimension: vectors.dimension, files };
};
