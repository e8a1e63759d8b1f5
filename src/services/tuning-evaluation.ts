/** The message of a stage's evaluation → the tuning layer's type. Defaults are the tuning layer's. */
import type { EvaluationMetric, EvaluationSpecification } from '../tuning/index.js';
import type { Identity } from '../tenants/index.js';
import * as proto from '../gen/lorica/v1/training.js';
import { defined } from './defined.js';
import type { Fields } from './fields.js';
import { parseName } from './names.js';

const METRICS: Partial<Record<proto.EvaluationMetric, EvaluationMetric>> = {
  [proto.EvaluationMetric.EVALUATION_METRIC_LOSS]: 'loss',
  [proto.EvaluationMetric.EVALUATION_METRIC_PERPLEXITY]: 'perplexity',
  [proto.EvaluationMetric.EVALUATION_METRIC_ACCURACY]: 'accuracy',
  [proto.EvaluationMetric.EVALUATION_METRIC_MACRO_F1]: 'macroF1',
  [proto.EvaluationMetric.EVALUATION_METRIC_REWARD_ACCURACY]: 'rewardAccuracy',
  [proto.EvaluationMetric.EVALUATION_METRIC_REWARD_MARGIN]: 'rewardMargin',
};

export function readEvaluation(
  message: proto.StageEvaluation | undefined,
  path: string,
  identity: Identity,
  fields: Fields,
): EvaluationSpecification | undefined {
  if (message === undefined) return undefined;
  fields.integer(`${path}.every_steps`, message.everySteps, 1, 1_000_000);
  fields.distinct(`${path}.metrics`, message.metrics);
  const metric = (value: proto.EvaluationMetric, field: string): EvaluationMetric => {
    const known = METRICS[value];
    if (known === undefined) fields.add(field, 'must be LOSS, PERPLEXITY, ACCURACY, MACRO_F1, REWARD_ACCURACY or REWARD_MARGIN');
    return known ?? 'loss';
  };
  const { earlyStopping, keepBest } = message;
  fields.integer(`${path}.early_stopping.patience`, earlyStopping?.patience, 1, 1000);
  fields.number(`${path}.early_stopping.min_delta`, earlyStopping?.minDelta, 0, 1000);
  return defined({
    dataset: parseName('dataset', `${path}.dataset`, message.dataset, identity, fields)?.name ?? '',
    everySteps: message.everySteps,
    metrics: message.metrics.length === 0 ? undefined : message.metrics.map((value, i) => metric(value, `${path}.metrics[${i}]`)),
    earlyStopping:
      earlyStopping === undefined
        ? undefined
        : defined({
            metric: metric(earlyStopping.metric, `${path}.early_stopping.metric`),
            patience: earlyStopping.patience,
            minDelta: earlyStopping.minDelta,
          }),
    keepBest: keepBest === proto.EvaluationMetric.EVALUATION_METRIC_UNSPECIFIED ? undefined : metric(keepBest, `${path}.keep_best`),
  });
}
