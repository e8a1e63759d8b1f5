/**
 * What a dataset is: rows of one kind, immutable, addressed by the sha256 of the uploaded bytes; and what can be wrong with a row.
 */
import type { FindingCode } from './finding-codes.js';

export interface DatasetMessage {
  readonly role: string;
  readonly content: string;
}

/** One row, as a training or evaluation example. */
export type Example =
  | { readonly kind: 'completion'; readonly prompt: string; readonly completion: string }
  | { readonly kind: 'messages'; readonly messages: readonly DatasetMessage[] }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'label'; readonly text: string; readonly label: string }
  /** Two different answers to one prompt, of which the first is preferred. */
  | { readonly kind: 'preference'; readonly prompt: string; readonly chosen: string; readonly rejected: string };

export type ExampleKind = Example['kind'];

/** `line` counts from 1; 0 means the file as a whole. `path` is a JSON path such as $.messages[1].role. */
export interface Finding {
  readonly severity: 'error' | 'warning';
  readonly code: FindingCode;
  readonly line: number;
  readonly path: string;
  readonly message: string;
  /** The earlier line that this one repeats or contradicts; in `relatedDataset` where that is given, else in the same file. */
  readonly relatedLine?: number;
  /** Full name of another dataset. */
  readonly relatedDataset?: string;
}

export interface DatasetStatistics {
  readonly rows: number;
  readonly bytes: number;
  readonly duplicateRows: number;
  /** Unicode characters of all text in all rows. */
  readonly characters: number;
  readonly longestRowCharacters: number;
  /** Rows per label, for kind `label`; at most 1,000 labels are counted apart. */
  readonly labels: Readonly<Record<string, number>>;
}

/** The outcome of reading a whole file. `findings` is bounded (the first errors and the first warnings), the counts are not. */
export interface Report {
  readonly kind?: ExampleKind;
  readonly statistics: DatasetStatistics;
  readonly errorCount: number;
  readonly warningCount: number;
  readonly findings: readonly Finding[];
  readonly sha256: string;
}

export interface Dataset {
  /** tenants/{tenant}/datasets/{id} */
  readonly name: string;
  readonly tenant: string;
  readonly id: string;
  readonly format: 'jsonl';
  readonly kind: ExampleKind;
  readonly sha256: string;
  readonly statistics: DatasetStatistics;
  /** Warnings only: a dataset with errors is never stored. Bounded; warningCount is not. */
  readonly findings: readonly Finding[];
  readonly warningCount: number;
  readonly createTime: Date;
  readonly etag: string;
}
