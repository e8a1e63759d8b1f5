import { describe, expect, test } from '@jest/globals';
import { figures, type Measured, summary } from '../../../src/cli/quickstart/report.js';

function measured(lowerBase: number, lowerMajority: number): Measured {
  const comparison = (baseline: string, lower: number) => ({ target: 'a@x', baseline, metric: 'accuracy', difference: 0.05, lower, upper: 0.09, pValue: 0.001 });
  const target = (name: string, accuracy: number) => ({ target: name, accuracy, macroF1: accuracy, servedBy: { baseDigest: 'sha256:b' } });
  return {
    base: { id: 'tiny', path: '/x', embedded: true, why: 'asked for' },
    device: 'cpu',
    seed: 1,
    labelsShuffled: false,
    trainRows: 800,
    evaluation: {
      rows: 1187,
      majorityAccuracy: 0.501,
      targets: [target('models/tiny', 0.5), target('a@x', 0.55)],
      comparisons: [comparison('models/tiny', lowerBase), comparison('majority', lowerMajority)],
    },
    tuning: { tokensPerSecond: 400, finalLoss: 0.2, peakMemoryBytes: 1.5e9 },
    swap: { tokensPerSecond: 90, moveMs: 3.2 },
    serverPeakMemoryBytes: 1.6e9,
    secondsPerPhase: { model: 100, tune: 20, evaluate: 30 },
  } as unknown as Measured;
}

describe('figures', () => {
  test.each([[0.01, 0.01, true], [0, 0.01, false], [0.01, 0, false], [-0.01, -0.01, false]])('lower ends %d and %d: passed is %s', (base, majority, passed) => {
    expect(figures(measured(base, majority)).passed).toBe(passed);
  });

  test('the download does not count', () => {
    expect(figures(measured(0.1, 0.1)).secondsWithoutDownload).toBe(50);
  });

  test('an evaluation that lacks a comparison is refused', () => {
    const run = measured(0.1, 0.1);
    expect(() => figures({ ...run, evaluation: { ...run.evaluation, comparisons: [] } })).toThrow('does not compare with models/tiny');
  });

  test('the table', () => {
    expect(summary(figures(measured(0.01, 0.02)))).toMatchInlineSnapshot(`
"1187 held-out reviews  accuracy  adapter minus it, 95% interval
─────────────────────  ────────  ──────────────────────────────
majority class            0.501  +0.050  [+0.020, +0.090]
tiny                      0.500  +0.050  [+0.010, +0.090]
adapter (800 rows)        0.550

measured                  value
────────────────────────  ────────────
tuning                    400 tokens/s
generation, one stream     90 tokens/s
moving the alias                3.2 ms
peak memory while tuning       1500 MB
time: model                    100.0 s
time: tune                      20.0 s
time: evaluate                  30.0 s"
`);
  });
});
