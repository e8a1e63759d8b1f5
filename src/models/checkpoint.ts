/** Base models on disk: opening them, reading their weights, writing them. */
export type { Checkpoint, OpenOptions, WeightSource } from './checkpoint-types.js';
export { openCheckpoint } from './checkpoint-open.js';
export { writeHfFolder, type HfFolderContent } from './hf-folder-write.js';
