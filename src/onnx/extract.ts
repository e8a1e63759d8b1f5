/**
 * Cuts a part out of a graph: forward and backward segments of a layer come from one graph that holds both.
 * What is neither a leaf nor in `stopAt` is computed again in the part.
 */
import type { TypedArray } from '../tensor/dtype.js';
import { Graph, type Value } from './graph.js';
import { leavesOf, liveNodes } from './live.js';

export interface ExtractOptions {
  readonly name: string;
  readonly outputs: readonly Value[];
  /** Values that the part is given as inputs, under their own names, where it needs them. */
  readonly stopAt: readonly Value[];
}

/**
 * A new graph that computes `outputs` from `stopAt` and the graph's inputs, weights and constants, all under the same names.
 * Its inputs are those it needs: the graph's own in their order, then those of `stopAt`. A node that must run again although one of
 * its outputs is given keeps its other outputs' names; the given one becomes '<name>.again'. An output that is itself an input or
 * given leaves as '<name>.out'. Composites of customVjp are not carried over: derive gradients first, cut afterwards.
 */
export function extract(graph: Graph, options: ExtractOptions): Graph {
  const given = new Set(options.stopAt);
  const nodes = liveNodes(graph, options.outputs, given);
  const part = new Graph(options.name, { opset: graph.opset === 24 ? 24 : 21 });
  const copies = new Map<Value, Value>();
  const leaves = leavesOf(nodes, options.outputs);
  const used = new Set<Value | null>([...nodes.flatMap((node) => node.inputs), ...options.outputs]);
  for (const value of [...graph.inputs.filter((v) => leaves.has(v)), ...options.stopAt]) {
    if (used.has(value) && !copies.has(value)) copies.set(value, part.input(value.name, value.dtype, value.shape));
  }
  for (const value of leaves) {
    if (copies.has(value)) continue;
    if (value.kind === 'weight') copies.set(value, part.weight(value.name, value.dtype, value.shape as readonly number[]));
    else copies.set(value, part.constant(value.constant as TypedArray, value.dtype, value.shape as readonly number[]));
  }
  for (const node of nodes) {
    const outputs = part.emit({
      ...node,
      inputs: node.inputs.map((value) => (value === null ? null : (copies.get(value) as Value))),
      outputNames: node.outputs.map((value) => (value === null ? '' : given.has(value) ? `${value.name}.again` : value.name)),
    });
    node.outputs.forEach((value, i) => {
      if (value !== null && !given.has(value)) copies.set(value, outputs[i] as Value);
    });
  }
  for (const value of options.outputs) {
    const copy = copies.get(value) as Value;
    part.output(copy, copy.kind === 'node' ? copy.name : `${copy.name}.out`);
  }
  return part;
}
