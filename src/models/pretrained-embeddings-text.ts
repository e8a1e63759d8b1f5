/**
 * Word vectors as text, byte by byte: half of reading such a file is parsing its numbers, so they are not cut into strings. Values
 * equal Math.fround(Number(text)). A word may hold spaces (GloVe's 840B file has some): the last D fields of a line are its vector.
 */
import { Damages, WordTable, type WordVectorParser, type WordVectors } from './pretrained-embeddings-table.js';

const [SPACE, TAB, LINE_FEED, RETURN] = [0x20, 0x09, 0x0a, 0x0d];
const MAX_LINE_BYTES = 1 << 20;
/** Parts of a word with spaces. More of them are numbers that the first line lacks. */
const MAX_WORD_FIELDS = 8;
const POWERS = Float64Array.from({ length: 23 }, (_, i) => Number(`1e${i}`));

export class TextReader implements WordVectorParser {
  private readonly damages: Damages;
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  private table: WordTable | undefined;
  private declared: { readonly words: number; readonly dimension: number } | undefined;
  private rest: Buffer = Buffer.alloc(0);
  private line = 0;
  private full = false;
  /** Start and end of every field of the line at hand. */
  private readonly fields: number[] = [];

  constructor(path: string, private readonly format: 'glove' | 'word2vec', private readonly maxWords: number) {
    this.damages = new Damages(path);
  }

  push(chunk: Buffer): boolean {
    const bytes = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    let start = 0;
    for (let end = bytes.indexOf(LINE_FEED); end >= 0 && !this.full; end = bytes.indexOf(LINE_FEED, start)) {
      this.take(bytes, start, end);
      start = end + 1;
    }
    this.rest = bytes.subarray(start);
    if (this.rest.length > MAX_LINE_BYTES && !this.full) {
      this.damages.add(`line ${this.line + 1}`, `is longer than ${MAX_LINE_BYTES} bytes`);
      this.damages.refuse();
    }
    return this.full;
  }

  finish(): WordVectors {
    if (this.rest.length > 0 && !this.full) this.take(this.rest, 0, this.rest.length);
    const words = this.table?.words.size ?? 0;
    if (words === 0) this.damages.add(`line ${Math.max(1, this.line)}`, 'the file holds no vectors');
    const rows = words + (this.table?.duplicates ?? 0);
    if (this.declared !== undefined && !this.full && rows !== this.declared.words) {
      this.damages.add('line 1', `says ${this.declared.words} words, the file has ${rows}`);
    }
    this.damages.refuse();
    return this.table!.finish(this.format);
  }

  private take(bytes: Buffer, start: number, end: number): void {
    const line = ++this.line;
    const { fields } = this;
    const byteOrderMark = line === 1 && bytes.indexOf('\ufeff', start) === start ? 3 : 0;
    split(bytes, start + byteOrderMark, end, fields);
    const count = fields.length / 2;
    if (line === 1 && this.format === 'word2vec') {
      this.header(bytes, count);
      return;
    }
    if (count === 0) {
      this.damages.add(`line ${line}`, 'is empty');
      return;
    }
    // Without a header the first line tells the dimension: its word is one field.
    const table = (this.table ??= new WordTable(this.declared?.dimension ?? Math.max(1, count - 1)));
    const { dimension } = table;
    if (count < dimension + 1 || count > dimension + MAX_WORD_FIELDS) {
      this.damages.add(`line ${line}`, `has ${count - 1} numbers instead of ${dimension}`);
      return;
    }
    const word = this.word(bytes, fields[0]!, fields[2 * (count - dimension) - 1]!, line);
    if (word !== undefined) this.vector(bytes, word, table, count - dimension);
  }

  private header(bytes: Buffer, count: number): void {
    const numbers = Array.from({ length: count }, (_, i) => Number(bytes.toString('latin1', this.fields[2 * i], this.fields[2 * i + 1])));
    const [words, dimension] = numbers as [number, number];
    if (count !== 2 || !numbers.every((n) => Number.isSafeInteger(n) && n > 0) || dimension > MAX_LINE_BYTES / 2) {
      this.damages.add('line 1', 'is not the two numbers of a word2vec file, words and dimension');
      this.damages.refuse();
    }
    this.declared = { words, dimension };
  }

  private word(bytes: Buffer, start: number, end: number, line: number): string | undefined {
    try {
      return this.utf8.decode(bytes.subarray(start, end));
    } catch {
      this.damages.add(`line ${line}`, 'its word is not valid UTF-8');
      return undefined;
    }
  }

  private vector(bytes: Buffer, word: string, table: WordTable, first: number): void {
    const row = table.add(word);
    for (let i = 0; i < table.dimension; i++) {
      const [start, end] = [this.fields[2 * (first + i)]!, this.fields[2 * (first + i) + 1]!];
      const value = Math.fround(parseNumber(bytes, start, end));
      if (!Number.isFinite(value)) {
        this.damages.add(`line ${this.line}`, `'${bytes.toString('utf8', start, Math.min(end, start + 40))}' is not a finite number`);
        return;
      }
      if (row !== undefined) row[i] = value;
    }
    this.full = table.words.size >= this.maxWords;
  }
}

/** Fills `fields` with start and end of every field; fields are separated by spaces and tabs. */
function split(bytes: Buffer, start: number, end: number, fields: number[]): void {
  fields.length = 0;
  for (let at = start; at < end; ) {
    while (at < end && isBlank(bytes[at]!)) at++;
    if (at === end) return;
    fields.push(at);
    while (at < end && !isBlank(bytes[at]!)) at++;
    fields.push(at);
  }
}

function isBlank(byte: number): boolean {
  return byte === SPACE || byte === TAB || byte === RETURN;
}

/**
 * The double nearest to a decimal number, NaN for anything else. Up to 15 digits and a power of ten up to 22 are exact in a
 * double, so one rounding gives the right one (Clinger 1990); longer numbers go through Number.
 */
export function parseNumber(bytes: Uint8Array, start: number, end: number): number {
  let at = start;
  const negative = bytes[at] === 0x2d;
  if (negative || bytes[at] === 0x2b) at++;
  let [mantissa, digits, decimals, seen] = [0, 0, 0, 0];
  for (let point = false; at < end; at++) {
    const byte = bytes[at]!;
    if (byte >= 0x30 && byte <= 0x39) {
      mantissa = mantissa * 10 + (byte - 0x30);
      if (mantissa > 0) digits++;
      if (point) decimals++;
      seen++;
    } else if (byte === 0x2e && !point) point = true;
    else break;
  }
  if (seen === 0) return NaN;
  if (at < end || digits > 15 || decimals > 22) return parseLong(Buffer.from(bytes.subarray(start, end)).toString('latin1'));
  const value = mantissa / POWERS[decimals]!;
  return negative ? -value : value;
}

function parseLong(text: string): number {
  return /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text) ? Number(text) : NaN;
}
