/** The optimizer that a stage asks for. */
import { Adafactor } from './adafactor.js';
import { AdamW } from './adamw.js';
import type { Optimizer } from './optimizer.js';
import type { Parameters } from './parameters.js';
import type { ResolvedStage } from './specification.js';
import type { BaseLease } from './training-host.js';

export function createOptimizer(lease: BaseLease, parameters: Parameters, stage: ResolvedStage): Promise<Optimizer> {
  return stage.adafactor === undefined ? AdamW.create(lease, parameters, stage) : Adafactor.create(lease, parameters, { ...stage.adafactor, weightDecay: stage.weightDecay });
}
