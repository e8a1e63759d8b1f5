/** The evaluation's public face; importers use this file only. */
export type * from './types.js';
export { classificationFigures, evaluate } from './evaluate.js';
