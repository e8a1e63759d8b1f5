/** The models known by name, and fetching them. */
export { CATALOGUE, type CatalogueEntry } from './catalogue-entries.js';
export { defaultModelCache, pullEntry, pullModel, type PullResult } from './catalogue-pull.js';
export type { PullOptions, PullProgress } from './catalogue-source.js';
