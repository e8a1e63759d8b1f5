/** Building blocks of the rules that put a cotangent back to where its elements came from. */
import { constantNumbers, elementCountOf, graphError, ops, type Dim, type Value } from '../onnx/index.js';

/** Elements of an operand that the operator's builder made a constant (axes, steps). */
export function constantOperand(value: Value | undefined): number[] {
  if (value?.constant === undefined) throw graphError('backward', `'${value?.name ?? '_'}' is not a constant`);
  return constantNumbers(value.constant, value.dtype);
}

/** Above this, zeros of a fixed shape are made at run time. */
const FOLDED_ELEMENTS = 2 ** 18;

/**
 * Zeros to add cotangents into. A session folds zeros of a constant shape into a constant that lives as long as it does (113 MB for an
 * embedding of 49,152 x 576), so the sizes of large ones are made to depend on the indices, which are known at run time only.
 */
function zeros(shape: readonly Dim[], indices: Value, source: Value): Value {
  const count = elementCountOf(shape);
  if (typeof count !== 'number' || count <= FOLDED_ELEMENTS) return ops.fill(source.graph, shape, 0, source.dtype, [source]);
  const nothing = ops.mul(ops.reduceSum(ops.cast(indices, 'int64'), undefined, false), 0);
  return ops.constantOfShape(ops.add(ops.dimensionVector(source.graph, shape), nothing), shape, 0, source.dtype);
}

/** Zeros of x's shape and dtype, in a rule that has indices. Sizes are read off x only where no graph input has them. */
export function zerosLike(x: Value, indices: Value): Value {
  return zeros(x.shape, indices, x);
}

/**
 * The adjoint of gather: adds `d` into zeros of `shape` at `indices` along `axis`. d has `shape` with the dimension at `axis` replaced
 * by the shape of the indices. `source` has d's dtype; symbolic sizes are read off it where no graph input has them.
 */
export function scatterAlong(shape: readonly Dim[], indices: Value, d: Value, axis: number, source: Value): Value {
  const rank = indices.shape.length;
  const picked = Array.from({ length: rank }, (_, i) => axis + i);
  const others = d.shape.flatMap((_, i) => (picked.includes(i) ? [] : [i]));
  const order = [axis, ...shape.flatMap((_, i) => (i === axis ? [] : [i]))];
  const target = zeros(
    order.map((i) => shape[i] as Dim),
    indices,
    source,
  );
  const positions = ops.unsqueeze(ops.cast(indices, 'int64'), [rank]);
  const scattered = ops.scatterND(target, positions, ops.transpose(d, [...picked, ...others]), 'add');
  return ops.transpose(
    scattered,
    order.map((_, i) => order.indexOf(i)),
  );
}
