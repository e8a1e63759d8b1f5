/**
 * The texts of a row with their JSON paths, whatever its kind: an Example holds the row's own fields beside `kind`, so walking it
 * needs no list of kinds. Roles are structure, not text.
 */
import type { Example } from './dataset.js';

export interface RowText {
  /** JSON path, e.g. $.messages[0].content. */
  readonly path: string;
  readonly text: string;
}

export function rowTexts(example: Example): RowText[] {
  const found: RowText[] = [];
  walk(fieldsOf(example), '$', (text, path) => {
    found.push({ path, text });
    return text;
  });
  return found;
}

/** The row as it is written in a file, its texts replaced by what `change` returns. */
export function changedRow(example: Example, change: (text: string) => string): unknown {
  return walk(fieldsOf(example), '$', change);
}

/** Where the answer of a row is, as a JSON path. */
export function answerPath(kind: string): string {
  return { completion: '$.completion', label: '$.label', messages: '$.messages', text: '$.text' }[kind] ?? '$';
}

function fieldsOf(example: Example): Record<string, unknown> {
  const { kind: _kind, ...fields } = example;
  return fields;
}

function walk(value: unknown, path: string, visit: (text: string, path: string) => string): unknown {
  if (typeof value === 'string') return visit(value, path);
  if (Array.isArray(value)) return value.map((item, index) => walk(item, `${path}[${index}]`, visit));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [name, name === 'role' ? (item as unknown) : walk(item, `${path}.${name}`, visit)]),
  );
}
