/**
 * Ridge least squares in closed form: M = argmin Σ |y − xM|² + Σ penalties[i]·|M[i]|², from sums over rows that are added one
 * at a time (so that data need not fit in memory), solved by Cholesky in float64. Invariant: sums of two parts can be added.
 */

/** Sums of X'X and X'Y over rows (x [F], y [C]). */
export class NormalEquations {
  rows = 0;
  /** [F,F]; only its upper triangle is filled. */
  readonly gram: Float64Array;
  /** [F,C] */
  readonly cross: Float64Array;

  constructor(readonly features: number, readonly outputs: number) {
    this.gram = new Float64Array(features * features);
    this.cross = new Float64Array(features * outputs);
  }

  /** Adds the pair of x [F] and the C values of y from `start`. */
  add(x: Float64Array, y: Float32Array, start: number): void {
    const { features, outputs, gram, cross } = this;
    for (let i = 0; i < features; i++) {
      const value = x[i]!;
      if (value === 0) continue;
      for (let j = i, at = i * features + i; j < features; j++, at++) gram[at]! += value * x[j]!;
      for (let c = 0, at = i * outputs; c < outputs; c++, at++) cross[at]! += value * y[start + c]!;
    }
    this.rows++;
  }

  /** Adds the sums of other rows of the same sizes. */
  addAll(other: NormalEquations): void {
    for (let i = 0; i < this.gram.length; i++) this.gram[i]! += other.gram[i]!;
    for (let i = 0; i < this.cross.length; i++) this.cross[i]! += other.cross[i]!;
    this.rows += other.rows;
  }

  /** The map M [F,C] for penalties [F], all above 0. */
  solve(penalties: Float64Array): Float64Array {
    const { features: n } = this;
    const matrix = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      for (let j = i; j < n; j++) matrix[j * n + i] = this.gram[i * n + j]!;
      matrix[i * n + i]! += penalties[i]!;
    }
    cholesky(matrix, n);
    return substitute(matrix, n, this.cross, this.outputs);
  }
}

/**
 * Overwrites the lower triangle of a symmetric positive definite matrix [n,n] (its lower triangle is read) with L, A = L·Lᵀ. A
 * matrix that isn't positive definite is a defect of the caller and throws a RangeError.
 */
export function cholesky(matrix: Float64Array, n: number): void {
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let sum = matrix[i * n + j]!;
      for (let k = 0; k < j; k++) sum -= matrix[i * n + k]! * matrix[j * n + k]!;
      if (i > j) matrix[i * n + j] = sum / matrix[j * n + j]!;
      else if (sum > 0) matrix[j * n + j] = Math.sqrt(sum);
      else throw new RangeError(`cholesky: pivot ${j} of ${n} is ${sum}`);
    }
  }
}

/** Solves L·Lᵀ·M = B for B [n,columns]; L is the lower triangle of `lower` [n,n]. Returns M [n,columns]. */
function substitute(lower: Float64Array, n: number, b: Float64Array, columns: number): Float64Array {
  const x = b.slice();
  const eliminate = (target: number, source: number, factor: number): void => {
    for (let c = 0; c < columns; c++) x[target * columns + c]! -= factor * x[source * columns + c]!;
  };
  const divide = (row: number): void => {
    const inverse = 1 / lower[row * n + row]!;
    for (let c = 0; c < columns; c++) x[row * columns + c]! *= inverse;
  };
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) eliminate(i, k, lower[i * n + k]!);
    divide(i);
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) eliminate(i, k, lower[k * n + i]!);
    divide(i);
  }
  return x;
}
