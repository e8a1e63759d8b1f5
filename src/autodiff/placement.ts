/** Building blocks of the rules that put a cotangent back to where its elements came from. */
import { constantNumbers, graphError, ops, type Dim, type Value } from '../onnx/index.js';

/** Elements of an operand that the operator's builder made a constant (axes, steps). */
export function constantOperand(value: Value | undefined): number[] {
  if (value?.constant === undefined) throw graphError('backward', `'${value?.name ?? '_'}' is not a constant`);
  return constantNumbers(value.constant, value.dtype);
}

/** Zeros of x's shape and dtype. Reads sizes off x only where no graph input has them. */
export function zerosLike(x: Value): Value {
  return ops.fill(x.graph, x.shape, 0, x.dtype, [x]);
}

/**
 * The adjoint of gather: adds `d` into zeros of `shape` at `indices` along `axis`. d has `shape` with the dimension at `axis` replaced
 * by the shape of the indices. `source` is a tensor to read symbolic dimensions off.
 */
export function scatterAlong(shape: readonly Dim[], indices: Value, d: Value, axis: number, source: Value): Value {
  const rank = indices.shape.length;
  const picked = Array.from({ length: rank }, (_, i) => axis + i);
  const others = d.shape.flatMap((_, i) => (picked.includes(i) ? [] : [i]));
  const order = [axis, ...shape.flatMap((_, i) => (i === axis ? [] : [i]))];
  const target = ops.fill(d.graph, order.map((i) => shape[i] as Dim), 0, d.dtype, [source]);
  const positions = ops.unsqueeze(ops.cast(indices, 'int64'), [rank]);
  const scattered = ops.scatterND(target, positions, ops.transpose(d, [...picked, ...others]), 'add');
  return ops.transpose(scattered, order.map((_, i) => order.indexOf(i)));
}
