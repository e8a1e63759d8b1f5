/**
 * Does a dataset fit the objective of its stage? What its upload counted is enough to say so before a job is queued; the rows
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
    violations.push(...problems(stage.objective ?? { kind: 'languageModel' }, await dataset(stage.dataset), `${path}.stages[${i}]`));
  }
  if (violations.length > 0) throw invalidFields(violations);
}

function problems(objective: Objective, dataset: Dataset, path: string): FieldViolation[] {
  if (!KINDS[objective.kind].includes(dataset.kind)) {
    const description = `holds rows of the kind ${dataset.kind}, and ${NAMES[objective.kind]} takes ${KINDS[objective.kind].join(', ')}; use the objective ${FIXES[dataset.kind]}, or another dataset`;
    return [{ field: `${path}.dataset`, description }];
  }
  return objective.kind === 'classification' ? labelProblems(objective.labels, dataset, path) : [];
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
