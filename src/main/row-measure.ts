/**
 * Measures rows as tuning renders them: src/models/prompt.ts is asked for tokens and mask, and only their figures are kept. Pure of
 * threads and files, so that a worker and a test use the same.
 */
import type { Example, RowMeasure } from '../datasets/index.js';
import { rowTexts } from '../datasets/index.js';
import { LoricaError } from '../common/errors.js';
import { underOneTimeLimit } from '../models/chat-template.js';
import type { Checkpoint } from '../models/checkpoint.js';
import { renderExample, truncateRendered, type RenderedExample, type RenderOptions } from '../models/prompt.js';

export interface MeasureOptions extends RenderOptions {
  readonly maxLengthTokens: number;
}

type TextParts = Pick<Checkpoint, 'tokenizer' | 'tokenizerJson' | 'chatTemplate'>;

/** Conversations that are rendered under one time limit. */
const ROWS_UNDER_ONE_LIMIT = 16;
/** An end of text may be followed by the line end that templates write after it. */
const TOKENS_AFTER_END = 2;
const NOTHING = { tokens: 0, longestTokens: 0, lossTokens: 0, fedTokens: 0, fedLossTokens: 0, ends: true, specialPaths: [] };

/** Throws FAILED_PRECONDITION / MODEL_UNSUPPORTED for conversations on a model without a chat template. */
export function rowMeasurer(parts: TextParts, options: MeasureOptions): (rows: readonly Example[]) => RowMeasure[] {
  const special = specialTokens(parts.tokenizerJson);
  const one = (row: Example): RowMeasure => {
    const specialPaths = special === undefined ? [] : rowTexts(row).flatMap(({ path, text }) => (special.test(text) ? [path] : []));
    try {
      const rendered = renderings(row).map((one) => renderExample(one, parts.tokenizer, parts.chatTemplate, options));
      const cut = rendered.map((one) => truncateRendered(one, options.maxLengthTokens, parts.tokenizer.bosTokenId));
      // Tuning leaves a pair out when one of its answers has nothing that counts.
      const kept = cut.every(({ lossMask }) => lossMask.includes(true)) ? cut : [];
      return {
        tokens: sum(rendered, ({ tokens }) => tokens.length),
        longestTokens: Math.max(...rendered.map(({ tokens }) => tokens.length)),
        lossTokens: sum(rendered, ({ lossMask }) => counted(lossMask)),
        fedTokens: sum(kept, ({ lossMask }) => lossMask.lastIndexOf(true)),
        fedLossTokens: sum(kept, ({ lossMask }) => counted(lossMask)),
        ends: row.kind === 'label' || rendered.every((one) => endsText(one, parts.tokenizer.eosTokenIds)),
        specialPaths,
      };
    } catch (error) {
      if (error instanceof LoricaError && error.code === 'INVALID_ARGUMENT') {
        return { ...NOTHING, specialPaths, refusal: error.violations[0]?.description ?? error.message };
      }
      throw error;
    }
  };
  return (rows) => {
    const measures: RowMeasure[] = [];
    for (let from = 0; from < rows.length; from += ROWS_UNDER_ONE_LIMIT) {
      const together = rows.slice(from, from + ROWS_UNDER_ONE_LIMIT);
      measures.push(...(underOneTimeLimit(() => together.map(one)) ?? together.map(one)));
    }
    return measures;
  };
}

/** What tuning feeds for a row: itself, or of a preference both answers to its prompt. */
function renderings(row: Example): Example[] {
  if (row.kind !== 'preference') return [row];
  const { prompt, chosen, rejected } = row;
  return [chosen, rejected].map((completion) => ({ kind: 'completion', prompt, completion }));
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}

function counted(mask: readonly boolean[]): number {
  let count = 0;
  for (const counts of mask) if (counts) count += 1;
  return count;
}

/** Whether the last tokens that count hold an end-of-sequence token. */
function endsText({ tokens, lossMask }: RenderedExample, eosTokenIds: readonly number[]): boolean {
  const last = lossMask.lastIndexOf(true);
  return tokens.slice(Math.max(0, last - TOKENS_AFTER_END), last + 1).some((id) => eosTokenIds.includes(id));
}

/** Matches the texts of special tokens; undefined when there are none. */
function specialTokens(tokenizerJson: unknown): RegExp | undefined {
  const added = (tokenizerJson as { added_tokens?: readonly { content: string; special?: boolean }[] }).added_tokens ?? [];
  const texts = added.filter(({ content, special }) => special === true && content !== '').map(({ content }) => content);
  return texts.length === 0 ? undefined : new RegExp(texts.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|'), 'u');
}
