/**
 * Dimensions at run time. A symbol is read with a Shape node off some tensor that has it as a dimension; polynomials of symbols are
 * computed from those. The int64 vectors made here feed Reshape, Expand, Slice, Split, ConstantOfShape and Range.
 */
import type { DType } from '../../tensor/dtype.js';
import { encodeConstant } from '../constant.js';
import { isStatic, termsOf, type Dim } from '../dims.js';
import type { Attribute, Graph, Value } from '../graph.js';
import { graphError } from '../origin.js';
import { add, cast, mul } from './elementwise.js';
import { int, int64s, one } from './node.js';

/** Dimension values made before, per graph: one Shape node serves all. */
const made = new WeakMap<Graph, Map<string, Value>>();

/** The shape of x as an int64 vector [rank]; a constant when it is static. */
export function shapeOf(x: Value): Value {
  if (isStatic(x.shape)) return int64s(x.graph, x.shape);
  return one(x.graph, { operator: 'Shape', inputs: [x], output: { dtype: 'int64', shape: [x.shape.length] } });
}

function shapeSlice(x: Value, axis: number): Value {
  return one(x.graph, {
    operator: 'Shape',
    inputs: [x],
    output: { dtype: 'int64', shape: [1] },
    attributes: { start: int(axis), end: int(axis + 1) },
  });
}

/**
 * A tensor with `dim` among its dimensions: the first input, else the preferred one, else the first computed value. Inputs first, since
 * every part that is cut out of the graph has them, while a computed value would have to be kept or computed again for its shape.
 */
function carrier(graph: Graph, dim: string, preferred: readonly Value[]): { value: Value; axis: number } | undefined {
  for (const value of [...graph.inputs, ...preferred]) {
    const axis = value.shape.indexOf(dim);
    if (axis >= 0) return { value, axis };
  }
  for (const node of graph.nodes) {
    for (const value of node.outputs) {
      const axis = value === null ? -1 : value.shape.indexOf(dim);
      if (value !== null && axis >= 0) return { value, axis };
    }
  }
  return undefined;
}

/** One dimension as an int64 vector [1]. `preferred` are tensors to read it off where no input has it. */
export function dimension(graph: Graph, dim: Dim, preferred: readonly Value[] = []): Value {
  if (typeof dim === 'number') return int64s(graph, [dim]);
  let values = made.get(graph);
  if (values === undefined) made.set(graph, (values = new Map<string, Value>()));
  let value = values.get(dim);
  if (value !== undefined) return value;
  const found = carrier(graph, dim, preferred);
  if (found !== undefined) value = shapeSlice(found.value, found.axis);
  else {
    for (const { coefficient, symbols } of termsOf(dim)) {
      if (symbols[0] === dim) throw graphError('Shape', `no tensor of graph '${graph.name}' has the dimension '${dim}'`);
      let term: Value | undefined;
      for (const symbol of symbols) {
        const factor = dimension(graph, symbol, preferred);
        term = term === undefined ? factor : mul(term, factor);
      }
      const factor = int64s(graph, [coefficient]);
      const scaled: Value = term === undefined ? factor : coefficient === 1 ? term : mul(term, factor);
      value = value === undefined ? scaled : add(value, scaled);
    }
  }
  values.set(dim, value as Value);
  return value as Value;
}

/** Dimensions as one int64 vector [dims.length]: a constant when all are numbers. */
export function dimensionVector(graph: Graph, dims: readonly Dim[], preferred: readonly Value[] = []): Value {
  if (isStatic(dims)) return int64s(graph, dims);
  const pieces: Value[] = [];
  let numbers: number[] = [];
  const flush = (): void => {
    if (numbers.length > 0) pieces.push(int64s(graph, numbers));
    numbers = [];
  };
  for (const dim of dims) {
    if (typeof dim === 'number') numbers.push(dim);
    else {
      flush();
      pieces.push(dimension(graph, dim, preferred));
    }
  }
  flush();
  if (pieces.length === 1) return pieces[0] as Value;
  return one(graph, { operator: 'Concat', inputs: pieces, output: { dtype: 'int64', shape: [dims.length] }, attributes: { axis: int(0) } });
}

/** One dimension as a scalar [] of `dtype`, for arithmetic with tensors. */
export function dimensionScalar(graph: Graph, dim: Dim, dtype: DType, preferred: readonly Value[] = []): Value {
  if (typeof dim === 'number') return graph.constant(dim, dtype);
  const vector = dimension(graph, dim, preferred);
  const scalar = one(graph, { operator: 'Squeeze', inputs: [vector, int64s(graph, [0])], output: { dtype: 'int64', shape: [] } });
  return cast(scalar, dtype);
}

/** A tensor of that shape filled with one number. A session computes one of constant shape when it is made and keeps it. */
export function fill(graph: Graph, dims: readonly Dim[], value: number, dtype: DType, preferred: readonly Value[] = []): Value {
  return constantOfShape(dimensionVector(graph, dims, preferred), dims, value, dtype);
}

/** As `fill`, where an int64 vector holds the sizes at run time; `dims` is what they will be. */
export function constantOfShape(sizes: Value, dims: readonly Dim[], value: number, dtype: DType): Value {
  const attribute: Attribute = { kind: 'tensor', dtype, shape: [1], value: encodeConstant(value, dtype) };
  return one(sizes.graph, {
    operator: 'ConstantOfShape',
    inputs: [sizes],
    output: { dtype, shape: dims },
    attributes: { value: attribute },
  });
}
