/**
 * Classification by log-likelihood: the predicted label is the one whose tokens are most probable after the prompt (sum over the
 * label's tokens, natural logarithm, no length normalization; the earlier label wins ties). Labels of one token are read off a
 * single pass over the prompt; longer ones cost one pass each. A target with a classification head is asked by its head instead, on
 * the text as its own template words it.
 */
import { invalidFields, type FieldViolation } from '../common/errors.js';
import { continuationTokens, fillTemplate, labelText, lastTokens, promptTokens } from '../models/prompt.js';
import type { Tokenizer } from '../models/tokenizer.js';
import { inBatches } from './batches.js';
import type { ClassificationTask, EvaluateInput, RowOutcome } from './types.js';

interface ClassificationRow {
  readonly prompt: readonly number[];
  /** Tokens of each label after this prompt. */
  readonly labels: readonly (readonly number[])[];
}

export interface ClassificationRows {
  readonly rows: readonly ClassificationRow[];
  /** Index of each row's true label. */
  readonly truth: Int32Array;
}

/** Checks the task against the rows and tokenizes them; every problem is reported, with its line where there is one. */
export async function prepareClassification<T>(task: ClassificationTask, input: EvaluateInput<T>): Promise<ClassificationRows> {
  const problems: FieldViolation[] = [];
  if (task.labels.length < 2) problems.push({ field: 'task.labels', description: 'needs at least two labels' });
  if (new Set(task.labels).size !== task.labels.length) problems.push({ field: 'task.labels', description: 'labels must differ' });
  if (!task.promptTemplate.includes('{text}')) problems.push({ field: 'task.prompt_template', description: "needs '{text}'" });
  if (!task.labelTemplate.includes('{label}')) problems.push({ field: 'task.label_template', description: "needs '{label}'" });
  const truth = new Int32Array(input.rows.length);
  input.rows.forEach((row, i) => {
    const where = row.line === undefined ? `rows[${i}]` : `line ${row.line}`;
    if (row.kind !== 'label') {
      problems.push({ field: where, description: `a classification needs text and label, this row is of kind ${row.kind}` });
      return;
    }
    truth[i] = task.labels.indexOf(row.label);
    if (truth[i] === -1) problems.push({ field: where, description: `label '${row.label}' is not one of the task's` });
  });
  if (problems.length > 0) throw invalidFields(problems.slice(0, 100));
  const rows: ClassificationRow[] = [];
  for (const [i, row] of input.rows.entries()) {
    if (row.kind === 'label') rows.push(tokenize(row.text, task, input.tokenizer, input.maxLengthTokens));
    if (i % 16 === 15) await new Promise((resolve) => setImmediate(resolve));
  }
  return { rows, truth };
}

function tokenize(text: string, task: ClassificationTask, tokenizer: Tokenizer, maxLengthTokens = Infinity): ClassificationRow {
  const template = { prompt: task.promptTemplate, label: task.labelTemplate };
  const texts = task.labels.map((label) => labelText(text, label, template));
  const labels = texts.map(({ prompt, continuation }) => continuationTokens(prompt, continuation, tokenizer));
  const empty = labels.findIndex((tokens) => tokens.length === 0);
  if (empty >= 0) throw invalidFields([{ field: `task.labels[${empty}]`, description: 'has no tokens of its own after the prompt' }]);
  const prompt = promptTokens(texts[0]!.prompt, tokenizer);
  const longest = Math.max(...labels.map((tokens) => tokens.length));
  return { prompt: lastTokens(prompt, maxLengthTokens - longest, tokenizer.bosTokenId), labels };
}

/** Scores every row on one target; gives the predicted label per row. */
export async function classify<T>(
  task: ClassificationTask, data: ClassificationRows, input: EvaluateInput<T>, target: number,
): Promise<Int32Array> {
  const { rows, truth } = data;
  const head = await input.scorer.head?.(input.targets[target]!);
  const scores = head === undefined ? await likelihoodsOfLabels(task, rows, input, target) : await scoresOfHead(task, head, input, target);
  const predicted = Int32Array.from(scores, (values) => values.indexOf(Math.max(...values)));
  for (let row = 0; row < rows.length && input.onRow !== undefined; row++) {
    await input.onRow(outcome(task, input.rows[row]!.line, target, row, truth[row]!, predicted[row]!, scores[row]!));
  }
  return predicted;
}

/** Log-probabilities that the head gives the task's labels, row by row. INVALID_ARGUMENT for labels that it does not know. */
async function scoresOfHead<T>(
  task: ClassificationTask, head: { readonly labels: readonly string[]; readonly template: string }, input: EvaluateInput<T>, target: number,
): Promise<Float64Array[]> {
  const places = task.labels.map((label) => head.labels.indexOf(label));
  const unknown = task.labels.filter((_, i) => places[i] === -1);
  if (unknown.length > 0) {
    throw invalidFields([{ field: 'task.labels', description: `${unknown.map((label) => `'${label}'`).join(', ')}: not among the labels of targets[${target}]'s classification head` }]);
  }
  const { tokenizer, maxLengthTokens = Infinity, signal } = input;
  const prompts: (readonly number[])[] = [];
  for (const [i, row] of input.rows.entries()) {
    if (row.kind === 'label') prompts.push(lastTokens(promptTokens(fillTemplate(head.template, { text: row.text }), tokenizer), maxLengthTokens, tokenizer.bosTokenId));
    if (i % 16 === 15) await new Promise((resolve) => setImmediate(resolve));
  }
  const scores = new Array<Float64Array>(prompts.length);
  await inBatches({
    lengths: prompts.map((prompt) => prompt.length),
    signal,
    progress: (rowsDone) => input.emit({ kind: 'progress', target, rowsDone, rowsTotal: prompts.length }),
    run: async (indices) => {
      const found = await input.scorer.classify!({ target: input.targets[target]!, prompts: indices.map((i) => prompts[i]!), ...(signal === undefined ? {} : { signal }) });
      indices.forEach((row, i) => {
        scores[row] = Float64Array.from(places, (place) => found[i]![place]!);
      });
    },
  });
  return scores;
}

async function likelihoodsOfLabels<T>(task: ClassificationTask, rows: readonly ClassificationRow[], input: EvaluateInput<T>, target: number): Promise<Float64Array[]> {
  const scores = new Array<Float64Array>(rows.length);
  const single = sharedCandidates(rows);
  const request = { target: input.targets[target]!, ...(input.signal === undefined ? {} : { signal: input.signal }) };
  await inBatches({
    lengths: rows.map((row) => row.prompt.length),
    signal: input.signal,
    progress: (rowsDone) => input.emit({ kind: 'progress', target, rowsDone, rowsTotal: rows.length }),
    run: async (indices) => {
      if (single !== undefined) {
        const found = await input.scorer.scoreNext({ ...request, prompts: indices.map((i) => rows[i]!.prompt), candidates: single });
        indices.forEach((row, i) => {
          scores[row] = found[i]!;
        });
        return;
      }
      const sequences = indices.flatMap((i) => rows[i]!.labels.map((label) => ({ tokens: [...rows[i]!.prompt, ...label], scoreFrom: rows[i]!.prompt.length })));
      const found = await input.scorer.score({ ...request, sequences });
      indices.forEach((row, i) => {
        scores[row] = Float64Array.from(task.labels, (_, label) => total(found[i * task.labels.length + label]!.logProbabilities));
      });
    },
  });
  return scores;
}

function outcome(
  task: ClassificationTask, line: number | undefined, target: number, row: number, truth: number, predicted: number, scores: Float64Array,
): RowOutcome {
  return {
    kind: 'classification', target, row, ...(line === undefined ? {} : { line }),
    label: task.labels[truth]!, predicted: task.labels[predicted]!, correct: truth === predicted, labelLogProbabilities: [...scores],
  };
}

/** The labels' token ids when each is one token, the same after every prompt; otherwise undefined. */
function sharedCandidates(rows: readonly ClassificationRow[]): readonly number[] | undefined {
  const first = rows[0]?.labels.map((tokens) => tokens[0]!);
  const shared = rows.every((row) => row.labels.every((tokens, i) => tokens.length === 1 && tokens[0] === first?.[i]));
  return shared ? first : undefined;
}

function total(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}
