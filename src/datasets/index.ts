/** Datasets: uploaded once, validated whole, read as examples. */
export type { Dataset, DatasetMessage, DatasetStatistics, Example, ExampleKind, Finding, Report } from './dataset.js';
export { FINDING_CODES, FINDING_RULES, type FindingCode } from './finding-codes.js';
export { MAX_FINDINGS } from './check-jsonl.js';
export type { LabelBalance } from './label-balance.js';
export { PLACEHOLDERS, type PersonalCode } from './personal-data.js';
export type { Redactions } from './redacted-rows.js';
export type { RowMeasure, RowMeter, TokenStatistics } from './row-meter.js';
export { rowTexts } from './row-texts.js';
export { knownRows, MAX_STREAMED, validateJsonl, type CodeCount, type KnownRows, type ValidationOptions, type ValidationReport } from './validate.js';
export { MAX_LINE_BYTES } from './lines.js';
export { EmbeddingStore, embeddingsName, type DescribeEmbeddings, type Embeddings, type EmbeddingsDescription } from './embedding-store.js';
export { datasetName, DatasetStore, type UploadOptions } from './dataset-store.js';
