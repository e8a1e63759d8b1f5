/** Rules of the operators that reduce or normalize along axes. */
import { elementCountOf, ops, type Value } from '../../onnx/index.js';
import { numberOf, type Rule, type RuleContext } from '../rule.js';
import { constantOperand, zerosLike } from '../placement.js';

const { div, mul, reduceSum, sub } = ops;

/** Axes of a reduction and its cotangent (or output) with the reduced dimensions kept as 1. */
function reduced(c: RuleContext): { readonly axes: number[]; readonly keep: (value: Value) => Value } {
  const axes = constantOperand(c.inputs[1]);
  return { axes, keep: (value) => (numberOf(c.node, 'keepdims') === 1 ? value : ops.unsqueeze(value, axes)) };
}

const softmaxAxis = (c: RuleContext): number[] => [numberOf(c.node, 'axis')];

export const reduction: Readonly<Record<string, Rule>> = {
  ReduceSum: (c) => [ops.expand(reduced(c).keep(c.d), (c.inputs[0] as Value).shape)],
  ReduceMean: (c) => {
    const x = c.inputs[0] as Value;
    const { axes, keep } = reduced(c);
    const count = elementCountOf(axes.map((axis) => x.shape[axis] as number));
    const divisor = typeof count === 'number' ? count : ops.dimensionScalar(x.graph, count, x.dtype);
    return [ops.expand(keep(typeof divisor === 'number' ? mul(c.d, 1 / divisor) : div(c.d, divisor)), x.shape)];
  },
  /** Equal maxima share the cotangent. */
  ReduceMax: (c) => {
    const x = c.inputs[0] as Value;
    const { axes, keep } = reduced(c);
    const winners = ops.cast(ops.equal(x, keep(c.outputs[0] as Value)), x.dtype);
    return [mul(winners, div(keep(c.d), reduceSum(winners, axes)))];
  },
  Softmax: (c) => {
    const y = c.outputs[0] as Value;
    return [mul(y, sub(c.d, reduceSum(mul(c.d, y), softmaxAxis(c))))];
  },
  LogSoftmax: (c) => [sub(c.d, mul(ops.exp(c.outputs[0] as Value), reduceSum(c.d, softmaxAxis(c))))],
  CumSum: (c) => {
    const [axis] = constantOperand(c.inputs[1]) as [number];
    return [ops.cumSum(c.d, axis, { exclusive: numberOf(c.node, 'exclusive') === 1, reverse: numberOf(c.node, 'reverse') === 0 })];
  },
  TopK: (c) => {
    const x = c.inputs[0] as Value;
    const axis = numberOf(c.node, 'axis');
    const indices = c.outputs[1] as Value;
    return [ops.scatterElements(zerosLike(x, indices), indices, c.d, axis)];
  },
};
