/**
 * Reads a JSON Lines file once, in bounded memory, and says everything about it: all errors and warnings with their lines, and statistics.
 * Invariant: `rows` counts valid rows; a report without errors means that every non-blank line became an example, all of one kind.
 */
import { createHash } from 'node:crypto';
import type { DatasetStatistics, Example, ExampleKind, Finding, Report } from './dataset.js';
import { finding } from './finding.js';
import type { FindingCode } from './finding-codes.js';
import { LineSplitter, MAX_LINE_BYTES, type Line } from './lines.js';
import { identityOf, MAX_REMEMBERED_ROWS } from './row-identity.js';
import { parseRow, textOf } from './row.js';

/** Findings of each severity that a report keeps; later ones are only counted. */
export const MAX_FINDINGS = 200;
const MAX_LABELS = 1_000;
const CR = 0x0d;

export interface CheckedLine {
  /** From 1; 0 for what concerns the file as a whole. */
  readonly line: number;
  readonly findings: readonly Finding[];
  readonly example?: Example;
}

type Find = (code: FindingCode, path: string, message: string, relatedLine?: number) => void;

export class JsonlCheck {
  private readonly lines = new LineSplitter();
  private readonly hash = createHash('sha256');
  private readonly decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  private readonly seen = new Map<string, number>();
  private readonly labels = new Map<string, number>();
  private readonly kept: Finding[] = [];
  private readonly counts = { error: 0, warning: 0 };
  private kind: ExampleKind | undefined;
  private kindLine = 0;
  private carriageReturns = false;
  private bytes = 0;
  private rows = 0;
  private duplicates = 0;
  private characters = 0;
  private longest = 0;

  /** Takes the next bytes in; says what each line that ends in them is. */
  push(piece: Uint8Array): CheckedLine[] {
    this.hash.update(piece);
    this.bytes += piece.length;
    return Array.from(this.lines.push(piece), (line) => this.checked(line));
  }

  /** To be called after the last piece: a last line without LF, and a file without rows. */
  end(): CheckedLine[] {
    const last = Array.from(this.lines.end(), (line) => this.checked(line));
    if (this.rows > 0 || this.counts.error > 0) return last;
    const findings = [finding('NO_ROWS', 0, '$', 'the file has no rows')];
    this.note(findings);
    return [...last, { line: 0, findings }];
  }

  /** The outcome so far; final after end. Once only. */
  report(): Report {
    const statistics: DatasetStatistics = {
      rows: this.rows,
      bytes: this.bytes,
      duplicateRows: this.duplicates,
      characters: this.characters,
      longestRowCharacters: this.longest,
      labels: Object.fromEntries(this.labels),
    };
    return {
      ...(this.kind === undefined ? {} : { kind: this.kind }),
      statistics,
      errorCount: this.counts.error,
      warningCount: this.counts.warning,
      findings: this.kept,
      sha256: this.hash.digest('hex'),
    };
  }

  private checked(line: Line): CheckedLine {
    const findings: Finding[] = [];
    const example = this.line(line, (code, path, message, relatedLine) =>
      findings.push(finding(code, line.number, path, message, relatedLine === undefined ? {} : { line: relatedLine })),
    );
    this.note(findings);
    return { line: line.number, findings, ...(example === undefined ? {} : { example }) };
  }

  private note(findings: readonly Finding[]): void {
    for (const finding of findings) {
      this.counts[finding.severity] += 1;
      if (this.counts[finding.severity] <= MAX_FINDINGS) this.kept.push(finding);
    }
  }

  private line(line: Line, find: Find): Example | undefined {
    if (line.tooLong) {
      find('LINE_TOO_LONG', '$', `is longer than ${MAX_LINE_BYTES} bytes`);
      return undefined;
    }
    let text: string;
    try {
      text = this.decoder.decode(line.bytes.at(-1) === CR ? line.bytes.subarray(0, -1) : line.bytes);
    } catch {
      find('INVALID_UTF8', '$', 'is not valid UTF-8');
      return undefined;
    }
    if (line.bytes.at(-1) === CR && !this.carriageReturns) {
      this.carriageReturns = true;
      find('CARRIAGE_RETURNS', '$', 'lines end with CR LF; the CR is ignored');
    }
    if (text.startsWith('\ufeff')) {
      text = text.slice(1);
      const what = line.number === 1 ? 'the file begins' : 'begins (as where files were joined)';
      find('BYTE_ORDER_MARK', '$', `${what} with a byte order mark, which is ignored`);
    }
    if (text.trim() === '') {
      find('BLANK_LINE', '$', 'is blank and ignored');
      return undefined;
    }
    const row = parseRow(text);
    if ('errors' in row) {
      for (const error of row.errors) find(error.code, error.path, error.message);
      return undefined;
    }
    return this.row(row.example, line.number, find);
  }

  private row(example: Example, line: number, find: Find): Example | undefined {
    if (this.kind === undefined) {
      this.kind = example.kind;
      this.kindLine = line;
    }
    if (example.kind !== this.kind) {
      find('MIXED_KINDS', '$', `is a ${example.kind} row, line ${this.kindLine} is a ${this.kind} row: a dataset has one kind`);
      return undefined;
    }
    const texts = textOf(example);
    const characters = texts.reduce((sum, part) => sum + characterCount(part), 0);
    this.rows += 1;
    this.characters += characters;
    this.longest = Math.max(this.longest, characters);
    if (example.kind === 'label' && (this.labels.has(example.label) || this.labels.size < MAX_LABELS)) {
      this.labels.set(example.label, (this.labels.get(example.label) ?? 0) + 1);
    }
    const identity = identityOf(texts);
    const first = this.seen.get(identity);
    if (first !== undefined) {
      this.duplicates += 1;
      find('DUPLICATE_ROW', '$', `repeats line ${first}`, first);
    } else if (this.seen.size < MAX_REMEMBERED_ROWS) this.seen.set(identity, line);
    return example;
  }
}

/** Unicode characters (code points), which a surrogate pair in UTF-16 is one of. */
function characterCount(text: string): number {
  let count = text.length;
  for (let at = 0; at < text.length; at += 1) if ((text.charCodeAt(at) & 0xfc00) === 0xdc00) count -= 1;
  return count;
}

/** What each line is, in order; `check` holds the report afterwards. */
export async function* readJsonl(chunks: AsyncIterable<Uint8Array>, check: JsonlCheck): AsyncGenerator<CheckedLine> {
  for await (const chunk of chunks) yield* check.push(chunk);
  yield* check.end();
}
