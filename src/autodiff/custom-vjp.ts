/**
 * Composites with a gradient of their own: nodes that stay ordinary in the forward graph, while `backward` treats them as one
 * operator with the given rule. For gradients that are cheaper or more stable than what the inner operators' rules add up to.
 */
import { graphError, ops, type Graph, type Value } from '../onnx/index.js';

/** Cotangents of the composite's inputs from those of its outputs; `needed[i]` says whether input i wants one. */
export type VectorJacobianProduct = (cotangents: readonly (Value | null)[], needed: readonly boolean[]) => readonly (Value | null)[];

export interface Composite {
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** The nodes made by `forward`: graph.nodes[start, end). */
  readonly start: number;
  readonly end: number;
  readonly vjp: VectorJacobianProduct;
}

const composites = new WeakMap<Graph, Composite[]>();

/**
 * Runs `forward`, whose nodes use `inputs`, and returns its outputs. `vjp` is called by `backward` at most once per call, with a null
 * for every output without a cotangent; what it returns for inputs that are not needed is ignored. A differentiable value that
 * `forward` uses must be among `inputs`, and only its outputs may be differentiated through: `backward` throws otherwise.
 * Of composites made inside `forward` the outer one counts.
 */
export function customVjp(inputs: readonly Value[], forward: () => readonly Value[], vjp: VectorJacobianProduct): readonly Value[] {
  const graph = inputs[0]?.graph;
  if (graph === undefined) throw graphError('customVjp', 'has no inputs');
  const start = graph.nodes.length;
  const results = forward();
  const made = new Set(graph.nodes.slice(start).flatMap((node) => node.outputs));
  const outputs = results.map((value) => (made.has(value) ? value : ops.identity(value)));
  const list = composites.get(graph) ?? [];
  list.push({ inputs, outputs, start, end: graph.nodes.length, vjp });
  composites.set(graph, list);
  return outputs;
}

/** The composites of a graph that no other contains, by their last node's index. */
export function compositesOf(graph: Graph): ReadonlyMap<number, Composite> {
  const all = composites.get(graph) ?? [];
  const outer = all.filter(
    (c) =>
      !all.some(
        (d) => d !== c && d.start <= c.start && c.end <= d.end && (d.end - d.start > c.end - c.start || all.indexOf(d) > all.indexOf(c)),
      ),
  );
  return new Map(outer.map((composite) => [composite.end - 1, composite]));
}
