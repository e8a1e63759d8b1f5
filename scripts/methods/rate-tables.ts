/** The figures of `npm run rates` as pages of Markdown. */
import { atEqualLoss, type RateCurve, type Verdict } from './rate-curve.js';
import type { Quality } from './server.js';

export interface TrainingLength {
  readonly rows: number;
  readonly epochs: number;
}

export interface RateStudy {
  readonly method: string;
  readonly title: string;
  readonly length: TrainingLength;
  readonly curve: RateCurve;
  readonly verdict: Verdict;
}

export interface RateFigures {
  readonly base: string;
  readonly date: string;
  readonly machine: string;
  readonly rows: { readonly heldOut: number; readonly source: number };
  readonly seed: number;
  readonly before: Quality;
  readonly studies: readonly RateStudy[];
}

const rateText = (rate: number): string => rate.toExponential(1).replace('e-', 'e−');
const factorText = (factor: number): string => (factor >= 1 ? String(factor) : `1/${1 / factor}`);
const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
const header = (cells: readonly string[]): string[] => [row(cells), `|${'---|'.repeat(cells.length)}`];

/** Verdicts; then target loss, accuracy and source loss by rate; then source loss at equal target loss. */
export function ratesPage(figures: RateFigures): string {
  const { base, before, rows, date, machine, seed } = figures;
  return [
    `## ${base}`,
    '',
    `${rows.heldOut} rows held out, ${rows.source} pieces of prose, seed ${seed}. Before: loss ${before.loss.toFixed(3)}, accuracy ${before.accuracy.toFixed(3)}, source ${before.sourceLoss.toFixed(3)}. ${date}, ${machine}.`,
    '',
    ...verdicts(figures),
    '',
    ...losses(figures),
    '',
    ...forgetting(figures),
    '',
  ].join('\n');
}

function verdicts({ studies }: RateFigures): string[] {
  const lines = studies.map(({ title, length, curve, verdict: { auto, best, lossRatio, within } }) =>
    row([
      title, `${length.rows} × ${length.epochs}`, String(curve.find(({ steps }) => steps > 0)?.steps ?? 0), rateText(auto.rate), rateText(best.rate), factorText(best.factor),
      auto.quality?.loss.toFixed(3) ?? 'diverged', best.quality?.loss.toFixed(3) ?? 'diverged', lossRatio.toFixed(2), within ? 'yes' : 'no',
    ]),
  );
  return [...header(['method', 'rows × epochs', 'steps', 'auto', 'best', 'best / auto', 'loss at auto', 'at best', 'ratio', 'close']), ...lines];
}

function losses({ studies }: RateFigures): string[] {
  const factors = [...new Set(studies.flatMap(({ curve }) => curve.map(({ factor }) => factor)))].sort((a, b) => a - b);
  const lines = studies.map(({ title, length, curve }) =>
    row([title, `${length.rows} × ${length.epochs}`, ...factors.map((factor) => {
      const point = curve.find((one) => one.factor === factor);
      if (point === undefined) return '';
      return point.quality === undefined ? 'diverged' : `${point.quality.loss.toFixed(3)} / ${point.quality.accuracy.toFixed(2)} / ${point.quality.sourceLoss.toFixed(2)}`;
    })]),
  );
  return [...header(['loss / accuracy / source', 'rows × epochs', ...factors.map((factor) => `auto × ${factorText(factor)}`)]), ...lines];
}

function forgetting({ before, studies }: RateFigures): string[] {
  const titles = new Map(studies.map(({ method, title }) => [method, title]));
  const lengths = [...new Set(studies.map(({ length }) => length))];
  const lines = lengths.flatMap((length) => {
    const curves = new Map(studies.filter((study) => study.length === length).map(({ method, curve }) => [method, curve]));
    return atEqualLoss(before, curves).map(({ loss, sourceLoss }) => {
      const least = Object.entries(sourceLoss).reduce((a, b) => (b[1] < a[1] ? b : a))[0];
      return row([`${length.rows} × ${length.epochs}`, loss.toFixed(3), ...[...titles.keys()].map((id) => sourceLoss[id]?.toFixed(3) ?? ''), titles.get(least)!]);
    });
  });
  return [...header(['rows × epochs', 'at target loss', ...titles.values(), 'forgets least']), ...lines];
}
