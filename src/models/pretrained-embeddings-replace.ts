/**
 * New embedding rows from word vectors: matched, projected into the model's space and brought to the norms of the old rows; the
 * tokens that match nothing keep their rows bit for bit. Pure: the original is not written to. The measurements behind the
 * defaults are in docs/decisions/0007-pretrained-embeddings.md.
 */
import { invalidFields } from '../common/errors.js';
import { gaussian, labelledStream } from '../common/random-streams.js';
import { turns } from '../common/turns.js';
import { hostTensor, type HostTensor } from '../tensor/host-tensor.js';
import type { DecoderConfig } from './config.js';
import { EMBEDDING_WEIGHT, HEAD_WEIGHT } from './decoder.js';
import { ACTIVITY, fillFeatures, fitProjection, MIN_FIT_TOKENS, SURFACE_FEATURES, type FittedProjection, type HeldOutFit } from './pretrained-embeddings-fit.js';
import { matchTokens, type TokenMatches, type TokenText } from './pretrained-embeddings-match.js';
import { multiplyRows } from './ridge-regression.js';
import type { WordVectors } from './pretrained-embeddings-table.js';

export interface ReplaceEmbeddingsInput {
  readonly source: WordVectors;
  /** Texts of all tokens [V], from `tokenTexts`. */
  readonly texts: readonly TokenText[];
  /** The model's embedding, [V,C]. */
  readonly original: Float32Array;
  /** C */
  readonly hiddenSize: number;
  /**
   * 'ridge': the fitted map. 'orthogonal': a seeded random one that keeps angles (where D ≤ C). 'identity': the vectors as they
   * are, D = C. 'auto' (default): ridge where it is useful on held-out tokens, else identity where D = C, else orthogonal.
   */
  readonly projection?: 'auto' | 'ridge' | 'orthogonal' | 'identity';
  /** Length of a new row: that of the row it replaces (default), the mean of all replaced rows', or as projected. */
  readonly norm?: 'row' | 'mean' | 'none';
  /** Words' beginnings get the mean of their words. Default: unless ridge is used, for then the old rows are worth more. */
  readonly prefixes?: boolean;
  readonly seed: number;
  /** How often each token occurs in the data, [V]; adds shares weighted by it to the report. */
  readonly counts?: ArrayLike<number>;
  readonly signal?: AbortSignal;
}

export interface EmbeddingReport {
  readonly source: { readonly format: WordVectors['format']; readonly words: number; readonly continuations: number; readonly dimension: number; readonly duplicates: number };
  /** Tokens of the vocabulary, by what their rows came from; the four add up to V. */
  readonly tokens: Coverage;
  /** The same as shares of the tokens of the data, when `counts` was given. */
  readonly dataShares?: Coverage;
  readonly projection: 'ridge' | 'orthogonal' | 'identity';
  /** Of the fit, whether it was used or not; absent when none was tried. */
  readonly heldOut?: HeldOutFit;
  readonly penalty?: number;
}

export interface Coverage {
  readonly exact: number;
  readonly lowerCase: number;
  readonly prefix: number;
  readonly kept: number;
}

export interface EmbeddingReplacement {
  /** [V,C], in memory of its own. */
  readonly embeddings: Float32Array;
  readonly report: EmbeddingReport;
}

/** Makes the new embedding. Throws INVALID_ARGUMENT / INVALID_FIELD with paths below `path`, CANCELLED. */
export async function replaceEmbeddings(input: ReplaceEmbeddingsInput, path = 'embeddings'): Promise<EmbeddingReplacement> {
  const { source, texts, original } = input;
  checkInput(input, path);
  let matches = await matchTokens(texts, source, false);
  const tokens = [...matches.kinds.keys()];
  if (tokens.length === 0 && input.prefixes !== true) {
    throw invalidFields([{ field: `${path}.source`, description: `none of the model's ${texts.length} tokens is among its ${source.words.size} words` }]);
  }
  if (input.projection === 'ridge' && tokens.length < MIN_FIT_TOKENS) {
    throw invalidFields([{ field: `${path}.projection`, description: `a ridge fit needs ${MIN_FIT_TOKENS} tokens that have a vector, there are ${tokens.length}` }]);
  }
  const fits = (input.projection ?? 'auto') === 'auto' || input.projection === 'ridge';
  const fit = fits && tokens.length >= MIN_FIT_TOKENS ? await fitProjection({ ...input, matches, tokens, dimension: source.dimension, signal: input.signal }) : undefined;
  const projection = chooseProjection(input, fit);
  if (input.prefixes ?? projection !== 'ridge') matches = await matchTokens(texts, source, true);
  const embeddings = original.slice();
  await writeRows(input, matches, rowMaker(projection, fit, input), embeddings);
  return {
    embeddings,
    report: {
      source: { format: source.format, words: source.words.size, continuations: source.continuations.size, dimension: source.dimension, duplicates: source.duplicates },
      tokens: coverage(matches, texts.length, () => 1, 1),
      ...(input.counts === undefined ? {} : { dataShares: shares(matches, input.counts) }),
      projection,
      ...(fit === undefined ? {} : { heldOut: fit.heldOut, penalty: fit.penalty }),
    },
  };
}

function chooseProjection({ projection = 'auto', source, hiddenSize }: ReplaceEmbeddingsInput, fit: FittedProjection | undefined): EmbeddingReport['projection'] {
  if (projection !== 'auto') return projection;
  if (fit?.heldOut.useful === true) return 'ridge';
  return source.dimension === hiddenSize ? 'identity' : 'orthogonal';
}

function checkInput(input: ReplaceEmbeddingsInput, path: string): void {
  const { source, texts, original, hiddenSize } = input;
  if (original.length !== texts.length * hiddenSize) throw new RangeError(`replaceEmbeddings: ${original.length} elements for [${texts.length},${hiddenSize}]`);
  if (input.counts !== undefined && input.counts.length !== texts.length) throw new RangeError(`replaceEmbeddings: ${input.counts.length} counts for ${texts.length} tokens`);
  if (input.projection === 'identity' && source.dimension !== hiddenSize) {
    throw invalidFields([{ field: `${path}.projection`, description: `identity needs vectors of the model's width ${hiddenSize}, these have ${source.dimension}` }]);
  }
  if (!Number.isSafeInteger(input.seed) || input.seed < 0) throw invalidFields([{ field: `${path}.seed`, description: `must be an integer of at least 0, not ${input.seed}` }]);
}

/** Fills a row [C] from a vector [D]; the length of the row comes later. */
type RowMaker = (vector: Float32Array, text: TokenText, row: Float64Array) => void;

function rowMaker(projection: EmbeddingReport['projection'], fit: FittedProjection | undefined, input: ReplaceEmbeddingsInput): RowMaker {
  const { hiddenSize: c, source: { dimension: d } } = input;
  if (projection === 'identity') return (vector, _text, row) => row.set(vector);
  if (projection === 'ridge' && fit !== undefined) {
    const x = new Float64Array(d + SURFACE_FEATURES);
    return (vector, text, row) => {
      fillFeatures(x, vector, fit.mean, text);
      multiplyRows(x, fit.map, 0, d, row.fill(0));
      for (let i = 0; i < c; i++) row[i]! *= fit.spread;
      multiplyRows(x, fit.map, d, x.length, row);
    };
  }
  const map = orthogonalMap(d, c, input.seed);
  return (vector, _text, row) => multiplyRows(Float64Array.from(vector), map, 0, d, row.fill(0));
}

async function writeRows(input: ReplaceEmbeddingsInput, matches: TokenMatches, make: RowMaker, embeddings: Float32Array): Promise<void> {
  const { original, hiddenSize: c, texts, source, norm = 'row' } = input;
  const tokens = [...matches.kinds.keys()];
  const oldNorm = (token: number): number => length(original.subarray(token * c, (token + 1) * c));
  const meanNorm = tokens.reduce((sum, token) => sum + oldNorm(token), 0) / Math.max(1, tokens.length);
  const row = new Float64Array(c);
  const turn = turns(ACTIVITY, input.signal);
  for (const token of tokens) {
    make(matches.vector(token), texts[token], row);
    const made = length(row);
    const wanted = norm === 'none' ? made : norm === 'mean' ? meanNorm : oldNorm(token) || meanNorm;
    const scale = made > 0 ? wanted / made : 0;
    for (let i = 0; i < c; i++) embeddings[token * c + i] = row[i]! * scale;
    await turn(source.dimension * c);
  }
}

/**
 * A random map [D,C] with orthonormal rows (D ≤ C: x·M keeps lengths and angles) or orthonormal columns (D > C): Gaussian
 * numbers, orthogonalized by Gram and Schmidt's method run twice.
 */
export function orthogonalMap(d: number, c: number, seed: number): Float64Array {
  const normal = gaussian(labelledStream(seed, 'embeddings/orthogonal'));
  const [count, size] = [Math.min(d, c), Math.max(d, c)];
  const vectors = Float64Array.from({ length: count * size }, normal);
  const at = (i: number): Float64Array => vectors.subarray(i * size, (i + 1) * size);
  for (let i = 0; i < count; i++) {
    const vector = at(i);
    for (let pass = 0; pass < 2; pass++) {
      for (let k = 0; k < i; k++) {
        const other = at(k);
        let product = 0;
        for (let j = 0; j < size; j++) product += vector[j]! * other[j]!;
        for (let j = 0; j < size; j++) vector[j]! -= product * other[j]!;
      }
    }
    const norm = length(vector);
    for (let j = 0; j < size; j++) vector[j]! /= norm;
  }
  if (d <= c) return vectors;
  return Float64Array.from({ length: d * c }, (_, i) => vectors[(i % c) * size + Math.floor(i / c)]!);
}

function length(values: Float32Array | Float64Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return Math.sqrt(sum);
}

function coverage(matches: TokenMatches, tokens: number, weight: (token: number) => number, total: number): Coverage {
  const sums = { exact: 0, lowerCase: 0, prefix: 0, kept: 0 };
  for (let token = 0; token < tokens; token++) sums[matches.kinds.get(token) ?? 'kept'] += weight(token) / total;
  return sums;
}

function shares(matches: TokenMatches, counts: ArrayLike<number>): Coverage {
  let total = 0;
  for (let token = 0; token < counts.length; token++) total += counts[token]!;
  return coverage(matches, counts.length, (token) => counts[token]!, total || 1);
}

export type HeadChoice = 'original' | 'embeddings';

/** Whether the head is tied to the embedding under this choice. Throws INVALID_ARGUMENT / INVALID_FIELD with a path below `path`. */
export function checkHeadChoice({ tieWordEmbeddings }: DecoderConfig, head: HeadChoice = 'original', path = 'embeddings'): boolean {
  if (!tieWordEmbeddings && head === 'embeddings') {
    throw invalidFields([{ field: `${path}.head`, description: "'embeddings' is for models whose head is tied; this model's head is a tensor of its own" }]);
  }
  return head === 'embeddings';
}

/**
 * The model with a new embedding [V,C]: its config and the tensors that differ from the base. `head` 'original' (default) leaves
 * the output head as it was, which unties a tied one; 'embeddings' lets a tied head follow the new rows. With an untied head
 * 'embeddings' is refused: its head is a tensor of its own.
 */
export function withEmbeddings(
  input: { readonly config: DecoderConfig; readonly original: Float32Array; readonly embeddings: Float32Array; readonly head?: HeadChoice },
  path = 'embeddings',
): { readonly config: DecoderConfig; readonly tensors: ReadonlyMap<string, HostTensor> } {
  const { config, original, embeddings, head } = input;
  const tied = checkHeadChoice(config, head, path);
  const shape = [config.vocabSize, config.hiddenSize];
  const tensors = new Map([[EMBEDDING_WEIGHT, hostTensor('float32', shape, embeddings)]]);
  if (tied || !config.tieWordEmbeddings) return { config, tensors };
  tensors.set(HEAD_WEIGHT, hostTensor('float32', shape, original));
  return { config: { ...config, tieWordEmbeddings: false }, tensors };
}
