/** Operators that read or write by index, and makers of index and mask tensors. Indices are int64 (or int32 where stated). */
import { divideDims, equalShapes, formatShape, subtractDims, type Dim } from '../dims.js';
import type { DType } from '../../tensor/dtype.js';
import type { Graph, Value } from '../graph.js';
import { dimensionScalar } from './dimensions.js';
import { axisOf, check, fail, flag, int, one, sameDType, string } from './node.js';

export type Reduction = 'none' | 'add' | 'mul' | 'max' | 'min';

function integer(operator: string, indices: Value): void {
  check(indices.dtype === 'int64' || indices.dtype === 'int32', operator, 'indices are not int64 or int32', indices);
}

/** x at `indices` along `axis`: [..., D, ...] and indices [I...] give [..., I..., ...]. */
export function gather(x: Value, indices: Value, axis = 0): Value {
  integer('Gather', indices);
  const normal = axisOf('Gather', axis, x);
  const shape = [...x.shape.slice(0, normal), ...indices.shape, ...x.shape.slice(normal + 1)];
  return one(x.graph, { operator: 'Gather', inputs: [x, indices], output: { dtype: x.dtype, shape }, attributes: { axis: int(normal) } });
}

/** Element [.., i, ..] of the result is x[.., indices[.., i, ..], ..]; the shape is that of `indices`. */
export function gatherElements(x: Value, indices: Value, axis: number): Value {
  integer('GatherElements', indices);
  const normal = axisOf('GatherElements', axis, x);
  check(indices.shape.length === x.shape.length, 'GatherElements', 'ranks differ', x, indices);
  return one(x.graph, {
    operator: 'GatherElements',
    inputs: [x, indices],
    output: { dtype: x.dtype, shape: indices.shape },
    attributes: { axis: int(normal) },
  });
}

/** x with `updates` written (or reduced) at `indices` along `axis`; indices and updates have one shape. */
export function scatterElements(x: Value, indices: Value, updates: Value, axis: number, reduction: Reduction = 'none'): Value {
  integer('ScatterElements', indices);
  sameDType('ScatterElements', x, updates);
  const normal = axisOf('ScatterElements', axis, x);
  check(
    equalShapes(indices.shape, updates.shape) && indices.shape.length === x.shape.length,
    'ScatterElements',
    'shapes do not fit',
    x,
    indices,
    updates,
  );
  return one(x.graph, {
    operator: 'ScatterElements',
    inputs: [x, indices, updates],
    output: x,
    attributes: { axis: int(normal), reduction: string(reduction) },
  });
}

/** Number of leading dimensions of x that the last dimension of `indices` addresses. */
function indexDepth(operator: string, x: Value, indices: Value): number {
  check(indices.dtype === 'int64', operator, 'indices are not int64', indices);
  const depth = indices.shape.at(-1);
  if (typeof depth !== 'number' || depth < 1 || depth > x.shape.length)
    return fail(operator, 'the last dimension of the indices must be a number up to the rank', x, indices);
  return depth;
}

/** x[indices[..., 0], indices[..., 1], …]: indices [I..., K] give [I..., the dimensions of x after the first K]. */
export function gatherND(x: Value, indices: Value): Value {
  const depth = indexDepth('GatherND', x, indices);
  const shape = [...indices.shape.slice(0, -1), ...x.shape.slice(depth)];
  return one(x.graph, { operator: 'GatherND', inputs: [x, indices], output: { dtype: x.dtype, shape } });
}

/** x with `updates` [I..., rest of x] written (or reduced) at `indices` [I..., K]. */
export function scatterND(x: Value, indices: Value, updates: Value, reduction: Reduction = 'none'): Value {
  const depth = indexDepth('ScatterND', x, indices);
  sameDType('ScatterND', x, updates);
  const expected: Dim[] = [...indices.shape.slice(0, -1), ...x.shape.slice(depth)];
  check(equalShapes(updates.shape, expected), 'ScatterND', `updates should be ${formatShape(expected)}`, x, indices, updates);
  return one(x.graph, { operator: 'ScatterND', inputs: [x, indices, updates], output: x, attributes: { reduction: string(reduction) } });
}

/** start, start+delta, … below `limit`, as a vector; symbols are run-time dimensions. A constant when all are numbers. */
export function range(graph: Graph, start: Dim, limit: Dim, delta = 1, dtype: DType = 'int64'): Value {
  const span = subtractDims(limit, start);
  if (typeof start === 'number' && typeof limit === 'number') {
    const length = Math.max(0, Math.ceil((limit - start) / delta));
    return graph.constant(
      Array.from({ length }, (_, i) => start + i * delta),
      dtype,
    );
  }
  const length = divideDims(span, delta);
  if (length === undefined) return fail('Range', `${span} does not divide by ${delta}`);
  const scalar = (dim: Dim): Value => dimensionScalar(graph, dim, dtype);
  return one(graph, { operator: 'Range', inputs: [scalar(start), scalar(limit), scalar(delta)], output: { dtype, shape: [length] } });
}

/** `on` at the index and `off` elsewhere along a new axis of size `depth`. */
export function oneHot(
  indices: Value,
  depth: number,
  dtype: DType = 'float32',
  options: { readonly axis?: number; readonly on?: number; readonly off?: number } = {},
): Value {
  const { axis = -1, on = 1, off = 0 } = options;
  const normal = axisOf('OneHot', axis, indices, indices.shape.length + 1);
  const shape = [...indices.shape.slice(0, normal), depth, ...indices.shape.slice(normal)];
  const graph = indices.graph;
  const inputs = [indices, graph.constant(depth, 'int64'), graph.constant([off, on], dtype)];
  return one(graph, { operator: 'OneHot', inputs, output: { dtype, shape }, attributes: { axis: int(normal) } });
}

/** The upper (default) or lower triangle of the last two dimensions; the rest is zero. `diagonal` shifts the border to the right. */
export function trilu(x: Value, options: { readonly upper?: boolean; readonly diagonal?: number } = {}): Value {
  check(x.shape.length >= 2, 'Trilu', 'needs rank 2 or more', x);
  const diagonal = x.graph.constant(options.diagonal ?? 0, 'int64');
  return one(x.graph, { operator: 'Trilu', inputs: [x, diagonal], output: x, attributes: { upper: flag(options.upper ?? true) } });
}
