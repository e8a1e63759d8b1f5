/** Operators that reduce, normalize or rank along axes. */
import type { Dim } from '../dims.js';
import type { Value } from '../graph.js';
import { axesOf, axisOf, check, dimAt, flag, floating, int, int64s, one } from './node.js';

function reducedShape(x: Value, axes: readonly number[], keepDims: boolean): Dim[] {
  return keepDims ? x.shape.map((dim, i) => (axes.includes(i) ? 1 : dim)) : x.shape.filter((_, i) => !axes.includes(i));
}

function reduce(operator: string, x: Value, axes: readonly number[] | undefined, keepDims: boolean): Value {
  const normal = axesOf(operator, axes ?? x.shape.map((_, i) => i), x);
  if (normal.length === 0) return x;
  return one(x.graph, {
    operator,
    inputs: [x, int64s(x.graph, normal)],
    output: { dtype: x.dtype, shape: reducedShape(x, normal, keepDims) },
    attributes: { keepdims: flag(keepDims) },
  });
}

/** Sum over `axes` (default: all). An empty list of axes returns x. */
export const reduceSum = (x: Value, axes?: readonly number[], keepDims = true): Value => reduce('ReduceSum', x, axes, keepDims);
export const reduceMax = (x: Value, axes?: readonly number[], keepDims = true): Value => reduce('ReduceMax', x, axes, keepDims);
export function reduceMean(x: Value, axes?: readonly number[], keepDims = true): Value {
  floating('ReduceMean', x);
  return reduce('ReduceMean', x, axes, keepDims);
}

function alongAxis(operator: string, x: Value, axis: number): Value {
  floating(operator, x);
  return one(x.graph, { operator, inputs: [x], output: x, attributes: { axis: int(axisOf(operator, axis, x)) } });
}

/** exp(x) / Σ exp(x) along `axis`, computed stably. */
export const softmax = (x: Value, axis = -1): Value => alongAxis('Softmax', x, axis);
export const logSoftmax = (x: Value, axis = -1): Value => alongAxis('LogSoftmax', x, axis);

/** Running sum along `axis`; `exclusive` leaves the element itself out, `reverse` runs from the end. */
export function cumSum(x: Value, axis: number, options: { readonly exclusive?: boolean; readonly reverse?: boolean } = {}): Value {
  const normal = x.graph.constant(axisOf('CumSum', axis, x), 'int64');
  return one(x.graph, {
    operator: 'CumSum',
    inputs: [x, normal],
    output: x,
    attributes: { exclusive: flag(options.exclusive ?? false), reverse: flag(options.reverse ?? false) },
  });
}

/** Index (int64) of the largest element along `axis`; the first of equal ones. */
export function argMax(x: Value, axis: number, keepDims = true): Value {
  const normal = axisOf('ArgMax', axis, x);
  return one(x.graph, {
    operator: 'ArgMax',
    inputs: [x],
    output: { dtype: 'int64', shape: reducedShape(x, [normal], keepDims) },
    attributes: { axis: int(normal), keepdims: flag(keepDims) },
  });
}

/** The k largest (or smallest) elements along `axis` in order, and their int64 indices. */
export function topK(
  x: Value,
  k: number,
  axis = -1,
  options: { readonly largest?: boolean } = {},
): { readonly values: Value; readonly indices: Value } {
  const normal = axisOf('TopK', axis, x);
  const dim = dimAt(x, normal);
  check(Number.isInteger(k) && k > 0 && (typeof dim !== 'number' || k <= dim), 'TopK', `k = ${k} does not fit axis ${axis}`, x);
  const shape = x.shape.map((d, i) => (i === normal ? k : d));
  const [values, indices] = x.graph.emit({
    operator: 'TopK',
    inputs: [x, int64s(x.graph, [k])],
    outputs: [
      { dtype: x.dtype, shape },
      { dtype: 'int64', shape },
    ],
    attributes: { axis: int(normal), largest: flag(options.largest ?? true), sorted: flag(true) },
  }) as [Value, Value];
  return { values, indices };
}
