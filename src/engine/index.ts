/** The engine's public face; importers use this file only. */
export type * from './types.js';
export { Engine } from './engine.js';
