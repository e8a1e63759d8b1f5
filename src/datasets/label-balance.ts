/** How even the labels of a dataset are. */
import type { Finding } from './dataset.js';
import { finding } from './finding.js';

export interface LabelBalance {
  readonly labels: number;
  /** Rows of the most frequent label per row of the rarest; 1 is even. */
  readonly imbalanceRatio: number;
  /** Entropy over that of as many even labels (Pielou's J): 1 is even; 0 for one label. */
  readonly evenness: number;
  /** Accuracy of always answering the most frequent label. */
  readonly majorityShare: number;
}

/** Above it imbalance is a finding; below, plain tuning and accuracy still work. */
const MOST_RATIO = 10;

/** Undefined without labels. */
export function labelBalance(rowsByLabel: Readonly<Record<string, number>>): LabelBalance | undefined {
  const counts = Object.values(rowsByLabel);
  if (counts.length === 0) return undefined;
  const total = counts.reduce((sum, count) => sum + count, 0);
  const entropy = counts.reduce((sum, count) => sum - (count / total) * Math.log(count / total), 0);
  const most = Math.max(...counts);
  return {
    labels: counts.length,
    imbalanceRatio: most / Math.min(...counts),
    evenness: counts.length === 1 ? 0 : entropy / Math.log(counts.length),
    majorityShare: most / total,
  };
}

export function balanceFindings(balance: LabelBalance | undefined): Finding[] {
  if (balance === undefined) return [];
  if (balance.labels === 1) return [finding('SINGLE_LABEL', 0, '$.label', 'all rows have the same label')];
  if (balance.imbalanceRatio <= MOST_RATIO) return [];
  const share = (100 * balance.majorityShare).toFixed(0);
  return [
    finding('LABEL_IMBALANCE', 0, '$.label', `the most frequent label has ${balance.imbalanceRatio.toFixed(1)} rows for one of the rarest, and ${share}% of all`),
  ];
}
