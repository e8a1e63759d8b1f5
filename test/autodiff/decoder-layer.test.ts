/**
 * Rules in company: a whole Llama decoder layer with LoRA on a frozen projection, symbolic batch and length, grouped heads, a causal mask
 * and a cross-entropy on top, against central differences.
 */
import { expect, test } from '@jest/globals';
import { backward } from '../../src/autodiff/index.js';
import { Graph, ops, type Value } from '../../src/onnx/index.js';
import { checkGradients } from './check-gradients.js';

const [C, H, KV, D, F, V, R] = [8, 4, 2, 2, 6, 7, 2];
type Values = Readonly<Record<string, Value>>;
const linear = (x: Value, w: Value): Value => ops.fusedMatMul(x, w, { transB: true });

/** Mean cross entropy of the next-token logits [B*T,V]. */
function loss(v: Values, graph: Graph): Value {
  const at = (name: string): Value => v[name] as Value;
  const norm = (x: Value, gain: string): Value => ops.simplifiedLayerNorm(x, at(gain), { epsilon: 1e-4 }).y;
  const x = ops.gather(at('embedding'), at('ids'));
  const h = norm(x, 'gain1');
  const rotated = (name: string, heads: number): Value =>
    ops.rotaryEmbedding(linear(h, at(name)), at('positions'), at('cos'), at('sin'), { numHeads: heads });
  const heads = (t: Value, n: number): Value => ops.transpose(ops.reshape(t, ['B', 'T', n, D]), [0, 2, 1, 3]);
  // Queries of a group side by side: [B,KV,g*T,D].
  const q = ops.reshape(heads(rotated('q', H), H), ['B', KV, '2*T', D]);
  const k = heads(rotated('k', KV), KV);
  const value = heads(linear(h, at('v')), KV);
  const rows = ops.unsqueeze(ops.range(graph, 0, 'T'), [1]);
  const future = ops.greater(ops.unsqueeze(ops.range(graph, 0, 'T'), [0]), rows);
  const mask = ops.concat([future, future], 0);
  const scores = ops.where(mask, -1e4, ops.fusedMatMul(q, k, { transB: true, alpha: D ** -0.5 }));
  const mixed = ops.reshape(ops.matMul(ops.softmax(scores), value), ['B', H, 'T', D]);
  const joined = ops.reshape(ops.transpose(mixed, [0, 2, 1, 3]), ['B', 'T', H * D]);
  const lora = ops.fusedMatMul(linear(joined, at('loraA')), at('loraB'), { transB: true, alpha: 2 });
  const middle = ops.add(x, ops.add(linear(joined, at('o')), lora));
  const [gate, up] = ops.split(linear(norm(middle, 'gain2'), at('gateUp')), 2, -1) as [Value, Value];
  const y = ops.add(middle, linear(ops.mul(ops.mul(gate, ops.sigmoid(gate)), up), at('down')));
  const logits = linear(ops.reshape(norm(y, 'gain3'), [-1, C]), at('embedding'));
  const picked = ops.gatherElements(ops.logSoftmax(logits), ops.reshape(at('labels'), [-1, 1]), 1);
  return ops.neg(ops.reduceMean(picked, undefined, false));
}

const inputs = {
  embedding: [V, C],
  gain1: [C],
  q: [H * D, C],
  k: [KV * D, C],
  v: [KV * D, C],
  o: [C, H * D],
  loraA: [R, H * D],
  loraB: [C, R],
  gain2: [C],
  gateUp: [2 * F, C],
  down: [C, F],
  gain3: [C],
  cos: [4, D / 2],
  sin: [4, D / 2],
} as const;
const indices = {
  ids: { shape: ['B', 'T'], data: [0, 3, 3, 6, 5, 1] },
  positions: { shape: ['B', 'T'], data: [0, 1, 2, 0, 1, 2] },
  labels: { shape: ['B', 'T'], data: [3, 3, 1, 5, 1, 2] },
} as const;

test('LoRA and norms of a decoder layer under a cross entropy', async () => {
  await checkGradients({
    inputs,
    indices,
    symbols: { B: 2, T: 3 },
    range: [-0.9, 0.9],
    wrt: ['loraA', 'loraB', 'gain1', 'gain2'],
    build: (v, g) => loss(v, g),
    float32Tolerance: 1e-4,
  });
});

test('all weights, the tied embedding among them', async () => {
  await checkGradients({
    inputs,
    indices,
    symbols: { B: 2, T: 3 },
    range: [-0.9, 0.9],
    wrt: ['embedding', 'q', 'k', 'v', 'o', 'gateUp', 'down', 'gain3'],
    build: (v, g) => loss(v, g),
    float32Tolerance: 1e-4,
  });
});

test('adapters alone: no product for a frozen weight, nothing below the lowest trainable tensor', () => {
  const graph = new Graph('adapters');
  const v = Object.fromEntries([
    ...Object.entries(inputs).map(([name, shape]) => [name, graph.input(name, 'float32', shape)] as const),
    ...Object.entries(indices).map(([name, { shape }]) => [name, graph.input(name, 'int64', shape)] as const),
  ]);
  const y = loss(v, graph);
  const before = graph.nodes.length;
  backward(graph, new Map([[y, graph.constant(1, 'float32')]]), [v['loraA'] as Value, v['loraB'] as Value]);
  const made = graph.nodes.slice(before);
  // Back through embedding, down and gateUp, then loraB twice and loraA once: nothing of attention, nothing for frozen weights.
  expect(made.filter((node) => node.operator === 'MatMul' || node.operator === 'FusedMatMul').length).toBe(6);
  expect(made.some((node) => node.operator === 'RotaryEmbedding' || node.operator === 'Softmax' || node.operator === 'ScatterND')).toBe(
    false,
  );
});
