/**
 * One evaluation: every target on the same rows, then the paired comparisons. It knows nothing of models or jobs; the scorer runs
 * targets and the caller keeps events and outcomes.
 */
import { invalidFields } from '../common/errors.js';
import { DEFAULT_RESAMPLES, MINIMUM_RESAMPLES, pairedBootstrap, type PairedStatistic } from './bootstrap.js';
import { throwIfCancelled } from './batches.js';
import { classify, prepareClassification } from './classification.js';
import { classificationMetrics, majorityLabel } from './classification-metrics.js';
import { likelihoods, perplexityResult, preparePerplexity } from './perplexity.js';
import { accuracyDifference, logProbabilityDifference, macroF1Difference } from './statistics.js';
import type { ClassificationResult, ClassificationTask, Comparison, EvaluateInput, EvaluationResult, PerplexityTask, TargetResult } from './types.js';

/**
 * Measures `targets` on `rows`. Comparisons: each target after the first against the first; for a classification each target also
 * against always answering the most frequent label of these rows. INVALID_ARGUMENT lists everything wrong with task and rows;
 * CANCELLED when the signal aborts.
 */
export async function evaluate<T>(input: EvaluateInput<T>): Promise<EvaluationResult> {
  const start = performance.now();
  if (input.targets.length === 0) throw invalidFields([{ field: 'targets', description: 'needs at least one target' }]);
  if (input.rows.length === 0) throw invalidFields([{ field: 'rows', description: 'needs at least one row' }]);
  if (input.resamples !== undefined && !(input.resamples >= MINIMUM_RESAMPLES)) {
    throw invalidFields([{ field: 'resamples', description: `must be at least ${MINIMUM_RESAMPLES}` }]);
  }
  throwIfCancelled(input.signal);
  const { targets, comparisons } =
    input.task.kind === 'classification' ? await classification(input.task, input) : await perplexity(input.task, input);
  return { task: input.task.kind, rows: input.rows.length, targets, comparisons, seconds: (performance.now() - start) / 1000 };
}

/** Figures of the first target alone, without comparisons. */
export async function classificationFigures<T>(input: EvaluateInput<T> & { readonly task: ClassificationTask }): Promise<ClassificationResult> {
  const data = await prepareClassification(input.task, input);
  return classificationMetrics(input.task.labels, data.truth, await classify(input.task, data, input, 0));
}

interface Outcome {
  readonly targets: readonly TargetResult[];
  readonly comparisons: readonly Comparison[];
}

async function classification<T>(task: ClassificationTask, input: EvaluateInput<T>): Promise<Outcome> {
  const data = await prepareClassification(task, input);
  const predictions: Int32Array[] = [];
  for (let target = 0; target < input.targets.length; target++) predictions.push(await classify(task, data, input, target));
  const majority = new Int32Array(data.truth.length).fill(majorityLabel(task.labels, data.truth));
  const comparisons: Comparison[] = [];
  for (const [target, predicted] of predictions.entries()) {
    if (target > 0) {
      const baseline = predictions[0]!;
      comparisons.push(await compare(input, target, 'baseline', 'accuracy', accuracyDifference(data.truth, predicted, baseline)));
      comparisons.push(await compare(input, target, 'baseline', 'macroF1', macroF1Difference(task.labels.length, data.truth, predicted, baseline)));
    }
    comparisons.push(await compare(input, target, 'majority', 'accuracy', accuracyDifference(data.truth, predicted, majority)));
  }
  return { targets: predictions.map((predicted) => classificationMetrics(task.labels, data.truth, predicted)), comparisons };
}

async function perplexity<T>(task: PerplexityTask, input: EvaluateInput<T>): Promise<Outcome> {
  const rows = await preparePerplexity(task, input);
  const found = [];
  for (let target = 0; target < input.targets.length; target++) found.push(await likelihoods(rows, input, target));
  const comparisons: Comparison[] = [];
  for (const [target, { logProbabilities, tokens }] of found.entries()) {
    if (target === 0) continue;
    const statistic = logProbabilityDifference(logProbabilities, found[0]!.logProbabilities, tokens);
    comparisons.push(await compare(input, target, 'baseline', 'meanLogProbability', statistic));
  }
  return { targets: found.map(perplexityResult), comparisons };
}

async function compare<T>(
  input: EvaluateInput<T>, target: number, against: Comparison['against'], metric: Comparison['metric'], statistic: PairedStatistic,
): Promise<Comparison> {
  const options = { seed: input.seed ?? 0, resamples: input.resamples ?? DEFAULT_RESAMPLES, signal: input.signal };
  return { target, against, metric, ...(await pairedBootstrap(statistic, options)) };
}
