/** Rules of the operators that move elements. */
import { addDims, ops, subtractDims, type Dim, type Value } from '../../onnx/index.js';
import { constantOperand, scatterAlong } from '../placement.js';
import { numberOf, numbersOf, type Rule, type RuleContext } from '../rule.js';
import { unbroadcast } from '../unbroadcast.js';

const first = (c: RuleContext): Value => c.inputs[0] as Value;
const dimAt = (value: Value, axis: number): Dim => value.shape[axis] as Dim;

const zerosOf = (x: Value): Value => ops.fill(x.graph, x.shape, 0, x.dtype, [x]);

/** Undoes a slice axis by axis: zeros around contiguous parts, a scatter for strided ones. */
const slice: Rule = (c) => {
  const x = first(c);
  const axes = constantOperand(c.inputs[3]);
  const steps = constantOperand(c.inputs[4]);
  let d = c.d;
  axes.forEach((axis, i) => {
    const from = c.node.symbolic?.['from']?.[i] as Dim;
    const [size, length, step] = [dimAt(x, axis), dimAt(d, axis), steps[i] as number];
    if (step === 1) {
      d = ops.pad(d, axis, from, subtractDims(size, addDims(from, length)));
      return;
    }
    const indices = Array.from({ length: length as number }, (_, k) => (from as number) + k * step);
    const shape = d.shape.map((dim, j) => (j === axis ? size : dim));
    d = scatterAlong(shape, d.graph.constant(indices, 'int64'), d, axis, x);
  });
  return [d];
};

export const shape: Readonly<Record<string, Rule>> = {
  Transpose: (c) => {
    const perm = numbersOf(c.node, 'perm');
    return [
      ops.transpose(
        c.d,
        perm.map((_, i) => perm.indexOf(i)),
      ),
    ];
  },
  Reshape: (c) => [ops.reshape(c.d, first(c).shape)],
  Unsqueeze: (c) => [ops.squeeze(c.d, constantOperand(c.inputs[1]))],
  Squeeze: (c) => [ops.unsqueeze(c.d, constantOperand(c.inputs[1]))],
  Expand: (c) => [unbroadcast(c.d, first(c).shape)],
  Concat: (c) => {
    const axis = numberOf(c.node, 'axis');
    let start: Dim = 0;
    return c.inputs.map((x, i) => {
      const from = start;
      start = addDims(start, dimAt(x, axis));
      return c.needs[i] === true ? ops.slice(c.d, [from], [start], [axis]) : null;
    });
  },
  Split: (c) => {
    const parts = c.outputs.map((output, i) => c.cotangents[i] ?? zerosOf(output as Value));
    return [ops.concat(parts, numberOf(c.node, 'axis'))];
  },
  Slice: slice,
  Pad: (c) => {
    const [axis] = constantOperand(c.inputs[3]) as [number];
    const from = c.node.symbolic?.['before']?.[0] as Dim;
    return [ops.slice(c.d, [from], [addDims(from, dimAt(first(c), axis))], [axis])];
  },
};
