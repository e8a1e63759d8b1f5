/** Rules of the operators that read or write by index. Indices carry no gradient. */
import { graphError, ops, type Value } from '../../onnx/index.js';
import { constantOperand, scatterAlong, zerosLike } from '../placement.js';
import { numberOf, textOf, type Rule, type RuleContext } from '../rule.js';

/** Only writing and adding are linear in both operands. */
function reductionOf(c: RuleContext): 'none' | 'add' {
  const reduction = textOf(c.node, 'reduction');
  if (reduction === 'none' || reduction === 'add') return reduction;
  throw graphError(c.node.operator, `has no gradient rule with reduction '${reduction}'`, c.node.origin);
}

/**
 * A scatter's cotangents: what was overwritten gets none, what was written gets its place's. With 'none' every place is written at
 * most once (ONNX leaves the rest open).
 */
function scatterRule(clear: (c: RuleContext, indices: Value) => Value, read: (c: RuleContext, indices: Value) => Value): Rule {
  return (c) => {
    const indices = c.inputs[1] as Value;
    const reduction = reductionOf(c);
    return [
      c.needs[0] === true ? (reduction === 'add' ? c.d : clear(c, indices)) : null,
      null,
      c.needs[2] === true ? read(c, indices) : null,
    ];
  };
}

const axisOf = (c: RuleContext): number => numberOf(c.node, 'axis');
const zeroUpdates = (c: RuleContext, indices: Value): Value => zerosLike(c.inputs[2] as Value, indices);

export const indexing: Readonly<Record<string, Rule>> = {
  Gather: (c) => {
    const [x, indices] = c.inputs as [Value, Value];
    return [scatterAlong(x.shape, indices, c.d, axisOf(c), x)];
  },
  GatherElements: (c) => {
    const [x, indices] = c.inputs as [Value, Value];
    return [ops.scatterElements(zerosLike(x, indices), indices, c.d, axisOf(c), 'add')];
  },
  GatherND: (c) => {
    const [x, indices] = c.inputs as [Value, Value];
    return [ops.scatterND(zerosLike(x, indices), indices, c.d, 'add')];
  },
  ScatterElements: scatterRule(
    (c, indices) => ops.scatterElements(c.d, indices, zeroUpdates(c, indices), axisOf(c)),
    (c, indices) => ops.gatherElements(c.d, indices, axisOf(c)),
  ),
  ScatterND: scatterRule(
    (c, indices) => ops.scatterND(c.d, indices, zeroUpdates(c, indices)),
    (c, indices) => ops.gatherND(c.d, indices),
  ),
  Trilu: (c) => {
    const [diagonal] = constantOperand(c.inputs[1]) as [number];
    return [ops.trilu(c.d, { upper: numberOf(c.node, 'upper') === 1, diagonal })];
  },
};
