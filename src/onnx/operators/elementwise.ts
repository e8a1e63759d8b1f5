/** Elementwise operators. Binary ones broadcast as numpy does; a number stands for a scalar constant of the other operand's dtype. */
import { DTYPES, type DType } from '../../tensor/dtype.js';
import { broadcastShapes, type Dim } from '../dims.js';
import type { Value } from '../graph.js';
import { check, fail, float, floating, int, one, sameDType, string, type Operand } from './node.js';

/** Resolves numbers against the first operand that is a value. */
function operands(operator: string, ...xs: readonly Operand[]): Value[] {
  const model = xs.find((x): x is Value => typeof x !== 'number');
  if (model === undefined) return fail(operator, 'at least one operand must be a value');
  return xs.map((x) => (typeof x === 'number' ? model.graph.constant(x, model.dtype) : x));
}

function broadcast(operator: string, ...values: readonly Value[]): Dim[] {
  let shape: Dim[] | undefined = [];
  for (const value of values) shape = shape && broadcastShapes(shape, value.shape);
  return shape ?? fail(operator, 'shapes do not broadcast', ...values);
}

function binary(operator: string, x: Operand, y: Operand, dtype?: DType): Value {
  const [a, b] = operands(operator, x, y) as [Value, Value];
  sameDType(operator, a, b);
  return one(a.graph, { operator, inputs: [a, b], output: { dtype: dtype ?? a.dtype, shape: broadcast(operator, a, b) } });
}

function unary(operator: string, x: Value): Value {
  return one(x.graph, { operator, inputs: [x], output: x });
}

function unaryFloat(operator: string, x: Value): Value {
  floating(operator, x);
  return unary(operator, x);
}

export const add = (a: Operand, b: Operand): Value => binary('Add', a, b);
export const sub = (a: Operand, b: Operand): Value => binary('Sub', a, b);
export const mul = (a: Operand, b: Operand): Value => binary('Mul', a, b);
/** Integer operands divide towards zero. */
export const div = (a: Operand, b: Operand): Value => binary('Div', a, b);
export const pow = (a: Operand, b: Operand): Value => binary('Pow', a, b);
export const min = (a: Operand, b: Operand): Value => binary('Min', a, b);
export const max = (a: Operand, b: Operand): Value => binary('Max', a, b);

export const neg = (x: Value): Value => unary('Neg', x);
export const abs = (x: Value): Value => unary('Abs', x);
/** -1, 0 or 1. */
export const sign = (x: Value): Value => unary('Sign', x);
/** The largest integer that is not above x. */
export const floor = (x: Value): Value => unaryFloat('Floor', x);
export const identity = (x: Value): Value => unary('Identity', x);
export const sqrt = (x: Value): Value => unaryFloat('Sqrt', x);
export const reciprocal = (x: Value): Value => unaryFloat('Reciprocal', x);
export const exp = (x: Value): Value => unaryFloat('Exp', x);
export const log = (x: Value): Value => unaryFloat('Log', x);
export const sigmoid = (x: Value): Value => unaryFloat('Sigmoid', x);
export const tanh = (x: Value): Value => unaryFloat('Tanh', x);
export const erf = (x: Value): Value => unaryFloat('Erf', x);

/** x·Φ(x) exactly, or its tanh approximation. */
export function gelu(x: Value, approximate: 'none' | 'tanh' = 'none'): Value {
  floating('Gelu', x);
  return one(x.graph, { operator: 'Gelu', inputs: [x], output: x, attributes: { approximate: string(approximate) } });
}

/** x·sigmoid(alpha·x), one operator; with alpha 1 it is SiLU. Serving form: no gradient rule. */
export function quickGelu(x: Value, alpha = 1): Value {
  floating('QuickGelu', x);
  return one(x.graph, { operator: 'QuickGelu', domain: 'com.microsoft', inputs: [x], output: x, attributes: { alpha: float(alpha) } });
}

export const equal = (a: Operand, b: Operand): Value => binary('Equal', a, b, 'bool');
export const less = (a: Operand, b: Operand): Value => binary('Less', a, b, 'bool');
export const lessOrEqual = (a: Operand, b: Operand): Value => binary('LessOrEqual', a, b, 'bool');
export const greater = (a: Operand, b: Operand): Value => binary('Greater', a, b, 'bool');
export const greaterOrEqual = (a: Operand, b: Operand): Value => binary('GreaterOrEqual', a, b, 'bool');

function logical(operator: string, a: Value, b: Value): Value {
  check(a.dtype === 'bool' && b.dtype === 'bool', operator, 'needs bool operands', a, b);
  return binary(operator, a, b);
}
export const and = (a: Value, b: Value): Value => logical('And', a, b);
export const or = (a: Value, b: Value): Value => logical('Or', a, b);
export function not(x: Value): Value {
  check(x.dtype === 'bool', 'Not', 'needs a bool operand', x);
  return unary('Not', x);
}

/** Elements of a where the bool condition holds, else of b; all three broadcast. */
export function where(condition: Value, a: Operand, b: Operand): Value {
  check(condition.dtype === 'bool', 'Where', 'the condition is not bool', condition);
  const [x, y] = operands('Where', a, b) as [Value, Value];
  sameDType('Where', x, y);
  const shape = broadcast('Where', condition, x, y);
  return one(x.graph, { operator: 'Where', inputs: [condition, x, y], output: { dtype: x.dtype, shape } });
}

/** The value itself when it has that dtype already. Floats to integers truncate. */
export function cast(x: Value, dtype: DType): Value {
  if (x.dtype === dtype) return x;
  return one(x.graph, { operator: 'Cast', inputs: [x], output: { dtype, shape: x.shape }, attributes: { to: int(DTYPES[dtype].onnx) } });
}
