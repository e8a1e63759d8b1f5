/** Learning rates over the steps of a stage. Pure functions of the step; nothing here keeps state. */
import type { ResolvedStage } from './specification.js';

/**
 * The rate of optimizer step `step` (1-based) of `totalSteps`: linear warm-up that reaches the peak at its last step (the first
 * step already moves, unlike schedulers that begin at 0), then constant, linear to the least rate, or half a cosine to it (`leastRatio`
 * times the peak). The last step of a decaying schedule is still above it: the decay would reach it one step later.
 */
export function learningRateAt(step: number, totalSteps: number, peak: number, schedule: ResolvedStage['schedule']): number {
  const warmup = Math.min(totalSteps, schedule.warmupSteps > 0 ? schedule.warmupSteps : Math.ceil(schedule.warmupRatio * totalSteps));
  if (step <= warmup) return (peak * step) / warmup;
  const done = (step - 1 - warmup) / Math.max(1, totalSteps - warmup);
  const between = (share: number): number => peak * (schedule.leastRatio + (1 - schedule.leastRatio) * share);
  switch (schedule.kind) {
    case 'constant':
      return peak;
    case 'linear':
      return between(1 - done);
    case 'cosine':
      return between((1 + Math.cos(Math.PI * done)) / 2);
  }
}
