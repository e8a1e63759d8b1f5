/** Datasets: uploaded once, validated whole, read as examples. */
export type { Dataset, DatasetMessage, DatasetStatistics, Example, ExampleKind, Finding, Report } from './dataset.js';
export { FINDING_CODES, FINDING_RULES, type FindingCode } from './finding-codes.js';
export { checkJsonl, MAX_FINDINGS } from './check-jsonl.js';
export { MAX_LINE_BYTES } from './lines.js';
export { datasetName, DatasetStore, type UploadOptions } from './dataset-store.js';
