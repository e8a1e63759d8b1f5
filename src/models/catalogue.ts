/** The models known by name, those of the Hugging Face hub, and fetching them. */
export { CATALOGUE, type CatalogueEntry } from './catalogue-entries.js';
export { defaultModelCache, pullEntry, pullModel, type PullResult } from './catalogue-pull.js';
export type { PullOptions, PullProgress } from './catalogue-source.js';
export { pullFromHub, type HubPull } from './hub-pull.js';
export { isHubReference } from './hub-reference.js';
