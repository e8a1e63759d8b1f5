/**
 * Reverse mode over a graph: walks the nodes backwards, asks each for its inputs' cotangents and adds what arrives at a value twice.
 * Invariant: a node is emitted only for a value that lies between `wrt` and the seeds. The rules know nothing of pruning.
 */
import { equalShapes, formatShape, graphError, ops, type Graph, type Node, type Value } from '../onnx/index.js';
import { compositesOf, type Composite } from './custom-vjp.js';
import { ruleOf } from './rules/index.js';

/**
 * Cotangents of `wrt`, given the cotangents `seeds` of some values (same shape and dtype each); null for a value that the seeds do
 * not depend on. The nodes are appended to `graph`. Throws a graph error that names the operator when a rule is missing on the way.
 */
export function backward(graph: Graph, seeds: ReadonlyMap<Value, Value>, wrt: readonly Value[]): (Value | null)[] {
  const nodes = [...graph.nodes];
  const composites = compositesOf(graph);
  const inner = innerNodes(nodes, composites);
  const active = activeValues(nodes, composites, wrt);
  const cotangents = new Map<Value, Value>();
  const accumulate = (value: Value, cotangent: Value, from: string): void => {
    if (!equalShapes(value.shape, cotangent.shape) || value.dtype !== cotangent.dtype) {
      const given = `${cotangent.dtype}${formatShape(cotangent.shape)}`;
      throw graphError(from, `the cotangent of '${value.name}' is ${given}, not ${value.dtype}${formatShape(value.shape)}`);
    }
    const sum = cotangents.get(value);
    cotangents.set(value, sum === undefined ? cotangent : ops.add(sum, cotangent));
  };
  for (const [value, cotangent] of seeds) {
    if (value.graph !== graph || cotangent.graph !== graph) throw graphError('backward', `the seed of '${value.name}' is of another graph`);
    if (active.has(value)) accumulate(value, cotangent, 'backward');
  }

  for (let i = nodes.length - 1; i >= 0; i--) {
    const composite = composites.get(i);
    if (composite !== undefined) {
      for (const node of nodes.slice(composite.start, composite.end)) refuseInner(node, composite, cotangents);
      pullBack(composite, () => composite.vjp, cotangents, active, accumulate, 'customVjp');
      continue;
    }
    const node = nodes[i] as Node;
    if (inner.has(node)) continue;
    const present = { inputs: node.inputs.filter((value) => value !== null), outputs: node.outputs };
    pullBack(
      present,
      () => {
        const rule = ruleOf(node);
        return (given, needs) =>
          rule({ node, inputs: present.inputs, outputs: node.outputs, cotangents: given, d: given[0] as Value, needs });
      },
      cotangents,
      active,
      accumulate,
      node.operator,
    );
  }
  return wrt.map((value) => cotangents.get(value) ?? null);
}

type Pull = (cotangents: readonly (Value | null)[], needs: readonly boolean[]) => readonly (Value | null)[];

/** Applies one rule, where an output has a cotangent and an input needs one. */
function pullBack(
  unit: { readonly inputs: readonly Value[]; readonly outputs: readonly (Value | null)[] },
  rule: () => Pull,
  cotangents: ReadonlyMap<Value, Value>,
  active: ReadonlySet<Value>,
  accumulate: (value: Value, cotangent: Value, from: string) => void,
  operator: string,
): void {
  const given = unit.outputs.map((value) => (value === null ? null : (cotangents.get(value) ?? null)));
  const needs = unit.inputs.map((value) => active.has(value));
  if (given.every((value) => value === null) || !needs.includes(true)) return;
  const results = rule()(given, needs);
  unit.inputs.forEach((value, i) => {
    const cotangent = results[i] ?? null;
    if (cotangent !== null && needs[i] === true) accumulate(value, cotangent, operator);
  });
}

function innerNodes(nodes: readonly Node[], composites: ReadonlyMap<number, Composite>): ReadonlySet<Node> {
  const inner = new Set<Node>();
  for (const { start, end } of composites.values()) for (const node of nodes.slice(start, end)) inner.add(node);
  return inner;
}

/** Floating-point values that depend on `wrt`, `wrt` included. Inside a composite only its inputs may bring a dependence. */
function activeValues(nodes: readonly Node[], composites: ReadonlyMap<number, Composite>, wrt: readonly Value[]): ReadonlySet<Value> {
  const active = new Set<Value>(wrt);
  nodes.forEach((node, i) => {
    const depends = node.inputs.some((value) => value !== null && active.has(value));
    if (depends) for (const value of node.outputs) if (value !== null && ops.isFloat(value.dtype)) active.add(value);
    const composite = composites.get(i);
    if (composite === undefined) return;
    checkClosed(composite, nodes.slice(composite.start, composite.end), active);
    // Whatever happens inside (rounding to integers, say), the composite's rule connects its inputs with its outputs.
    if (composite.inputs.some((value) => active.has(value))) for (const value of composite.outputs) active.add(value);
  });
  return active;
}

/** A composite must name every differentiable value it uses, or its rule would lose a gradient. */
function checkClosed(composite: Composite, nodes: readonly Node[], active: ReadonlySet<Value>): void {
  const known = new Set<Value | null>([...composite.inputs, ...nodes.flatMap((node) => node.outputs)]);
  for (const node of nodes) {
    for (const value of node.inputs) {
      if (value !== null && active.has(value) && !known.has(value)) {
        throw graphError('customVjp', `'${value.name}' needs a gradient and is used inside, but is not among the inputs`, node.origin);
      }
    }
  }
}

/** A cotangent of an inner value would bypass the composite's rule. */
function refuseInner(node: Node, composite: Composite, cotangents: ReadonlyMap<Value, Value>): void {
  for (const value of node.outputs) {
    if (value !== null && cotangents.has(value) && !composite.outputs.includes(value)) {
      throw graphError('customVjp', `'${value.name}' is inside a composite, but something else differentiates through it`, node.origin);
    }
  }
}
