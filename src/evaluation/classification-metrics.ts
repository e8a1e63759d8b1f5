/**
 * Figures of a classification from the pairs (true label, predicted label). Pure counting; macro-F1 is the unweighted mean over the
 * labels that appear as true or predicted (a label without either has no F1 to average), as scikit-learn computes it on such data.
 */
import type { ClassificationResult, LabelCounts } from './types.js';

/** `truth[i]` and `predicted[i]` are indices into `labels`. */
export function classificationMetrics(labels: readonly string[], truth: ArrayLike<number>, predicted: ArrayLike<number>): ClassificationResult {
  const confusion = labels.map(() => new Array<number>(labels.length).fill(0));
  for (let i = 0; i < truth.length; i++) confusion[truth[i]!]![predicted[i]!]!++;
  const counts = labels.map((label, i): LabelCounts => {
    const support = confusion[i]!.reduce((sum, n) => sum + n, 0);
    const predictions = confusion.reduce((sum, row) => sum + row[i]!, 0);
    const correct = confusion[i]![i]!;
    return {
      label, support, predicted: predictions, correct,
      precision: predictions === 0 ? 0 : correct / predictions,
      recall: support === 0 ? 0 : correct / support,
      f1: support + predictions === 0 ? 0 : (2 * correct) / (support + predictions),
    };
  });
  const majority = majorityLabel(labels, truth);
  const rows = truth.length;
  return {
    kind: 'classification', rows,
    accuracy: counts.reduce((sum, c) => sum + c.correct, 0) / rows,
    macroF1: macroF1(confusion.flat(), labels.length),
    majorityLabel: labels[majority]!,
    majorityAccuracy: counts[majority]!.support / rows,
    labels: counts, confusion,
  };
}

/** Macro-F1 of a flat confusion matrix [labels, labels] (true label first). */
export function macroF1(confusion: ArrayLike<number>, labels: number): number {
  let sum = 0;
  let present = 0;
  for (let i = 0; i < labels; i++) {
    let both = 0;
    for (let j = 0; j < labels; j++) both += confusion[i * labels + j]! + confusion[j * labels + i]!;
    if (both === 0) continue;
    present++;
    sum += (2 * confusion[i * labels + i]!) / both;
  }
  return present === 0 ? 0 : sum / present;
}

/** Index of the most frequent label of these rows, the first on ties: what a constant answer would best be. */
export function majorityLabel(labels: readonly string[], truth: ArrayLike<number>): number {
  const support = new Array<number>(labels.length).fill(0);
  for (let i = 0; i < truth.length; i++) support[truth[i]!]!++;
  return support.indexOf(Math.max(...support));
}
