/** Rules of the elementwise operators. */
import { ops, type Value } from '../../onnx/index.js';
import { textOf, type Rule, type RuleContext } from '../rule.js';
import { unbroadcast } from '../unbroadcast.js';

const { add, cast, div, equal, exp, greater, log, mul, neg, pow, sign, sub, where } = ops;

/** A rule for each input of a broadcasting binary operator. */
function binary(ofA: (c: RuleContext, a: Value, b: Value) => Value, ofB: (c: RuleContext, a: Value, b: Value) => Value): Rule {
  return (c) => {
    const [a, b] = c.inputs as [Value, Value];
    return [
      c.needs[0] === true ? unbroadcast(ofA(c, a, b), a.shape) : null,
      c.needs[1] === true ? unbroadcast(ofB(c, a, b), b.shape) : null,
    ];
  };
}

/** A rule for a unary operator, in terms of its input x, output y and cotangent d. */
function unary(of: (x: Value, y: Value, d: Value) => Value): Rule {
  return (c) => [of(c.inputs[0] as Value, c.outputs[0] as Value, c.d)];
}

/** 1 where a wins, 1/2 where both are equal, 0 elsewhere. */
function share(wins: (a: Value, b: Value) => Value, d: Value, a: Value, b: Value): Value {
  const half = mul(cast(equal(a, b), d.dtype), 0.5);
  return mul(d, add(cast(wins(a, b), d.dtype), half));
}
const less = (a: Value, b: Value): Value => greater(b, a);

/** Constant exponents need no logarithm and no general power: x² gives 2x. */
function powerOfBase(d: Value, x: Value, exponent: Value): Value {
  const constant = exponent.constant?.length === 1 ? Number(exponent.constant[0]) : undefined;
  if (constant === 2) return mul(d, mul(x, 2));
  return mul(d, mul(exponent, pow(x, sub(exponent, 1))));
}

/** d/dx of x·Φ(x): Φ(x) + x·φ(x). */
function geluRule(c: RuleContext): [Value] {
  const x = c.inputs[0] as Value;
  if (textOf(c.node, 'approximate') === 'none') {
    const cumulative = mul(add(ops.erf(mul(x, Math.SQRT1_2)), 1), 0.5);
    const density = mul(exp(mul(mul(x, x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
    return [mul(c.d, add(cumulative, mul(x, density)))];
  }
  // 0.5·x·(1 + t), t = tanh(u), u = k·(x + 0.044715·x³)
  const k = Math.sqrt(2 / Math.PI);
  const square = mul(x, x);
  const t = ops.tanh(mul(mul(x, add(mul(square, 0.044715), 1)), k));
  const inner = mul(add(mul(square, 3 * 0.044715), 1), k);
  const slope = mul(mul(x, sub(1, mul(t, t))), inner);
  return [mul(c.d, mul(add(add(t, 1), slope), 0.5))];
}

export const elementwise: Readonly<Record<string, Rule>> = {
  Add: binary(
    (c) => c.d,
    (c) => c.d,
  ),
  Sub: binary(
    (c) => c.d,
    (c) => neg(c.d),
  ),
  Mul: binary(
    (c, _a, b) => mul(c.d, b),
    (c, a) => mul(c.d, a),
  ),
  Div: binary(
    (c, _a, b) => div(c.d, b),
    (c, _a, b) => neg(div(mul(c.d, c.outputs[0] as Value), b)),
  ),
  Pow: binary(
    (c, a, b) => powerOfBase(c.d, a, b),
    (c, a) => mul(c.d, mul(c.outputs[0] as Value, log(a))),
  ),
  Max: binary(
    (c, a, b) => share(greater, c.d, a, b),
    (c, a, b) => share(greater, c.d, b, a),
  ),
  Min: binary(
    (c, a, b) => share(less, c.d, a, b),
    (c, a, b) => share(less, c.d, b, a),
  ),
  Neg: unary((_x, _y, d) => neg(d)),
  Abs: unary((x, _y, d) => mul(d, sign(x))),
  Identity: unary((_x, _y, d) => d),
  Sqrt: unary((_x, y, d) => div(mul(d, 0.5), y)),
  Reciprocal: unary((_x, y, d) => neg(mul(d, mul(y, y)))),
  Exp: unary((_x, y, d) => mul(d, y)),
  Log: unary((x, _y, d) => div(d, x)),
  Sigmoid: unary((_x, y, d) => mul(d, mul(y, sub(1, y)))),
  Tanh: unary((_x, y, d) => mul(d, sub(1, mul(y, y)))),
  Erf: unary((x, _y, d) => mul(d, mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI)))),
  Gelu: geluRule,
  Cast: unary((x, _y, d) => cast(d, x.dtype)),
  Where: (c) => {
    const [condition, a, b] = c.inputs as [Value, Value, Value];
    return [
      null,
      c.needs[1] === true ? unbroadcast(where(condition, c.d, 0), a.shape) : null,
      c.needs[2] === true ? unbroadcast(where(condition, 0, c.d), b.shape) : null,
    ];
  },
  /** Piecewise constant: nothing flows. */
  Sign: () => [null],
};
