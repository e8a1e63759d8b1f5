/**
 * Rules of the matrix products. Gradients are products with transposed flags and the same alpha, never a Transpose of their own; a
 * weight matrix under batched activations gets its gradient as one product over all leading dimensions.
 */
import { ops, type Value } from '../../onnx/index.js';
import { numberOf, type Rule, type RuleContext } from '../rule.js';
import { unbroadcast } from '../unbroadcast.js';

interface Flags {
  readonly transA: boolean;
  readonly transB: boolean;
  readonly alpha: number;
}

/** Joins all but the last dimension: [..., C] to [M, C]. */
function flatten(x: Value): Value {
  return x.shape.length === 2 ? x : ops.reshape(x, [-1, x.shape[x.shape.length - 1] as number]);
}

/** y = alpha·op(a)·op(b). */
function product(c: RuleContext, { transA, transB, alpha }: Flags): (Value | null)[] {
  const [a, b] = c.inputs as [Value, Value];
  const d = c.d;
  let da: Value | null = null;
  let db: Value | null = null;
  if (c.needs[0] === true) {
    da = transA ? ops.fusedMatMul(b, d, { transA: transB, transB: true, alpha }) : ops.fusedMatMul(d, b, { transB: !transB, alpha });
    da = unbroadcast(da, a.shape);
  }
  if (c.needs[1] === true) {
    // With op(a) = a and b a matrix, the leading dimensions of a and d join the summed one.
    const one = b.shape.length === 2 && !transA;
    const left = one ? flatten(a) : a;
    const right = one ? flatten(d) : d;
    db = transB
      ? ops.fusedMatMul(right, left, { transA: true, transB: transA, alpha })
      : ops.fusedMatMul(left, right, { transA: !transA, alpha });
    db = unbroadcast(db, b.shape);
  }
  return [da, db];
}

const gemm: Rule = (c) => {
  const flags = { transA: numberOf(c.node, 'transA') === 1, transB: numberOf(c.node, 'transB') === 1, alpha: numberOf(c.node, 'alpha') };
  const beta = numberOf(c.node, 'beta');
  const bias = c.inputs[2];
  const dc = bias === undefined || c.needs[2] !== true ? null : unbroadcast(beta === 1 ? c.d : ops.mul(c.d, beta), bias.shape);
  return [...product(c, flags), dc];
};

export const matmul: Readonly<Record<string, Rule>> = {
  MatMul: (c) => product(c, { transA: false, transB: false, alpha: 1 }),
  'com.microsoft.FusedMatMul': (c) =>
    product(c, { transA: numberOf(c.node, 'transA') === 1, transB: numberOf(c.node, 'transB') === 1, alpha: numberOf(c.node, 'alpha') }),
  Gemm: gemm,
};
