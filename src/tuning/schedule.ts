/** Learning rates over the steps of a stage. Pure functions of the step; nothing here keeps state. */
import type { ResolvedStage } from './specification.js';

/**
 * The rate of optimizer step `step` (1-based) of `totalSteps`: linear warm-up that reaches the peak at its last step (the first
 * step already moves, unlike schedulers that begin at 0), then constant, linear to 0, or half a cosine to 0. The last step of a
 * decaying schedule still has a rate above 0: the decay would reach 0 one step later.
 */
export function learningRateAt(step: number, totalSteps: number, peak: number, schedule: ResolvedStage['schedule']): number {
  const warmup = Math.min(totalSteps, schedule.warmupSteps > 0 ? schedule.warmupSteps : Math.ceil(schedule.warmupRatio * totalSteps));
  if (step <= warmup) return (peak * step) / warmup;
  const done = (step - 1 - warmup) / Math.max(1, totalSteps - warmup);
  switch (schedule.kind) {
    case 'constant':
      return peak;
    case 'linear':
      return peak * (1 - done);
    case 'cosine':
      return (peak * (1 + Math.cos(Math.PI * done))) / 2;
  }
}
