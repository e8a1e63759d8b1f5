/** The figures of a run: the verdict on them, the JSON that `--json` writes and the table at the end. Pure functions. */
import type { EvaluationResult, TuningResult } from '../../client/index.js';
import { table } from './display.js';
import type { ChosenBase } from './model.js';
import type { SwapReport } from './swap.js';

export interface Interval {
  readonly difference: number;
  readonly lower: number;
  readonly upper: number;
}

/** What `--json` writes. Rates are tokens per second, seconds are wall time. */
export interface Figures {
  readonly base: string;
  readonly baseDigest: string;
  readonly baseNote: string;
  readonly device: string;
  readonly seed: number;
  readonly labelsShuffled: boolean;
  readonly trainRows: number;
  readonly heldOutRows: number;
  readonly accuracy: { readonly base: number; readonly majority: number; readonly adapter: number };
  readonly macroF1: { readonly base: number; readonly adapter: number };
  /** Adapter minus base, adapter minus majority: accuracy, 95% interval by paired bootstrap. */
  readonly comparisons: { readonly base: Interval; readonly majority: Interval };
  readonly tuningTokensPerSecond: number;
  readonly tuningFinalLoss: number;
  readonly generationTokensPerSecond: number;
  readonly aliasMoveMs: number;
  /** Peak resident memory of the server: while tuning as the job says, and over its life as the system says. */
  readonly peakMemoryBytes: number;
  readonly serverPeakMemoryBytes: number | undefined;
  readonly secondsPerPhase: Readonly<Record<string, number>>;
  readonly secondsWithoutDownload: number;
  readonly passed: boolean;
}

export interface Measured {
  readonly base: ChosenBase;
  readonly device: string;
  readonly seed: number;
  readonly labelsShuffled: boolean;
  readonly trainRows: number;
  readonly evaluation: EvaluationResult;
  readonly tuning: TuningResult;
  readonly swap: SwapReport;
  readonly serverPeakMemoryBytes: number | undefined;
  readonly secondsPerPhase: Readonly<Record<string, number>>;
}

/** The name of the phase that may download; it does not count against the time limit. */
export const MODEL_PHASE = 'model';

/** `evaluation.targets` must be base and adapter, in this order. */
export function figures(measured: Measured): Figures {
  const { base, evaluation, tuning, swap, secondsPerPhase } = measured;
  const [baseResult, adapterResult] = evaluation.targets;
  const accuracy = { base: given(baseResult?.accuracy), majority: given(evaluation.majorityAccuracy), adapter: given(adapterResult?.accuracy) };
  const against = (baseline: string): Interval => {
    const found = evaluation.comparisons.find((one) => one.metric === 'accuracy' && one.target === adapterResult?.target && one.baseline === baseline);
    if (found === undefined) throw new Error(`the evaluation does not compare with ${baseline}`);
    return { difference: found.difference, lower: found.lower, upper: found.upper };
  };
  const comparisons = { base: against(baseResult?.target ?? ''), majority: against('majority') };
  const seconds = Object.entries(secondsPerPhase).filter(([phase]) => phase !== MODEL_PHASE);
  return {
    base: base.id,
    baseDigest: baseResult?.servedBy?.baseDigest ?? '',
    baseNote: base.why,
    device: measured.device,
    seed: measured.seed,
    labelsShuffled: measured.labelsShuffled,
    trainRows: measured.trainRows,
    heldOutRows: evaluation.rows,
    accuracy,
    macroF1: { base: given(baseResult?.macroF1), adapter: given(adapterResult?.macroF1) },
    comparisons,
    tuningTokensPerSecond: tuning.tokensPerSecond,
    tuningFinalLoss: tuning.finalLoss,
    generationTokensPerSecond: swap.tokensPerSecond,
    aliasMoveMs: swap.moveMs,
    peakMemoryBytes: tuning.peakMemoryBytes,
    serverPeakMemoryBytes: measured.serverPeakMemoryBytes,
    secondsPerPhase,
    secondsWithoutDownload: seconds.reduce((sum, [, value]) => sum + value, 0),
    passed: comparisons.base.lower > 0 && comparisons.majority.lower > 0,
  };
}

function given(value: number | undefined): number {
  if (value === undefined) throw new Error('the evaluation lacks a figure');
  return value;
}

const signed = (value: number): string => `${value < 0 ? '-' : '+'}${Math.abs(value).toFixed(3)}`;

/** The table that ends a run. */
export function summary(run: Figures): string {
  const interval = ({ difference, lower, upper }: Interval): string => `${signed(difference)}  [${signed(lower)}, ${signed(upper)}]`;
  return [
    table([
      [`${run.heldOutRows} held-out reviews`, 'accuracy', 'adapter minus it, 95% interval'],
      ['majority class', run.accuracy.majority.toFixed(3), interval(run.comparisons.majority)],
      [run.base, run.accuracy.base.toFixed(3), interval(run.comparisons.base)],
      [`adapter (${run.trainRows} rows)`, run.accuracy.adapter.toFixed(3), ''],
    ]),
    '',
    table([
      ['measured', 'value'],
      ['tuning', `${run.tuningTokensPerSecond.toFixed(0)} tokens/s`],
      ['generation, one stream', `${run.generationTokensPerSecond.toFixed(0)} tokens/s`],
      ['moving the alias', `${run.aliasMoveMs.toFixed(1)} ms`],
      ['peak memory while tuning', `${(run.peakMemoryBytes / 1e6).toFixed(0)} MB`],
      ...Object.entries(run.secondsPerPhase).map(([phase, seconds]) => [`time: ${phase}`, `${seconds.toFixed(1)} s`]),
    ]),
  ].join('\n');
}
