/**
 * The objective of a stage: message → the tuning layer's type, with the rules that need no model or data. What is left out stays out.
 */
import { labelViolations } from '../adapters/index.js';
import type { ObjectiveSpecification } from '../tuning/index.js';
import * as proto from '../gen/lorica/v1/tuning.js';
import { defined } from './defined.js';
import type { Fields } from './fields.js';

const MOST_TEMPLATE_CHARACTERS = 65_536;

export const LOSS_SCOPES: Partial<Record<proto.LossScope, 'completion' | 'all'>> = {
  [proto.LossScope.LOSS_SCOPE_UNSPECIFIED]: 'completion',
  [proto.LossScope.LOSS_SCOPE_COMPLETION]: 'completion',
  [proto.LossScope.LOSS_SCOPE_ALL]: 'all',
};

export function readLossScope(scope: proto.LossScope | undefined, path: string, fields: Fields): 'completion' | 'all' {
  const known = LOSS_SCOPES[scope ?? proto.LossScope.LOSS_SCOPE_UNSPECIFIED];
  if (known === undefined) fields.add(path, 'must be COMPLETION or ALL');
  return known ?? 'completion';
}

/** Exactly one of the three, or none for the default. */
export function readObjective(stage: proto.TuningStage, path: string, fields: Fields): ObjectiveSpecification {
  const { objective, classification, preference } = stage;
  const given = [objective, classification, preference].filter((message) => message !== undefined);
  if (given.length > 1) fields.add(path, 'takes one of objective, classification and preference, not several');
  if (classification !== undefined) return readClassification(classification, `${path}.classification`, fields);
  if (preference !== undefined) return readPreference(preference, `${path}.preference`, fields);
  return { kind: 'languageModel', loss: readLossScope(objective?.lossScope, `${path}.objective.loss_scope`, fields) };
}

function readClassification(
  { labels, promptTemplate }: proto.ClassificationObjective,
  path: string,
  fields: Fields,
): ObjectiveSpecification {
  if (labels.length > 0) for (const { field, description } of labelViolations(labels, `${path}.labels`)) fields.add(field, description);
  fields.check(
    `${path}.prompt_template`,
    promptTemplate === '' || (promptTemplate.includes('{text}') && promptTemplate.length <= MOST_TEMPLATE_CHARACTERS),
    `must hold {text} and at most ${MOST_TEMPLATE_CHARACTERS} characters`,
  );
  return defined({
    kind: 'classification' as const,
    labels: labels.length > 0 ? labels : undefined,
    template: promptTemplate === '' ? undefined : promptTemplate,
  });
}

function readPreference(
  { beta, labelSmoothing, sftWeight }: proto.PreferenceObjective,
  path: string,
  fields: Fields,
): ObjectiveSpecification {
  fields.number(`${path}.beta`, beta, 0, 100, { least: true });
  fields.number(`${path}.label_smoothing`, labelSmoothing, 0, 0.5, { most: true });
  fields.number(`${path}.sft_weight`, sftWeight, 0, 100);
  return defined({ kind: 'preference' as const, beta, labelSmoothing, sftWeight });
}
