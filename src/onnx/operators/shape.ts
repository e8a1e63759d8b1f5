/** Operators that move or reinterpret elements. Sizes may be symbolic; run-time sizes come from dimensions.ts. */
import {
  addDims,
  broadcastShapes,
  canonical,
  divideDims,
  elementCountOf,
  equalShapes,
  formatShape,
  isStatic,
  subtractDims,
  type Dim,
} from '../dims.js';
import type { Value } from '../graph.js';
import { dimensionVector, shapeOf } from './dimensions.js';
import { axesOf, axisOf, check, dimAt, fail, int, int64s, ints, one, sameDType } from './node.js';

/** Dimensions in the order of `perm`; x itself when nothing moves. */
export function transpose(x: Value, perm: readonly number[]): Value {
  const order = perm.map((axis) => axisOf('Transpose', axis, x));
  check(
    order.length === x.shape.length && new Set(order).size === order.length,
    'Transpose',
    `perm [${perm.join(',')}] is no permutation`,
    x,
  );
  if (order.every((axis, i) => axis === i)) return x;
  return one(x.graph, {
    operator: 'Transpose',
    inputs: [x],
    output: { dtype: x.dtype, shape: order.map((axis) => dimAt(x, axis)) },
    attributes: { perm: ints(order) },
  });
}

/**
 * The elements of x in the shape `dims`: numbers, symbols and their products, and -1 once for what remains. The number of elements
 * must agree symbolically: [B,T,C] to ['B*T', C] or [-1, C]. Returns x when the shape is the same.
 * The target is a constant where 0 (keep) and one -1 can express it, otherwise it is read off Shape nodes at run time.
 */
export function reshape(x: Value, dims: readonly Dim[]): Value {
  const shape = resolveDims(x, dims);
  if (equalShapes(shape, x.shape)) return x;
  const target: Dim[] = shape.map((dim, i) => (typeof dim === 'string' && dim === x.shape[i] ? 0 : dim));
  const unresolved = target.flatMap((dim, i) => (typeof dim === 'string' ? [i] : []));
  // The largest product is the one left to -1: the others are more likely to be plain symbols.
  const rest = unresolved.sort((a, b) => String(target[b]).length - String(target[a]).length)[0];
  if (rest !== undefined) target[rest] = -1;
  const vector = dimensionVector(x.graph, target, [x]);
  return one(x.graph, { operator: 'Reshape', inputs: [x, vector], output: { dtype: x.dtype, shape } });
}

/** x in the shape `dims`, whose number of elements is x's for reasons that the symbols do not tell: the caller promises that it is. No gradient rule sees through it. */
export function reshapePromised(x: Value, dims: readonly Dim[]): Value {
  const shape = dims.map(canonical);
  return one(x.graph, { operator: 'Reshape', inputs: [x, dimensionVector(x.graph, shape)], output: { dtype: x.dtype, shape } });
}

function resolveDims(x: Value, dims: readonly Dim[]): Dim[] {
  const known = dims.filter((dim) => dim !== -1).map(canonical);
  check(dims.length - known.length <= 1, 'Reshape', `more than one -1 in ${formatShape(dims)}`, x);
  check(!known.includes(0), 'Reshape', `a dimension of 0 in ${formatShape(dims)}`, x);
  const total = elementCountOf(x.shape);
  if (known.length === dims.length) {
    check(elementCountOf(known) === total, 'Reshape', `${total} elements do not fill ${formatShape(dims)}`, x);
    return known;
  }
  const rest = divideDims(total, elementCountOf(known));
  if (rest === undefined) return fail('Reshape', `${total} elements do not divide into ${formatShape(dims)}`, x);
  return dims.map((dim) => (dim === -1 ? rest : canonical(dim)));
}

/** x broadcast to the shape of `like`, or to `dims`; x itself when it has that shape. */
export function expand(x: Value, like: Value | readonly Dim[]): Value {
  const dims = isValue(like) ? like.shape : like.map(canonical);
  const shape = broadcastShapes(x.shape, dims);
  if (shape === undefined || !equalShapes(shape, dims)) return fail('Expand', `does not broadcast to ${formatShape(dims)}`, x);
  if (equalShapes(shape, x.shape)) return x;
  // A 1 in the target keeps x's own dimension.
  const target = shape.map((dim, i) => (typeof dim === 'string' && x.shape[i - shape.length + x.shape.length] === dim ? 1 : dim));
  const vector = !isStatic(target) && isValue(like) ? shapeOf(like) : dimensionVector(x.graph, target, [x]);
  return one(x.graph, { operator: 'Expand', inputs: [x, vector], output: { dtype: x.dtype, shape } });
}

function isValue(x: Value | readonly Dim[]): x is Value {
  return !Array.isArray(x);
}

/** Inserts dimensions of 1 so that they stand at `axes` of the result. */
export function unsqueeze(x: Value, axes: readonly number[]): Value {
  const rank = x.shape.length + axes.length;
  const normal = axesOf('Unsqueeze', axes, x, rank);
  const rest = [...x.shape];
  const shape = Array.from({ length: rank }, (_, i) => (normal.includes(i) ? 1 : (rest.shift() as Dim)));
  return one(x.graph, { operator: 'Unsqueeze', inputs: [x, int64s(x.graph, normal)], output: { dtype: x.dtype, shape } });
}

/** Removes dimensions of 1. */
export function squeeze(x: Value, axes: readonly number[]): Value {
  const normal = axesOf('Squeeze', axes, x);
  check(
    normal.every((axis) => x.shape[axis] === 1),
    'Squeeze',
    `dimensions at ${axes.join(',')} are not 1`,
    x,
  );
  const shape = x.shape.filter((_, i) => !normal.includes(i));
  return one(x.graph, { operator: 'Squeeze', inputs: [x, int64s(x.graph, normal)], output: { dtype: x.dtype, shape } });
}

/** Joins along `axis`; all other dimensions are equal. One value alone is returned as it is. */
export function concat(xs: readonly Value[], axis: number): Value {
  const first = xs[0];
  if (first === undefined) return fail('Concat', 'needs at least one value');
  if (xs.length === 1) return first;
  sameDType('Concat', ...xs);
  const normal = axisOf('Concat', axis, first);
  const fits = xs.every((x) => x.shape.length === first.shape.length && x.shape.every((dim, i) => i === normal || dim === first.shape[i]));
  check(fits, 'Concat', `dimensions beside axis ${axis} differ`, ...xs);
  const shape = first.shape.map((dim, i) => (i === normal ? xs.map((x) => dimAt(x, normal)).reduce(addDims) : dim));
  return one(first.graph, { operator: 'Concat', inputs: xs, output: { dtype: first.dtype, shape }, attributes: { axis: int(normal) } });
}

/** Parts along `axis`: of the given sizes, or a number of equal ones. */
export function split(x: Value, sizes: number | readonly Dim[], axis: number): Value[] {
  const normal = axisOf('Split', axis, x);
  const dim = dimAt(x, normal);
  let parts: Dim[];
  if (typeof sizes === 'number') {
    const part = divideDims(dim, sizes);
    if (part === undefined) return fail('Split', `${dim} does not divide into ${sizes} parts`, x);
    parts = Array.from({ length: sizes }, () => part);
  } else parts = sizes.map(canonical);
  check(parts.reduce(addDims, 0) === dim, 'Split', `sizes ${formatShape(parts)} do not add up to ${dim}`, x);
  if (parts.length === 1) return [x];
  const outputs = parts.map((part) => ({ dtype: x.dtype, shape: x.shape.map((d, i) => (i === normal ? part : d)) }));
  return x.graph.emit({
    operator: 'Split',
    inputs: [x, dimensionVector(x.graph, parts, [x])],
    outputs,
    attributes: { axis: int(normal) },
  }) as Value[];
}

/** End of an axis, whatever its size. */
export const END = Number.MAX_SAFE_INTEGER;

/**
 * x[starts:ends:steps] on `axes`. Numbers may be negative (from the end), `END` is the end of the axis; symbols are run-time
 * dimensions. An end beyond a static dimension is cut to it; on a symbolic dimension the caller promises that it isn't beyond.
 */
export function slice(x: Value, starts: readonly Dim[], ends: readonly Dim[], axes: readonly number[], steps?: readonly number[]): Value {
  const graph = x.graph;
  const by = steps ?? axes.map(() => 1);
  check(
    starts.length === axes.length && ends.length === axes.length && by.length === axes.length,
    'Slice',
    'starts, ends, axes and steps differ in length',
    x,
  );
  const normal = axes.map((axis) => axisOf('Slice', axis, x));
  check(new Set(normal).size === normal.length, 'Slice', `axes ${axes.join(',')} repeat`, x);
  const shape = [...x.shape];
  const from: Dim[] = [];
  normal.forEach((axis, i) => {
    const part = sliced(x, axis, canonical(starts[i] as Dim), canonical(ends[i] as Dim), by[i] as number);
    shape[axis] = part.length;
    from.push(part.from);
  });
  const vectors = [dimensionVector(graph, starts.map(canonical), [x]), dimensionVector(graph, ends.map(canonical), [x])];
  return one(graph, {
    operator: 'Slice',
    inputs: [x, ...vectors, int64s(graph, normal), int64s(graph, by)],
    output: { dtype: x.dtype, shape },
    symbolic: { from },
  });
}

/** First index and number of elements of a slice along one axis. */
function sliced(x: Value, axis: number, start: Dim, end: Dim, step: number): { from: Dim; length: Dim } {
  const dim = dimAt(x, axis);
  check(Number.isInteger(step) && step !== 0, 'Slice', `step ${step}`, x);
  const from = typeof start === 'number' && start < 0 ? addDims(dim, start) : start;
  const to = typeof end === 'number' && end < 0 ? addDims(dim, end) : end;
  if (typeof dim === 'number' && typeof from === 'number' && typeof to === 'number') {
    const clamp = (position: number): number => Math.min(Math.max(position, step > 0 ? 0 : -1), step > 0 ? dim : dim - 1);
    return { from: clamp(from), length: Math.max(0, Math.ceil((clamp(to) - clamp(from)) / step)) };
  }
  check(step === 1, 'Slice', `step ${step} on the symbolic dimension '${dim}'`, x);
  return { from, length: subtractDims(to === END ? dim : to, from) };
}

/** x with `before` and `after` zeros added along `axis`. */
export function pad(x: Value, axis: number, before: Dim, after: Dim): Value {
  const normal = axisOf('Pad', axis, x);
  if (before === 0 && after === 0) return x;
  const pads = dimensionVector(x.graph, [before, after].map(canonical), [x]);
  const shape = x.shape.map((dim, i) => (i === normal ? addDims(dim, addDims(before, after)) : dim));
  return one(x.graph, {
    operator: 'Pad',
    inputs: [x, pads, x.graph.constant(0, x.dtype), int64s(x.graph, [normal])],
    output: { dtype: x.dtype, shape },
    symbolic: { before: [before] },
  });
}
