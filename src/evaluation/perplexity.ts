/**
 * Perplexity: exp of the mean negative log-probability per counted token, over all rows together. Rows are worded and masked
 * exactly as tuning does it (src/models/prompt.ts).
 */
import { invalidFields } from '../common/errors.js';
import { renderExample, truncateRendered, type RenderedExample } from '../models/prompt.js';
import { inBatches } from './batches.js';
import type { EvaluateInput, PerplexityResult, PerplexityTask } from './types.js';

export async function preparePerplexity<T>(task: PerplexityTask, input: EvaluateInput<T>): Promise<readonly RenderedExample[]> {
  const rows: RenderedExample[] = [];
  for (const [i, row] of input.rows.entries()) {
    const options = { loss: task.tokens ?? 'completion', ...(task.labelTemplate === undefined ? {} : { labelTemplate: task.labelTemplate }) };
    const rendered = renderExample(row, input.tokenizer, input.chatTemplate, options);
    rows.push(input.maxLengthTokens === undefined ? rendered : truncateRendered(rendered, input.maxLengthTokens, input.tokenizer.bosTokenId));
    if (i % 16 === 15) await new Promise((resolve) => setImmediate(resolve));
  }
  if (!rows.some((row) => row.lossMask.includes(true))) {
    throw invalidFields([{ field: 'rows', description: 'no row has a token that counts' }]);
  }
  return rows;
}

/** Sums of log-probabilities and counted tokens per row. */
export interface RowLikelihoods {
  readonly logProbabilities: Float64Array;
  readonly tokens: Int32Array;
}

export async function likelihoods<T>(rows: readonly RenderedExample[], input: EvaluateInput<T>, target: number): Promise<RowLikelihoods> {
  const logProbabilities = new Float64Array(rows.length);
  const tokens = Int32Array.from(rows, (row) => row.lossMask.filter(Boolean).length);
  const request = { target: input.targets[target]!, ...(input.signal === undefined ? {} : { signal: input.signal }) };
  await inBatches({
    lengths: rows.map((row) => row.tokens.length),
    signal: input.signal,
    progress: (rowsDone) => input.emit({ kind: 'progress', target, rowsDone, rowsTotal: rows.length }),
    run: async (indices) => {
      const counted = indices.filter((i) => tokens[i]! > 0);
      if (counted.length === 0) return;
      const sequences = counted.map((i) => ({ tokens: rows[i]!.tokens, scoreFrom: rows[i]!.lossMask.indexOf(true) }));
      const found = await input.scorer.score({ ...request, sequences });
      counted.forEach((row, k) => {
        const from = sequences[k]!.scoreFrom;
        let sum = 0;
        found[k]!.logProbabilities.forEach((value, j) => {
          if (rows[row]!.lossMask[from + j] === true) sum += value;
        });
        logProbabilities[row] = sum;
      });
    },
  });
  for (let row = 0; row < rows.length && input.onRow !== undefined; row++) {
    const line = input.rows[row]!.line;
    await input.onRow({
      kind: 'perplexity', target, row, ...(line === undefined ? {} : { line }), tokens: tokens[row]!, logProbability: logProbabilities[row]!,
    });
  }
  return { logProbabilities, tokens };
}

export function perplexityResult({ logProbabilities, tokens }: RowLikelihoods): PerplexityResult {
  const count = tokens.reduce((sum, n) => sum + n, 0);
  const mean = -logProbabilities.reduce((sum, value) => sum + value, 0) / count;
  return { kind: 'perplexity', rows: tokens.length, tokens: count, meanNegativeLogProbability: mean, perplexity: Math.exp(mean) };
}
