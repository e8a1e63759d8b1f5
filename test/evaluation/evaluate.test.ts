import { describe, expect, test } from '@jest/globals';
import type { LoricaError } from '../../src/common/errors.js';
import { evaluate } from '../../src/evaluation/index.js';
import type { EvaluateInput, EvaluationProgress, RowOutcome, Scorer } from '../../src/evaluation/index.js';
import { classificationMetrics } from '../../src/evaluation/classification-metrics.js';
import type { Tokenizer } from '../../src/models/tokenizer.js';

/** One token per character (its code); 127 ends a sequence. */
const tokenizer: Tokenizer = {
  vocabSize: 128, eosTokenIds: [127], digest: 'sha256:test',
  encode: (text) => Array.from(text, (c) => c.charCodeAt(0)),
  decode: (ids) => String.fromCharCode(...ids),
  incremental: () => ({ push: (id) => String.fromCharCode(id), flush: () => '' }),
  token: (id) => String.fromCharCode(id),
  tokenId: (token) => token.charCodeAt(0),
};

/** A scorer whose probability of a token is a function of target, text before and token; both methods agree by construction. */
function scorer(logProbability: (target: string, before: string, token: string) => number): Scorer<string> & { scored: number; next: number } {
  const text = (ids: readonly number[]): string => String.fromCharCode(...ids);
  return {
    scored: 0, next: 0,
    async score({ target, sequences }) {
      this.scored += sequences.length;
      return sequences.map(({ tokens, scoreFrom }) => ({
        logProbabilities: Float64Array.from(tokens.slice(scoreFrom), (id, i) => logProbability(target, text(tokens.slice(0, scoreFrom + i)), text([id]))),
      }));
    },
    async scoreNext({ target, prompts, candidates }) {
      this.next += prompts.length;
      return prompts.map((prompt) => Float64Array.from(candidates, (id) => logProbability(target, text(prompt), text([id]))));
    },
  };
}

const TEXTS = ['good day', 'bad day', 'good bad', 'fine day', 'bad night', 'good night'];
const LABELS = ['p', 'n', 'n', 'p', 'n', 'p'];
const rows = TEXTS.map((text, i) => ({ kind: 'label' as const, text, label: LABELS[i]!, line: i + 1 }));
const task = { kind: 'classification' as const, labels: ['p', 'n'], promptTemplate: 'R: {text}=', labelTemplate: '{label}' };

/** 'keen' looks for 'bad'; 'dull' always says p. */
const judge = scorer((target, before, token) => (target === 'keen' && before.includes('bad') ? (token === 'n' ? -0.1 : -2) : token === 'p' ? -0.1 : -2));

function input(over: Partial<EvaluateInput<string>> = {}): EvaluateInput<string> {
  return { task, rows, targets: ['dull', 'keen'], scorer: judge, tokenizer, emit: () => undefined, resamples: 2_000, ...over };
}

describe('classification', () => {
  test('targets are measured on the same rows and compared with the first and with the majority', async () => {
    const events: EvaluationProgress[] = [];
    const outcomes: RowOutcome[] = [];
    const result = await evaluate(input({ emit: (e) => void events.push(e), onRow: (o) => void outcomes.push(o) }));
    expect(result.targets[0]).toMatchObject({ accuracy: 0.5, majorityLabel: 'p', majorityAccuracy: 0.5, confusion: [[3, 0], [3, 0]] });
    expect(result.targets[1]).toMatchObject({ accuracy: 1, macroF1: 1, confusion: [[3, 0], [0, 3]] });
    expect(result.comparisons.map((c) => [c.target, c.against, c.metric])).toEqual([
      [0, 'majority', 'accuracy'], [1, 'baseline', 'accuracy'], [1, 'baseline', 'macroF1'], [1, 'majority', 'accuracy'],
    ]);
    expect(result.comparisons[0]).toMatchObject({ difference: 0, low: 0, high: 0 });
    expect(result.comparisons[1]!.difference).toBe(0.5);
    expect(result.comparisons[1]!.low).toBeGreaterThan(0);
    expect(events).toEqual([0, 1].map((target) => ({ kind: 'progress', target, rowsDone: 6, rowsTotal: 6 })));
    expect(outcomes.map((o) => [o.target, o.row, o.line])).toEqual([0, 1].flatMap((t) => rows.map((_, i) => [t, i, i + 1])));
    expect(outcomes[7]).toMatchObject({ label: 'n', predicted: 'n', correct: true, labelLogProbabilities: [-2, -0.1] });
  });

  test('labels of several tokens are scored in full; the sum over their tokens decides', async () => {
    const longer = { ...task, labels: ['pp', 'n'], labelTemplate: '{label}' };
    const before = judge.scored;
    const result = await evaluate(input({ task: longer, rows: rows.map((r) => ({ ...r, label: r.label === 'p' ? 'pp' : 'n' })) }));
    expect(judge.scored).toBe(before + 2 * 6 * 2);
    expect(result.targets[1]).toMatchObject({ accuracy: 1 });
  });

  test('a target with a head is asked by its head, on its own wording, beside one without', async () => {
    const read: string[] = [];
    const withHead: Scorer<string> = {
      ...judge,
      head: (target) => Promise.resolve(target === 'headed' ? { labels: ['other', 'n', 'p'], template: '<{text}>' } : undefined),
      classify: ({ prompts }) =>
        Promise.resolve(prompts.map((prompt) => {
          const text = String.fromCharCode(...prompt);
          read.push(text);
          return text.includes('bad') ? Float64Array.of(-0.01, -1, -3) : Float64Array.of(-0.01, -3, -1);
        })),
    };
    const outcomes: RowOutcome[] = [];
    const result = await evaluate(input({ scorer: withHead, targets: ['dull', 'headed'], onRow: (o) => void outcomes.push(o) }));
    expect(result.targets.map((target) => target.kind === 'classification' && target.accuracy)).toEqual([0.5, 1]);
    expect([...read].sort()).toEqual(TEXTS.map((text) => `<${text}>`).sort());
    // In the order of the task's labels, p and n, whatever the head's is.
    expect(outcomes[7]).toMatchObject({ predicted: 'n', labelLogProbabilities: [-3, -1] });
    const unknown = { ...withHead, head: () => Promise.resolve({ labels: ['p', 'q'], template: '{text}' }) };
    await expect(evaluate(input({ scorer: unknown }))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', violations: [{ field: 'task.labels', description: expect.stringContaining("'n'") }] });
  });

  test('labels of one token need one pass over the prompt', async () => {
    const before = [judge.scored, judge.next];
    await evaluate(input());
    expect([judge.scored, judge.next]).toEqual([before[0], before[1]! + 12]);
  });

  test('every problem with task and rows is reported', async () => {
    const bad = evaluate(input({
      task: { kind: 'classification', labels: ['p', 'p'], promptTemplate: 'x', labelTemplate: 'y' },
      rows: [{ kind: 'text', text: 'a', line: 4 }, { kind: 'label', text: 'a', label: 'z' }],
    }));
    await expect(bad).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await bad.catch((error: unknown) => {
      expect((error as LoricaError).violations.map((v) => v.field)).toEqual(['task.labels', 'task.prompt_template', 'task.label_template', 'line 4', 'rows[1]']);
    });
  });

  test('a long prompt loses its oldest tokens', async () => {
    const seen: number[] = [];
    const watching: Scorer<string> = { ...judge, scoreNext: (r) => { seen.push(...r.prompts.map((p) => p.length)); return judge.scoreNext(r); } };
    await evaluate(input({ scorer: watching, maxLengthTokens: 9 }));
    expect(Math.max(...seen)).toBe(8);
  });

  test('no rows, no targets, an abort', async () => {
    await expect(evaluate(input({ rows: [] }))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(evaluate(input({ targets: [] }))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(evaluate(input({ resamples: 100 }))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    const controller = new AbortController();
    const running = evaluate(input({ signal: controller.signal, emit: () => controller.abort() }));
    await expect(running).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('perplexity', () => {
  test('counts the completion and the end, over all rows together', async () => {
    const flat = scorer((target, _, token) => (token === '\x7f' ? -1 : target === 'better' ? -0.5 : -2));
    const result = await evaluate<string>({
      ...input(), scorer: flat, targets: ['plain', 'better'], task: { kind: 'perplexity' },
      rows: [{ kind: 'completion', prompt: 'ab', completion: 'cd' }, { kind: 'completion', prompt: 'x', completion: 'yyyy' }],
    });
    expect(result.targets[0]).toMatchObject({ tokens: 8, meanNegativeLogProbability: (6 * 2 + 2) / 8, perplexity: Math.exp(14 / 8) });
    expect(result.targets[1]).toMatchObject({ meanNegativeLogProbability: 5 / 8 });
    expect(result.comparisons).toHaveLength(1);
    expect(result.comparisons[0]).toMatchObject({ metric: 'meanLogProbability', against: 'baseline' });
    expect(result.comparisons[0]!.difference).toBeCloseTo(9 / 8, 12);
  });

  test("'all' counts every token but the first", async () => {
    const flat = scorer(() => -1);
    const result = await evaluate<string>({ ...input(), scorer: flat, targets: ['x'], task: { kind: 'perplexity', tokens: 'all' }, rows: [{ kind: 'completion', prompt: 'abc', completion: 'd' }] });
    expect(result.targets[0]).toMatchObject({ tokens: 4, perplexity: Math.E });
  });
});

describe('classificationMetrics', () => {
  test('figures worked out by hand', () => {
    // truth     a a a b b c ; predicted a b a b b a
    const result = classificationMetrics(['a', 'b', 'c', 'unused'], [0, 0, 0, 1, 1, 2], [0, 1, 0, 1, 1, 0]);
    expect(result.confusion).toEqual([[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]);
    expect(result.accuracy).toBeCloseTo(4 / 6, 12);
    expect(result.labels[0]).toMatchObject({ support: 3, predicted: 3, correct: 2, precision: 2 / 3, recall: 2 / 3, f1: 2 / 3 });
    expect(result.labels[1]).toMatchObject({ support: 2, predicted: 3, precision: 2 / 3, recall: 1, f1: 0.8 });
    expect(result.labels[2]).toMatchObject({ support: 1, predicted: 0, precision: 0, recall: 0, f1: 0 });
    expect(result.macroF1).toBeCloseTo((2 / 3 + 0.8 + 0) / 3, 12);
    expect(result).toMatchObject({ majorityLabel: 'a', majorityAccuracy: 0.5 });
  });
});
