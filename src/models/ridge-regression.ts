/**
 * Ridge least squares in closed form: M = argmin Σ |y − xM|² + Σ penalties[i]·|M[i]|², from sums over rows that are added one
 * at a time (so that data need not fit in memory), solved by Cholesky in float64.
 */

/** Rows of a matrix that one pass over an output row takes together, which saves most of its loads and stores. */
const TOGETHER = 4;

/** Lets the event loop run; see common/turns.ts. */
export type Turn = (operations: number) => Promise<void> | undefined;

/** Sums of X'X and X'Y over rows (x [F], y [C]). */
export class NormalEquations {
  private count = 0;
  /** X'X [F,F]; only its upper triangle is filled. */
  private readonly gram: Float64Array;
  /** X'Y [F,C] */
  private readonly cross: Float64Array;
  /** Rows that wait to be added together. */
  private readonly xs: Float64Array;
  private readonly ys: Float64Array;
  private readonly factors = new Float64Array(TOGETHER);
  private waiting = 0;

  constructor(
    readonly features: number,
    readonly outputs: number,
  ) {
    this.gram = new Float64Array(features * features);
    this.cross = new Float64Array(features * outputs);
    this.xs = new Float64Array(TOGETHER * features);
    this.ys = new Float64Array(TOGETHER * outputs);
  }

  get rows(): number {
    return this.count;
  }

  /** Adds the pair of x [F] and y [C]. */
  add(x: ArrayLike<number>, y: ArrayLike<number>): void {
    this.xs.set(x, this.waiting * this.features);
    this.ys.set(y, this.waiting * this.outputs);
    this.count++;
    if (++this.waiting === TOGETHER) this.flush();
  }

  /** Σ x[i]² over rows. */
  squares(i: number): number {
    this.flush();
    return this.gram[i * this.features + i]!;
  }

  /** The map M [F,C] for penalties [F], all above 0. */
  async solve(penalties: Float64Array, turn: Turn): Promise<Float64Array> {
    this.flush();
    const { features: n } = this;
    const matrix = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      for (let j = i; j < n; j++) matrix[j * n + i] = this.gram[i * n + j]!;
      matrix[i * n + i]! += penalties[i]!;
    }
    await cholesky(matrix, n, turn);
    return substitute(matrix, n, this.cross, this.outputs, turn);
  }

  private flush(): void {
    if (this.waiting === 0) return;
    const { features: n, outputs, xs, ys, factors } = this;
    for (let i = 0; i < n; i++) {
      for (let row = 0; row < TOGETHER; row++) factors[row] = row < this.waiting ? xs[row * n + i]! : 0;
      addScaledRows(this.gram, i * n + i, n - i, factors, xs, i, n);
      addScaledRows(this.cross, i * outputs, outputs, factors, ys, 0, outputs);
    }
    this.waiting = 0;
  }
}

/** out[at + c] += Σ factors[r] · matrix[start + r·stride + c] for c < count and the four rows r. */
function addScaledRows(
  out: Float64Array,
  at: number,
  count: number,
  factors: Float64Array,
  matrix: Float64Array,
  start: number,
  stride: number,
): void {
  const [a, b, c, d] = factors as unknown as [number, number, number, number];
  const [second, third, fourth] = [start + stride, start + 2 * stride, start + 3 * stride];
  for (let i = 0; i < count; i++) {
    out[at + i]! += a * matrix[start + i]! + b * matrix[second + i]! + c * matrix[third + i]! + d * matrix[fourth + i]!;
  }
}

/** Adds Σ x[i] · matrix[i,:] over from ≤ i < to to `out` [C], for a matrix [*,C]. */
export function multiplyRows(x: Float64Array, matrix: Float64Array, from: number, to: number, out: Float64Array): void {
  const c = out.length;
  let i = from;
  for (; i + TOGETHER <= to; i += TOGETHER) addScaledRows(out, 0, c, x.subarray(i, i + TOGETHER), matrix, i * c, c);
  for (; i < to; i++) {
    const value = x[i]!;
    for (let j = 0; j < c; j++) out[j]! += value * matrix[i * c + j]!;
  }
}

/**
 * Overwrites the lower triangle of a symmetric positive definite matrix [n,n] (its lower triangle is read) with L, A = L·Lᵀ. A
 * matrix that isn't positive definite is a defect of the caller and throws a RangeError.
 */
export async function cholesky(matrix: Float64Array, n: number, turn: Turn): Promise<void> {
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let sum = matrix[i * n + j]!;
      for (let k = 0; k < j; k++) sum -= matrix[i * n + k]! * matrix[j * n + k]!;
      if (i > j) matrix[i * n + j] = sum / matrix[j * n + j]!;
      else if (sum > 0) matrix[j * n + j] = Math.sqrt(sum);
      else throw new RangeError(`cholesky: pivot ${j} of ${n} is ${sum}`);
    }
    await turn((n - j) * j);
  }
}

/** Solves L·Lᵀ·M = B for B [n,columns]; L is the lower triangle of `lower` [n,n]. Returns M [n,columns]. */
async function substitute(lower: Float64Array, n: number, b: Float64Array, columns: number, turn: Turn): Promise<Float64Array> {
  const x = b.slice();
  const factors = new Float64Array(n);
  const eliminate = async (row: number, from: number, to: number, factor: (k: number) => number): Promise<void> => {
    for (let k = from; k < to; k++) factors[k] = -factor(k);
    const target = x.subarray(row * columns, (row + 1) * columns);
    multiplyRows(factors, x, from, to, target);
    const inverse = 1 / lower[row * n + row]!;
    for (let c = 0; c < columns; c++) target[c]! *= inverse;
    await turn((to - from) * columns);
  };
  for (let i = 0; i < n; i++) await eliminate(i, 0, i, (k) => lower[i * n + k]!);
  for (let i = n - 1; i >= 0; i--) await eliminate(i, i + 1, n, (k) => lower[k * n + i]!);
  return x;
}
