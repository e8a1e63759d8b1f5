/** The paired statistics that evaluations resample; each is the candidate minus what it is compared with, higher is better. */
import type { PairedStatistic } from './bootstrap.js';
import { macroF1 } from './classification-metrics.js';

/** Difference of accuracies; elements are label indices per row. */
export function accuracyDifference(truth: Int32Array, candidate: Int32Array, baseline: Int32Array): PairedStatistic {
  const gains = Int8Array.from(truth, (label, row) => Number(candidate[row] === label) - Number(baseline[row] === label));
  let sum = 0;
  return {
    rows: truth.length,
    reset: () => {
      sum = 0;
    },
    add: (row) => {
      sum += gains[row]!;
    },
    value: () => sum / truth.length,
  };
}

/** Difference of macro-F1, recomputed on every resample from both confusion matrices. */
export function macroF1Difference(labels: number, truth: Int32Array, candidate: Int32Array, baseline: Int32Array): PairedStatistic {
  const first = new Int32Array(labels * labels);
  const second = new Int32Array(labels * labels);
  return {
    rows: truth.length,
    reset: () => {
      first.fill(0);
      second.fill(0);
    },
    add: (row) => {
      first[truth[row]! * labels + candidate[row]!]!++;
      second[truth[row]! * labels + baseline[row]!]!++;
    },
    value: () => macroF1(first, labels) - macroF1(second, labels),
  };
}

/** Difference of the mean log-probability per token: a ratio of sums, rows being the unit that is drawn. */
export function logProbabilityDifference(candidate: Float64Array, baseline: Float64Array, tokens: Int32Array): PairedStatistic {
  let difference = 0;
  let count = 0;
  return {
    rows: tokens.length,
    reset: () => {
      difference = 0;
      count = 0;
    },
    add: (row) => {
      difference += candidate[row]! - baseline[row]!;
      count += tokens[row]!;
    },
    value: () => (count === 0 ? 0 : difference / count),
  };
}
