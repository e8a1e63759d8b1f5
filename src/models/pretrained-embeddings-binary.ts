/**
 * word2vec's binary form: a line 'N D', then N times a word, a space and D little-endian float32, with or without a line feed
 * after them. There are no lines to name in it, so errors count words.
 */
import { Damages, WordTable, type WordVectorParser, type WordVectors } from './pretrained-embeddings-table.js';

const [SPACE, LINE_FEED] = [0x20, 0x0a];
const MAX_WORD_BYTES = 4096;
const MAX_DIMENSION = 1 << 16;

export class BinaryReader implements WordVectorParser {
  private readonly damages: Damages;
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  private rest: Buffer = Buffer.alloc(0);
  private table: WordTable | undefined;
  private declared = 0;
  private taken = 0;

  constructor(path: string, private readonly maxWords: number) {
    this.damages = new Damages(path);
  }

  push(chunk: Buffer): boolean {
    const bytes = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    let at = this.table === undefined ? this.header(bytes) : 0;
    while (!this.done()) {
      const next = this.entry(bytes, at);
      if (next === undefined) break;
      at = next;
    }
    this.rest = bytes.subarray(at);
    return this.done();
  }

  finish(): WordVectors {
    if (!this.done()) this.damages.add(`word ${this.taken + 1}`, `the file ends here; its header says ${this.declared} words`);
    this.damages.refuse();
    return this.table!.finish('word2vec-binary');
  }

  private done(): boolean {
    return this.table !== undefined && (this.taken >= this.declared || this.table.words.size >= this.maxWords);
  }

  /** Reads the first line; the offset after it, or 0 when it isn't complete. */
  private header(bytes: Buffer): number {
    const end = bytes.indexOf(LINE_FEED);
    const match = /^(\d{1,12}) (\d{1,6})\s*$/.exec(bytes.toString('latin1', 0, Math.min(end < 0 ? bytes.length : end, 64)));
    if (match === null || end < 0 || Number(match[1]) === 0 || Number(match[2]) === 0 || Number(match[2]) > MAX_DIMENSION) {
      this.damages.add('line 1', 'is not the two numbers of a word2vec file, words and dimension');
      this.damages.refuse();
    }
    this.declared = Number(match![1]);
    this.table = new WordTable(Number(match![2]));
    return end + 1;
  }

  /** Reads the word and vector at `start`; the offset after them, or undefined when they aren't complete. */
  private entry(bytes: Buffer, start: number): number | undefined {
    const table = this.table;
    if (table === undefined) return undefined;
    while (bytes[start] === LINE_FEED) start++;
    const space = bytes.indexOf(SPACE, start);
    if ((space < 0 ? bytes.length : space) - start > MAX_WORD_BYTES) {
      this.damages.add(`word ${this.taken + 1}`, `is longer than ${MAX_WORD_BYTES} bytes`);
      this.damages.refuse();
    }
    const end = space + 1 + 4 * table.dimension;
    if (space < 0 || end > bytes.length) return undefined;
    this.taken++;
    const word = this.word(bytes.subarray(start, space));
    const row = word === undefined ? undefined : table.add(word);
    for (let i = 0; i < table.dimension; i++) {
      const value = bytes.readFloatLE(space + 1 + 4 * i);
      if (!Number.isFinite(value)) {
        this.damages.add(`word ${this.taken}`, `value ${i + 1} is not a finite number`);
        return end;
      }
      if (row !== undefined) row[i] = value;
    }
    return end;
  }

  private word(bytes: Buffer): string | undefined {
    try {
      return this.utf8.decode(bytes);
    } catch {
      this.damages.add(`word ${this.taken}`, 'is not valid UTF-8');
      return undefined;
    }
  }
}
