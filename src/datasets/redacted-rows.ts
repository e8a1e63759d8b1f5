/** Rows written again as JSON Lines, with placeholders for personal data. Rows without any keep their texts to the character. */
import type { Example } from './dataset.js';
import { redact, type PersonalCode } from './personal-data.js';
import { changedRow } from './row-texts.js';

/** How often what was replaced; filled while the rows are read. */
export type Redactions = Map<PersonalCode, number>;

const PIECE_CHARACTERS = 1 << 16;

export async function* redactedRows(rows: AsyncIterable<Example & { readonly line: number }>, redactions: Redactions): AsyncGenerator<Uint8Array> {
  let piece = '';
  const count = (code: PersonalCode): void => void redactions.set(code, (redactions.get(code) ?? 0) + 1);
  for await (const { line: _line, ...example } of rows) {
    piece += `${JSON.stringify(changedRow(example, (text) => redact(text, count)))}\n`;
    if (piece.length < PIECE_CHARACTERS) continue;
    yield Buffer.from(piece);
    piece = '';
  }
  if (piece !== '') yield Buffer.from(piece);
}
