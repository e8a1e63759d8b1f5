/** The adjoint of broadcasting, shared by every rule whose operator broadcasts. */
import { equalShapes, ops, type Dim, type Value } from '../onnx/index.js';

/** Sums `d` over the axes along which a tensor of `shape` was repeated to get d's shape; the result has that shape. */
export function unbroadcast(d: Value, shape: readonly Dim[]): Value {
  if (equalShapes(d.shape, shape)) return d;
  const lead = d.shape.length - shape.length;
  const leading = Array.from({ length: lead }, (_, i) => i);
  const repeated = shape.flatMap((dim, i) => (dim === 1 && d.shape[i + lead] !== 1 ? [i + lead] : []));
  if (repeated.length === 0) return ops.reduceSum(d, leading, false);
  const sum = ops.reduceSum(d, [...leading, ...repeated], true);
  return lead === 0 ? sum : ops.squeeze(sum, leading);
}
