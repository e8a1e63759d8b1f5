/** Base models on disk: opening them, reading their weights, writing them, merged or as they are. */
export type { Checkpoint, OpenOptions, WeightSource } from './checkpoint-types.js';
export { exportCheckpoint, type ExportFormat } from './checkpoint-export.js';
export { sha256File } from './file-digest.js';
export type { WeightChange } from './merged-weights.js';
export { openCheckpoint } from './checkpoint-open.js';
export { writeHfFolder, type HfFolderContent } from './hf-folder-write.js';
