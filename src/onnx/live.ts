/** Which nodes a set of values needs: one walk, shared by serialization, printing and extraction. */
import type { Graph, Node, Value } from './graph.js';

/**
 * Nodes of `graph` that compute `outputs`, in topological order, not going past values in `stopAt`.
 * `outputs` defaults to the graph's outputs; a graph without outputs is alive as a whole.
 */
export function liveNodes(graph: Graph, outputs: readonly Value[] = graph.outputs, stopAt: ReadonlySet<Value> = new Set()): Node[] {
  if (outputs.length === 0) return [...graph.nodes];
  const needed = new Set<Node>();
  const seen = new Set<Value>(stopAt);
  const stack = outputs.filter((value) => !stopAt.has(value));
  for (let value = stack.pop(); value !== undefined; value = stack.pop()) {
    if (seen.has(value)) continue;
    seen.add(value);
    if (value.node === undefined || needed.has(value.node)) continue;
    needed.add(value.node);
    for (const input of value.node.inputs) if (input !== null && !seen.has(input)) stack.push(input);
  }
  return graph.nodes.filter((node) => needed.has(node));
}

/** Inputs, weights and constants that the nodes and outputs refer to. */
export function leavesOf(nodes: readonly Node[], outputs: readonly Value[]): Set<Value> {
  const leaves = new Set<Value>();
  const add = (value: Value | null): void => {
    if (value !== null && value.kind !== 'node') leaves.add(value);
  };
  for (const node of nodes) node.inputs.forEach(add);
  outputs.forEach(add);
  return leaves;
}
