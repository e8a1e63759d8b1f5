/**
 * Words and their vectors in memory, and how readers build them up. Rows are in the order of the source, which for GloVe and
 * word2vec files is falling frequency. Invariant: every value is finite, every word has one row (the first wins).
 */
import { LoricaError, type FieldViolation } from '../common/errors.js';

export interface WordVectors {
  /** What they were read from, for reports: 'glove', 'word2vec', 'word2vec-binary' or 'bert'. */
  readonly format: 'glove' | 'word2vec' | 'word2vec-binary' | 'bert';
  /** D of the source. */
  readonly dimension: number;
  /** Row of every word. */
  readonly words: ReadonlyMap<string, number>;
  /** Row of every piece that continues a word, without its prefix (WordPiece 'ing' for '##ing'); empty for word files. */
  readonly continuations: ReadonlyMap<string, number>;
  /** [N,D] */
  readonly vectors: Float32Array;
  /** Rows left out because their word had come before. */
  readonly duplicates: number;
}

/** Takes the bytes of a file piece by piece. `push` returns true when it needs no more. */
export interface WordVectorParser {
  push(bytes: Buffer): boolean;
  /** Throws CHECKPOINT_CORRUPT with every damaged place. */
  finish(): WordVectors;
}

/** Damaged places that an error lists before it only counts them. */
const LISTED_DAMAGES = 20;

/** Collects damaged places of one file; they are reported together. */
export class Damages {
  private readonly listed: FieldViolation[] = [];
  private count = 0;

  constructor(private readonly path: string) {}

  /** `place` such as 'line 12'. */
  add(place: string, description: string): void {
    this.count++;
    if (this.listed.length < LISTED_DAMAGES) this.listed.push({ field: place, description });
  }

  /** Throws INVALID_ARGUMENT / CHECKPOINT_CORRUPT with every listed place when there is any. */
  refuse(): void {
    if (this.count === 0) return;
    const rest = this.count - this.listed.length;
    const text = this.listed.map(({ field, description }) => `${field}: ${description}`).join('; ');
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${this.path} is damaged: ${text}${rest > 0 ? `; and ${rest} more` : ''}`, {
      violations: this.listed,
      hint: 'Fetch the file again, or remove the damaged lines.',
    });
  }
}

/** Grows by half as rows arrive, so that a header's claim never allocates anything. */
export class WordTable {
  readonly words = new Map<string, number>();
  duplicates = 0;
  private vectors: Float32Array;

  constructor(readonly dimension: number) {
    this.vectors = new Float32Array(1024 * dimension);
  }

  /** Adds a word and returns the row [D] to fill, valid until the next call; undefined for a word that has one. */
  add(word: string): Float32Array | undefined {
    if (this.words.has(word)) {
      this.duplicates++;
      return undefined;
    }
    const start = this.words.size * this.dimension;
    if (start + this.dimension > this.vectors.length) {
      const larger = new Float32Array(Math.ceil((this.words.size * 3) / 2) * this.dimension);
      larger.set(this.vectors);
      this.vectors = larger;
    }
    this.words.set(word, this.words.size);
    return this.vectors.subarray(start, start + this.dimension);
  }

  finish(format: WordVectors['format']): WordVectors {
    const { words, dimension, duplicates } = this;
    return { format, dimension, words, continuations: new Map(), vectors: this.vectors.subarray(0, words.size * dimension), duplicates };
  }
}
