/**
 * From a stage's rows to its objective. What an objective needs of the model as the stage begins (the reference of preferences) is
 * measured here, before the first step; a stage that goes on from a checkpoint brings it along.
 */
import type { StageModel } from './layer-pass.js';
import { ModelPass } from './model-pass.js';
import type { Objective } from './objective.js';
import { preferenceObjective, sequenceLosses } from './objective-preference.js';
import { tokenObjective } from './objective-tokens.js';
import type { ResolvedStage } from './specification.js';
import type { StageRows } from './stage-rows.js';
import { longestPadded } from './trainer.js';
import type { BaseLease } from './training-host.js';

export interface ObjectiveOptions {
  readonly signal?: AbortSignal | undefined;
  /** The objective's `reference` of a stage that goes on, instead of what the model gives now. */
  readonly reference?: Float64Array | undefined;
  /** Padded tokens of a micro-batch at most while something is measured. Default 4096. */
  readonly microBatchTokens?: number;
}

const MEASURED_TOKENS = 4096;

export async function stageObjective({ rows }: StageRows, stage: ResolvedStage, lease: BaseLease, model: StageModel, { signal, reference, microBatchTokens = MEASURED_TOKENS }: ObjectiveOptions = {}): Promise<Objective> {
  const { objective, packing } = stage;
  switch (objective.kind) {
    case 'languageModel':
      return tokenObjective(rows, { packing });
    case 'classification':
      return tokenObjective(rows, { packing, head: 'classification' });
    case 'preference':
      return preferenceObjective(rows, reference ?? (await referenceLosses(rows, lease, model, { signal, microBatchTokens })), { ...objective, packing });
  }
}

async function referenceLosses(rows: StageRows['rows'], lease: BaseLease, model: StageModel, { signal, microBatchTokens }: Required<Pick<ObjectiveOptions, 'signal' | 'microBatchTokens'>>): Promise<Float64Array> {
  const longest = rows.reduce((most, row) => Math.max(most, row.inputs.length), 1);
  const frozen = { ...model, parameters: undefined, dropout: new Map() };
  const pass = await ModelPass.create(lease, frozen, { savedActivations: 'layer', maxLengthTokens: longestPadded({ longestTokens: longest }) });
  try {
    return await sequenceLosses(pass, rows, microBatchTokens, signal);
  } finally {
    pass.dispose();
  }
}
