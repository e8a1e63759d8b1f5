/**
 * Do the datasets of a stage, to train and to evaluate on, fit its objective? What its upload counted is enough to say so before a job is queued; the rows
 * themselves are checked again when the job reads them.
 */
import { LEAST_LABELS, MOST_LABELS } from '../adapters/index.js';
import { invalidFields, type FieldViolation } from '../common/errors.js';
import type { Dataset, ExampleKind } from '../datasets/index.js';
import type { TuningSpecification } from '../tuning/index.js';

type Objective = NonNullable<TuningSpecification['stages'][number]['objective']>;

const KINDS: Readonly<Record<Objective['kind'], readonly ExampleKind[]>> = {
  languageModel: ['completion', 'messages', 'text', 'label'],
  classification: ['label'],
  preference: ['preference'],
};
const NAMES: Readonly<Record<Objective['kind'], string>> = {
  languageModel: 'objective',
  classification: 'classification',
  preference: 'preference',
};
const FIXES: Readonly<Record<ExampleKind, string>> = {
  completion: 'objective',
  messages: 'objective',
  text: 'objective',
  label: 'classification or objective',
  preference: 'preference',
};
const MOST_NAMED = 10;

/** Throws INVALID_ARGUMENT / INVALID_FIELD naming every stage whose dataset does not fit, and what to do. */
export async function requireFittingData(
  specification: TuningSpecification,
  path: string,
  dataset: (name: string) => Promise<Dataset>,
): Promise<void> {
  const violations: FieldViolation[] = [];
  for (const [i, stage] of specification.stages.entries()) {
    const objective = stage.objective ?? { kind: 'languageModel' };
    violations.push(...problems(objective, await dataset(stage.dataset), `${path}.stages[${i}]`));
    if (stage.evaluation === undefined) continue;
    const { kind } = await dataset(stage.evaluation.dataset);
    if (!KINDS[objective.kind].includes(kind)) violations.push(wrongKind(objective, kind, `${path}.stages[${i}].evaluation.dataset`));
  }
  if (violations.length > 0) throw invalidFields(violations);
}

function problems(objective: Objective, dataset: Dataset, path: string): FieldViolation[] {
  if (!KINDS[objective.kind].includes(dataset.kind)) return [wrongKind(objective, dataset.kind, `${path}.dataset`)];
  return objective.kind === 'classification' ? labelProblems(objective.labels, dataset, path) : [];
}

function wrongKind({ kind: objective }: Objective, kind: ExampleKind, field: string): FieldViolation {
  const description = `holds rows of the kind ${kind}, and ${NAMES[objective]} takes ${KINDS[objective].join(', ')}; use the objective ${FIXES[kind]}, or another dataset`;
  return { field, description };
}

function labelProblems(given: readonly string[] | undefined, { statistics }: Dataset, path: string): FieldViolation[] {
  const present = Object.keys(statistics.labels);
  if (given === undefined) {
    if (present.length < LEAST_LABELS)
      return [
        { field: `${path}.dataset`, description: `has ${present.length} label; a classification tells at least ${LEAST_LABELS} apart` },
      ];
    // Statistics count this many labels apart and no more.
    const all = Object.values(statistics.labels).reduce((sum, rows) => sum + rows, 0) === statistics.rows;
    return all
      ? []
      : [
          {
            field: `${path}.dataset`,
            description: `has more than ${MOST_LABELS} labels, the most that a classification takes; use the language model's objective for free text`,
          },
        ];
  }
  const unknown = present.filter((label) => !given.includes(label));
  if (unknown.length === 0) return [];
  const more = unknown.length > MOST_NAMED ? `, … (${unknown.length})` : '';
  return [
    {
      field: `${path}.classification.labels`,
      description: `must hold every label of the dataset; missing: ${unknown
        .slice(0, MOST_NAMED)
        .map((label) => JSON.stringify(label))
        .join(', ')}${more}`,
    },
  ];
}
