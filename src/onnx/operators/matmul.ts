/** Matrix products. Shapes are [..., M, K] x [..., K, N] -> [..., M, N]; leading dimensions broadcast. */
import { broadcastShapes, type Dim } from '../dims.js';
import type { Value } from '../graph.js';
import { check, dimAt, fail, flag, float, floating, one, sameDType } from './node.js';

function productShape(operator: string, a: Value, b: Value, transA: boolean, transB: boolean): Dim[] {
  sameDType(operator, a, b);
  check(a.shape.length >= 2 && b.shape.length >= 2, operator, 'needs operands of rank 2 or more', a, b);
  const [m, k] = lastTwo(a, transA);
  const [l, n] = lastTwo(b, transB);
  check(k === l, operator, `inner dimensions ${k} and ${l} differ${transA || transB ? ` (transA=${transA}, transB=${transB})` : ''}`, a, b);
  const lead = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2));
  return [...(lead ?? fail(operator, 'leading dimensions do not broadcast', a, b)), m, n];
}

function lastTwo(x: Value, transposed: boolean): [Dim, Dim] {
  const rank = x.shape.length;
  return transposed ? [dimAt(x, rank - 1), dimAt(x, rank - 2)] : [dimAt(x, rank - 2), dimAt(x, rank - 1)];
}

/** a·b; vectors are not accepted, give them a dimension of 1. */
export function matMul(a: Value, b: Value): Value {
  return one(a.graph, {
    operator: 'MatMul',
    inputs: [a, b],
    output: { dtype: a.dtype, shape: productShape('MatMul', a, b, false, false) },
  });
}

export interface ProductOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
  readonly alpha?: number;
}

/**
 * alpha·op(a)·op(b), where op transposes the last two dimensions on request. Without transposition and with alpha 1 it is a MatMul.
 * com.microsoft FusedMatMul; float32 only on the CPU.
 */
export function fusedMatMul(a: Value, b: Value, options: ProductOptions = {}): Value {
  const { transA = false, transB = false, alpha = 1 } = options;
  if (!transA && !transB && alpha === 1) return matMul(a, b);
  floating('FusedMatMul', a, b);
  const shape = productShape('FusedMatMul', a, b, transA, transB);
  const attributes = { transA: flag(transA), transB: flag(transB), alpha: float(alpha) };
  return one(a.graph, { operator: 'FusedMatMul', domain: 'com.microsoft', inputs: [a, b], output: { dtype: a.dtype, shape }, attributes });
}

/** alpha·op(a)·op(b) + beta·c for matrices; c broadcasts to [M,N] and may be left out (null). */
export function gemm(a: Value, b: Value, c: Value | null, options: ProductOptions & { readonly beta?: number } = {}): Value {
  const { transA = false, transB = false, alpha = 1, beta = 1 } = options;
  floating('Gemm', a, b);
  check(a.shape.length === 2 && b.shape.length === 2, 'Gemm', 'needs matrices', a, b);
  const shape = productShape('Gemm', a, b, transA, transB);
  if (c !== null) {
    sameDType('Gemm', a, c);
    const full = broadcastShapes(shape, c.shape);
    check(
      full !== undefined && full.length === 2 && full.every((dim, i) => dim === shape[i]),
      'Gemm',
      'c does not broadcast to the product',
      a,
      b,
      c,
    );
  }
  const attributes = { transA: flag(transA), transB: flag(transB), alpha: float(alpha), beta: float(beta) };
  return one(a.graph, { operator: 'Gemm', inputs: c === null ? [a, b] : [a, b, c], output: { dtype: a.dtype, shape }, attributes });
}
