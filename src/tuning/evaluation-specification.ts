/** What a stage measures on held-out rows while it trains, as a job is told, with every default applied in one place. Types and rules only. */
import type { FieldViolation } from '../common/errors.js';
import type { ResolvedObjective } from './objective-specification.js';

/**
 * Mean loss per term; of the language model's objective its exponential; of rows of text and label the share of right labels and the mean F1
 * of labels; of preferences the share of pairs whose chosen answer has the higher reward, and the mean difference of the rewards.
 */
export type EvaluationMetric = 'loss' | 'perplexity' | 'accuracy' | 'macroF1' | 'rewardAccuracy' | 'rewardMargin';
export type EvaluationValues = Readonly<Partial<Record<EvaluationMetric, number>>>;

export interface EvaluationSpecification {
  /** Name of the data set of held-out rows. */
  readonly dataset: string;
  /** Steps between two evaluations; the last step is always one. Default: after every pass over the rows. */
  readonly everySteps?: number;
  /** Default: the loss. Metrics that the fields below name are measured as well. */
  readonly metrics?: readonly EvaluationMetric[];
  /** Ends the stage once `patience` evaluations in a row have not been better than the best by more than `minDelta` (default 0). */
  readonly earlyStopping?: { readonly metric: EvaluationMetric; readonly patience: number; readonly minDelta?: number };
  /** The stage ends with the weights that were best by this metric, not with the last ones. */
  readonly keepBest?: EvaluationMetric;
}

export interface ResolvedEvaluation {
  readonly dataset: string;
  readonly everySteps: number | undefined;
  readonly metrics: readonly EvaluationMetric[];
  readonly earlyStopping: { readonly metric: EvaluationMetric; readonly patience: number; readonly minDelta: number } | undefined;
  readonly keepBest: EvaluationMetric | undefined;
}

/** Whether a metric needs rows of text and label. */
export const ofLabels = (metric: EvaluationMetric): boolean => metric === 'accuracy' || metric === 'macroF1';
const ofPairs = (metric: EvaluationMetric): boolean => metric === 'rewardAccuracy' || metric === 'rewardMargin';
/** Loss and perplexity fall as models get better, the others rise. */
export const rises = (metric: EvaluationMetric): boolean => ofLabels(metric) || ofPairs(metric);

export function resolveEvaluation(given: EvaluationSpecification | undefined): ResolvedEvaluation | undefined {
  if (given === undefined) return undefined;
  const { dataset, everySteps, earlyStopping, keepBest } = given;
  const named = [earlyStopping?.metric, keepBest].filter((metric) => metric !== undefined);
  return {
    dataset, everySteps, keepBest,
    metrics: [...new Set<EvaluationMetric>([...(given.metrics ?? ['loss']), ...named])],
    earlyStopping: earlyStopping === undefined ? undefined : { minDelta: 0, ...earlyStopping },
  };
}

export function evaluationViolations(given: EvaluationSpecification | undefined, { kind }: ResolvedObjective, path: string): FieldViolation[] {
  if (given === undefined) return [];
  const violations: FieldViolation[] = [];
  const check = (field: string, holds: boolean, description: string): void => {
    if (!holds) violations.push({ field: `${path}.${field}`, description });
  };
  const { everySteps = 1, earlyStopping } = given;
  check('dataset', given.dataset.length > 0, 'must name a data set');
  check('everySteps', Number.isSafeInteger(everySteps) && everySteps >= 1, `must be an integer of at least 1, not ${everySteps}`);
  if (earlyStopping !== undefined) {
    const { patience, minDelta = 0 } = earlyStopping;
    check('earlyStopping.patience', Number.isSafeInteger(patience) && patience >= 1, `must be an integer of at least 1, not ${patience}`);
    check('earlyStopping.minDelta', minDelta >= 0 && Number.isFinite(minDelta), `must be at least 0, not ${minDelta}`);
  }
  const metrics = resolveEvaluation(given)!.metrics;
  if (kind === 'preference') check('metrics', metrics.every((metric) => metric === 'loss' || ofPairs(metric)), 'of preferences the loss, the reward accuracy and the reward margin are measured');
  else check('metrics', !metrics.some(ofPairs), 'reward accuracy and reward margin need an objective on preferences');
  if (kind === 'classification') check('metrics', !metrics.includes('perplexity'), 'a classification has no perplexity');
  return violations;
}
