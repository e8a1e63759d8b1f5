/**
 * Pretrained word vectors in the place of a model's embedding layer: reading them (GloVe, word2vec, a BERT checkpoint), matching
 * them to the model's tokens, and making rows that live in the model's own space.
 */
export { readBertWordEmbeddings } from './pretrained-embeddings-bert.js';
export { readEmbeddingFolder, type EmbeddingFolder } from './pretrained-embeddings-folder.js';
export { matchTokens, tokenTexts, type TokenMatches, type TokenText } from './pretrained-embeddings-match.js';
export { readWordVectors, type ReadWordVectorsOptions, type WordVectorFormat } from './pretrained-embeddings-read.js';
export { checkHeadChoice, replaceEmbeddings, withEmbeddings, type Coverage, type EmbeddingReplacement, type EmbeddingReport, type HeadChoice, type ReplaceEmbeddingsInput } from './pretrained-embeddings-replace.js';
export type { WordVectors } from './pretrained-embeddings-table.js';
