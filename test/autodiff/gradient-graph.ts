/** A graph and its gradients, for tests of what `backward` builds. */
import { backward } from '../../src/autodiff/index.js';
import type { Graph, Value } from '../../src/onnx/index.js';

/** The gradients of y as outputs 'd<name>', and nothing of the forward part that they don't need. */
export function gradientGraph(graph: Graph, y: Value, wrt: readonly Value[]): Graph {
  const results = backward(graph, new Map([[y, graph.input('dy', y.dtype, y.shape)]]), wrt);
  results.forEach((value, i) => {
    if (value !== null) graph.output(value, `d${(wrt[i] as Value).name}`);
  });
  return graph;
}
