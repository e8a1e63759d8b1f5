/**
 * What a stage minimizes, as a job is told, with every default applied in one place: next-token prediction, a classification head on
 * the last token, or preferences (DPO). Types and rules only; how a loss is computed is in the files objective-*.ts.
 */
import { labelViolations } from '../adapters/index.js';
import type { FieldViolation } from '../common/errors.js';
import { DEFAULT_CLASSIFICATION_TEMPLATE, type LossScope } from '../models/prompt.js';

/** Cross entropy of the next token. */
export interface LanguageModelObjective {
  readonly kind: 'languageModel';
  /** Tokens that count: the completion (or assistant turns, or label), or all. Default 'completion'. */
  readonly loss?: LossScope;
}

/**
 * Cross entropy over labels, scored by a matrix [labels, C] from the final hidden state of the last token, as transformers'
 * *ForSequenceClassification does. The head is trained beside what the stage selects.
 */
export interface ClassificationObjective {
  readonly kind: 'classification';
  /** 2 to 1,000, distinct. Default: those of the data set, sorted. */
  readonly labels?: readonly string[];
  /** What is read of a row; `{text}` stands for its text. Default '{text}'. */
  readonly template?: string;
}

/**
 * Direct preference optimization (Rafailov et al. 2023): with z = β·((log π(c) − log π₀(c)) − (log π(r) − log π₀(r))) the loss of a pair is
 * −(1 − ε)·log σ(z) − ε·log σ(−z) + α·(−log π(c) / |c|). π₀ is the model as it is when the stage begins, c the chosen and r the rejected answer.
 */
export interface PreferenceObjective {
  readonly kind: 'preference';
  /** β, how closely the model is held to where it began. Above 0, at most 100; default 0.1. */
  readonly beta?: number;
  /** ε, the share of pairs that are taken to be swapped (conservative DPO, Mitchell 2023). From 0, below 0.5; default 0. */
  readonly labelSmoothing?: number;
  /** α of the chosen answer's own cross entropy per token (Pang et al. 2024). 0 to 100; default 0. */
  readonly sftWeight?: number;
}

export type ObjectiveSpecification = LanguageModelObjective | ClassificationObjective | PreferenceObjective;

export type ResolvedObjective =
  | Required<LanguageModelObjective>
  | { readonly kind: 'classification'; readonly labels: readonly string[] | undefined; readonly template: string }
  | Required<PreferenceObjective>;

/** Applies the defaults. */
export function resolveObjective(objective: ObjectiveSpecification = { kind: 'languageModel' }): ResolvedObjective {
  switch (objective.kind) {
    case 'languageModel':
      return { kind: 'languageModel', loss: objective.loss ?? 'completion' };
    case 'classification':
      return { kind: 'classification', labels: objective.labels, template: objective.template ?? DEFAULT_CLASSIFICATION_TEMPLATE };
    case 'preference':
      return { kind: 'preference', beta: objective.beta ?? 0.1, labelSmoothing: objective.labelSmoothing ?? 0, sftWeight: objective.sftWeight ?? 0 };
  }
}

/** Broken rules of an objective, each under `path`. */
export function objectiveViolations(objective: ObjectiveSpecification | undefined, path: string): FieldViolation[] {
  if (objective?.kind === 'classification') {
    const violations = objective.labels === undefined ? [] : labelViolations(objective.labels, `${path}.labels`);
    if (objective.template?.includes('{text}') === false) violations.push({ field: `${path}.template`, description: 'must hold {text}' });
    return violations;
  }
  if (objective?.kind !== 'preference') return [];
  const { beta, labelSmoothing, sftWeight } = resolveObjective(objective) as Required<PreferenceObjective>;
  const violations: FieldViolation[] = [];
  const check = (field: string, holds: boolean, rule: string, value: number): void => {
    if (!holds) violations.push({ field: `${path}.${field}`, description: `must be ${rule}, not ${value}` });
  };
  check('beta', beta > 0 && beta <= 100, 'above 0 and at most 100', beta);
  check('labelSmoothing', labelSmoothing >= 0 && labelSmoothing < 0.5, 'at least 0 and below 0.5', labelSmoothing);
  check('sftWeight', sftWeight >= 0 && sftWeight <= 100, 'from 0 to 100', sftWeight);
  return violations;
}
