/** The figures of `npm run methods` as a page of Markdown. */
import type { Measured } from './measure.js';

export interface Figures {
  readonly base: string;
  readonly date: string;
  readonly machine: string;
  readonly rows: { readonly train: number; readonly heldOut: number };
  readonly results: readonly Measured[];
}

const millions = (count: number): string => (count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : `${(count / 1e3).toFixed(0)} k`);

/** One row a method; "source" is the loss on prose of the domain that the base comes from: what rises there was forgotten. */
export function table({ base, date, machine, rows, results }: Figures): string {
  const { loss, accuracy, sourceLoss } = results[0]!.before;
  const lines = results.map(({ title, parameters, seconds, peakMemoryBytes, after }) =>
    [title, millions(parameters), seconds.toFixed(0), (peakMemoryBytes / 1e6).toFixed(0), after.loss.toFixed(3), after.accuracy.toFixed(3), after.sourceLoss.toFixed(3)].join(' | '),
  );
  return [
    `## ${base}`,
    '',
    `${rows.train} rows to train on, ${rows.heldOut} held out. Before: loss ${loss.toFixed(3)}, accuracy ${accuracy.toFixed(3)}, source ${sourceLoss.toFixed(3)}. ${date}, ${machine}.`,
    '',
    '| method | parameters | s | peak MB | loss | accuracy | source |',
    '|---|---|---|---|---|---|---|',
    ...lines.map((line) => `| ${line} |`),
    '',
  ].join('\n');
}
