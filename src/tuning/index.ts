/** Tuning: what to train, how, and the loop that does it. */
export { checkSpecification, resolveStage, type Component, type LoraSelection, type ResolvedStage, type SavedActivations, type Schedule, type StageSpecification, type TrainableSelection, type TuningSpecification } from './specification.js';
export type { StepEvent, TuningResult } from './events.js';
