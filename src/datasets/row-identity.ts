/**
 * When two rows are the same: exactly (their texts) or normalized: case, runs of white space and Unicode form (NFC) do not count. Rows
 * are remembered as 96 bits of SHA-256, which tell a million rows apart; no text is kept.
 */
import { createHash } from 'node:crypto';
import type { Example } from './dataset.js';
import { rowTexts } from './row-texts.js';

/** Rows whose repetition is looked for; beyond them no duplicates are reported. */
export const MAX_REMEMBERED_ROWS = 1_000_000;

export function identityOf(texts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(texts)).digest('base64url').slice(0, 16);
}

export function normalized(text: string): string {
  return text.normalize('NFC').toLowerCase().replace(/\s+/g, ' ').trim();
}

/** What a row asks or says, normalized: all its texts, but of a label row the text without the label. */
export function normalizedIdentity(example: Example): string {
  const texts = example.kind === 'label' ? [example.text] : rowTexts(example).map(({ text }) => text);
  return identityOf(texts.map(normalized));
}
