/**
 * The linear map from word vectors to a model's embedding rows, fitted on the tokens that have both, and what it is worth on
 * tokens it has not seen. A row is predicted as offset(surface) + A·(v − mean v): the offset takes in what spelling alone says
 * (' the', 'the', ' The' and ' THE' share one word vector), A what the word means. Nothing here writes rows.
 */
import { uniformAt } from '../common/random.js';
import { turns } from '../common/turns.js';
import type { TokenMatches, TokenText } from './pretrained-embeddings-match.js';
import { multiplyRows, NormalEquations, type Turn } from './ridge-regression.js';

export interface HeldOutFit {
  /** Tokens that the measured map was not fitted on. */
  readonly tokens: number;
  /** Mean cosine of predicted and original rows. */
  readonly cosine: number;
  /** Mean cosine of the mean row and original rows: what a map that knows nothing would reach. */
  readonly meanRowCosine: number;
  /** Mean cosine of A·(v − mean v) and row − offset: what the vectors themselves predict. */
  readonly centredCosine: number;
  /** The centred cosine is at least 0.05 and five standard errors: the model's rows and the vectors have something in common. */
  readonly useful: boolean;
}

export interface FittedProjection {
  /** [D + 4, C]: rows of A, then of the offsets. */
  readonly map: Float64Array;
  /** Mean of the fitted tokens' vectors, [D]. */
  readonly mean: Float64Array;
  /** Ratio of the spread of original rows around their offsets to that of predicted ones; least squares predicts too little spread. */
  readonly spread: number;
  /** Penalty on A, relative to the mean variance of the vectors; chosen on tokens of their own. */
  readonly penalty: number;
  readonly heldOut: HeldOutFit;
}

export interface FitInput {
  /** [V] */
  readonly texts: readonly TokenText[];
  readonly matches: TokenMatches;
  /** Tokens to fit on. */
  readonly tokens: readonly number[];
  /** D */
  readonly dimension: number;
  /** [V,C] */
  readonly original: Float32Array;
  /** C */
  readonly hiddenSize: number;
  readonly seed: number;
  readonly signal?: AbortSignal | undefined;
}

/** Fewer tokens than this are not fitted. */
export const MIN_FIT_TOKENS = 64;
const PENALTIES = [1e-4, 1e-3, 1e-2, 1e-1, 1];
const MIN_CENTRED_COSINE = 0.05;
const STANDARD_ERRORS = 5;
/** Shares of tokens that the fit is measured on, and that the penalty is chosen on. */
const TEST_SHARE = 0.1;
const CHOICE_SHARE = 0.1;
/** Tokens of one evaluation at most, spread evenly. */
const EVALUATED_TOKENS = 1024;
/** What cancelling says. */
export const ACTIVITY = 'replacing embeddings';

/** What the spelling says: constant, begins with white space, capital first, all capitals. */
export const SURFACE_FEATURES = 4;
export function surface(text: TokenText): readonly number[] {
  const word = text?.trim() ?? '';
  const [first = ''] = word;
  const capital = first.toLowerCase() !== first;
  const all = word.length > 1 && word.toUpperCase() === word && word.toLowerCase() !== word;
  return [1, text !== undefined && !text.startsWith(word) ? 1 : 0, capital ? 1 : 0, all ? 1 : 0];
}

/** Fits and measures. Tokens are dealt to fitting, choosing and measuring by seed; the map returned is fitted on all of them. */
export async function fitProjection(input: FitInput): Promise<FittedProjection> {
  const { tokens, dimension: d, hiddenSize: c, seed } = input;
  const fit = new Fit(input, await meanVector(input));
  const dealt = { fit: [] as number[], choose: [] as number[], measure: [] as number[] };
  for (const token of tokens) {
    const draw = uniformAt(BigInt(seed), token);
    dealt[draw < TEST_SHARE ? 'measure' : draw < TEST_SHARE + CHOICE_SHARE ? 'choose' : 'fit'].push(token);
  }
  const sums = new NormalEquations(d + SURFACE_FEATURES, c);
  await fit.addTo(sums, dealt.fit);
  let best = { penalty: NaN, score: -Infinity };
  for (const penalty of PENALTIES) {
    const { centred } = await fit.evaluate(await fit.solve(sums, penalty), dealt.choose);
    if (!(centred.mean <= best.score)) best = { penalty, score: centred.mean };
  }
  await fit.addTo(sums, dealt.choose);
  const measured = await fit.evaluate(await fit.solve(sums, best.penalty), dealt.measure);
  await fit.addTo(sums, dealt.measure);
  const { centred } = measured;
  return {
    map: await fit.solve(sums, best.penalty),
    mean: fit.mean,
    spread: measured.spread,
    penalty: best.penalty,
    heldOut: {
      tokens: measured.tokens,
      cosine: measured.cosine,
      meanRowCosine: measured.meanRowCosine,
      centredCosine: centred.mean,
      useful: centred.mean >= Math.max(MIN_CENTRED_COSINE, STANDARD_ERRORS * centred.standardError),
    },
  };
}

async function meanVector({ tokens, matches, dimension, signal }: FitInput): Promise<Float64Array> {
  const mean = new Float64Array(dimension);
  const turn = turns(ACTIVITY, signal);
  for (const token of tokens) {
    const vector = matches.vector(token);
    for (let i = 0; i < dimension; i++) mean[i]! += vector[i]! / tokens.length;
    await turn(dimension);
  }
  return mean;
}

interface Evaluation {
  readonly tokens: number;
  readonly cosine: number;
  readonly meanRowCosine: number;
  readonly centred: { readonly mean: number; readonly standardError: number };
  readonly spread: number;
}

class Fit {
  private readonly turn: Turn;
  private readonly x: Float64Array;

  constructor(private readonly input: FitInput, readonly mean: Float64Array) {
    this.turn = turns(ACTIVITY, input.signal);
    this.x = new Float64Array(input.dimension + SURFACE_FEATURES);
  }

  async addTo(sums: NormalEquations, tokens: readonly number[]): Promise<void> {
    const { hiddenSize: c, original } = this.input;
    for (const token of tokens) {
      sums.add(this.features(token), original.subarray(token * c, (token + 1) * c));
      await this.turn(this.x.length * (this.x.length / 2 + c));
    }
  }

  /** `penalty` is relative to the mean diagonal of A's part; offsets are all but free. */
  solve(sums: NormalEquations, penalty: number): Promise<Float64Array> {
    const { dimension: d } = this.input;
    const n = this.x.length;
    let trace = 0;
    for (let i = 0; i < d; i++) trace += sums.squares(i);
    const scale = trace > 0 ? trace / d : 1;
    return sums.solve(Float64Array.from({ length: n }, (_, i) => (i < d ? penalty * scale : 1e-6 * Math.max(1, sums.rows))), this.turn);
  }

  async evaluate(map: Float64Array, tokens: readonly number[]): Promise<Evaluation> {
    const { dimension: d, hiddenSize: c, original } = this.input;
    const step = Math.max(1, tokens.length / EVALUATED_TOKENS);
    const some = Array.from({ length: Math.floor(tokens.length / step) }, (_, i) => tokens[Math.floor(i * step)]!);
    const meanRow = new Float64Array(c);
    for (const token of some) for (let i = 0; i < c; i++) meanRow[i]! += original[token * c + i]! / some.length;
    const [meaning, offset, row, whole] = [new Float64Array(c), new Float64Array(c), new Float64Array(c), new Float64Array(c)];
    let [cosines, meanRowCosines, centred, centredSquares, rowSquares, predictedSquares] = [0, 0, 0, 0, 0, 0];
    for (const token of some) {
      const x = this.features(token);
      multiplyRows(x, map, 0, d, meaning.fill(0));
      multiplyRows(x, map, d, x.length, offset.fill(0));
      for (let i = 0; i < c; i++) {
        const value = original[token * c + i]!;
        whole[i] = value;
        row[i] = value - offset[i]!;
        offset[i]! += meaning[i]!;
      }
      const similarity = cosine(meaning, row);
      centred += similarity;
      centredSquares += similarity * similarity;
      cosines += cosine(offset, whole);
      meanRowCosines += cosine(meanRow, whole);
      rowSquares += dot(row, row);
      predictedSquares += dot(meaning, meaning);
      await this.turn(x.length * c);
    }
    const n = Math.max(1, some.length);
    const variance = Math.max(0, centredSquares / n - (centred / n) ** 2);
    return {
      tokens: some.length,
      cosine: cosines / n,
      meanRowCosine: meanRowCosines / n,
      centred: { mean: centred / n, standardError: Math.sqrt(variance / n) },
      spread: predictedSquares > 0 ? Math.sqrt(rowSquares / predictedSquares) : 1,
    };
  }

  private features(token: number): Float64Array {
    return fillFeatures(this.x, this.input.matches.vector(token), this.mean, this.input.texts[token]);
  }
}

/** Fills x [D + 4] with v − mean and the surface features. */
export function fillFeatures(x: Float64Array, vector: Float32Array, mean: Float64Array, text: TokenText): Float64Array {
  for (let i = 0; i < mean.length; i++) x[i] = vector[i]! - mean[i]!;
  x.set(surface(text), mean.length);
  return x;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** 0 where one of the two is zero. */
function cosine(a: Float64Array, b: Float64Array): number {
  const norms = Math.sqrt(dot(a, a) * dot(b, b));
  return norms > 0 ? dot(a, b) / norms : 0;
}
