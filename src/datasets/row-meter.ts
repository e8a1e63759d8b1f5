/**
 * What tuning will make of rows, as tokens: the port that measures them (models' tokenizers are above this layer; main injects one), and
 * the findings and statistics that follow. Invariant: nothing here renders text itself, so validation can not disagree with tuning.
 */
import type { Example, Finding } from './dataset.js';
import { finding } from './finding.js';
import { answerPath } from './row-texts.js';

/** A row rendered as tuning renders it. */
export interface RowMeasure {
  /** Before truncation; of a preference row both answers, each with the prompt. */
  readonly tokens: number;
  /** Of what is fed as one sequence: of a preference row the longer of the two. */
  readonly longestTokens: number;
  /** Tokens that count in the loss, before truncation. */
  readonly lossTokens: number;
  /** Tokens that are fed after truncation: all before the last that counts. */
  readonly fedTokens: number;
  readonly fedLossTokens: number;
  /** Whether the tokens that count end with an end of text; true for kinds of row that have none. */
  readonly ends: boolean;
  /** JSON paths of texts that spell a special token. */
  readonly specialPaths: readonly string[];
  /** Why the row can not be rendered; all figures are then 0. */
  readonly refusal?: string;
}

export interface RowMeter {
  readonly maxLengthTokens: number;
  /** One measure a row, in order. Rejects when the model can not render this kind of row at all. */
  measure(rows: readonly Example[]): Promise<readonly RowMeasure[]>;
}

export interface TokenStatistics {
  readonly maxLengthTokens: number;
  readonly rows: number;
  readonly tokens: number;
  readonly minTokens: number;
  readonly medianTokens: number;
  readonly p95Tokens: number;
  readonly p99Tokens: number;
  readonly maxTokens: number;
  readonly lossTokens: number;
  readonly truncatedRows: number;
  readonly answerTruncatedRows: number;
  readonly allMaskedRows: number;
  readonly epochTokens: number;
  readonly epochLossTokens: number;
}

/** Sums measures up and says what is wrong with each. */
export class TokenTally {
  private readonly rowsByLength = new Map<number, number>();
  private readonly sums = { rows: 0, tokens: 0, lossTokens: 0, truncatedRows: 0, answerTruncatedRows: 0, allMaskedRows: 0, epochTokens: 0, epochLossTokens: 0 };

  constructor(private readonly maxLengthTokens: number) {}

  add(line: number, example: Example, measure: RowMeasure): Finding[] {
    const { tokens, longestTokens, lossTokens, fedTokens, fedLossTokens } = measure;
    const path = answerPath(example.kind);
    if (measure.refusal !== undefined) {
      return [finding('CHAT_TEMPLATE_REFUSED', line, path, `the chat template of the base model refuses the row: ${measure.refusal}`)];
    }
    const { sums, maxLengthTokens } = this;
    sums.rows += 1;
    sums.tokens += tokens;
    sums.lossTokens += lossTokens;
    sums.epochTokens += fedTokens;
    sums.epochLossTokens += fedLossTokens;
    this.rowsByLength.set(longestTokens, (this.rowsByLength.get(longestTokens) ?? 0) + 1);
    const findings = measure.specialPaths.map((at) => finding('SPECIAL_TOKEN_IN_TEXT', line, at, 'spells a special token of the tokenizer'));
    if (fedLossTokens === 0) {
      sums.allMaskedRows += 1;
      findings.push(finding('ALL_MASKED', line, path, 'no token of the row counts in the loss'));
    } else if (!measure.ends) findings.push(finding('MISSING_END', line, path, 'the answer has no end of text'));
    if (longestTokens > maxLengthTokens) {
      sums.truncatedRows += 1;
      const lost = lossTokens - fedLossTokens;
      const length = `the row has ${longestTokens} tokens, the limit is ${maxLengthTokens}`;
      if (lost > 0) {
        sums.answerTruncatedRows += 1;
        findings.push(finding('ANSWER_TRUNCATED', line, path, `${length}: ${lost} of the ${lossTokens} tokens that count are lost`));
      } else findings.push(finding('PROMPT_TRUNCATED', line, '$', `${length}: the prompt loses its oldest ${longestTokens - maxLengthTokens}`));
    }
    return findings;
  }

  /** After the last row. */
  end(): Finding[] {
    const { rows, allMaskedRows } = this.sums;
    return rows > 0 && rows === allMaskedRows ? [finding('NOTHING_COUNTS', 0, '$', 'in no row is there a token that counts in the loss')] : [];
  }

  statistics(): TokenStatistics {
    const lengths = [...this.rowsByLength].sort(([a], [b]) => a - b);
    /** The least length that `share` of the rows do not exceed (nearest rank). */
    const quantile = (share: number): number => {
      let missing = Math.max(1, Math.ceil(share * this.sums.rows));
      for (const [length, rows] of lengths) if ((missing -= rows) <= 0) return length;
      return 0;
    };
    return {
      maxLengthTokens: this.maxLengthTokens,
      ...this.sums,
      minTokens: quantile(0),
      medianTokens: quantile(0.5),
      p95Tokens: quantile(0.95),
      p99Tokens: quantile(0.99),
      maxTokens: quantile(1),
    };
  }
}
