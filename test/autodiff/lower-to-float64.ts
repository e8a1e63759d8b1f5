/**
 * The same graph in float64: operators whose CPU kernel knows no float64 (or computes parts in float32) become primitives that do. For tests only; what the
 * primitives compute is tied to the real operators by running both in float32 (check-gradients.ts).
 */
import { Graph, ops, type Node, type TypedArray, type Value } from '../../src/onnx/index.js';
import { numberOf, textOf } from '../../src/autodiff/rule.js';

type Lowering = (node: Node, inputs: readonly Value[]) => readonly Value[];

/** Σ (−1)ⁿ x^(2n+1) / (n!·(2n+1)) · 2/√π: exact to rounding for |x| ≤ 2. */
function erfSeries(x: Value): Value {
  const square = ops.mul(x, x);
  let factorial = 1;
  const coefficients = Array.from({ length: 42 }, (_, n) => {
    if (n > 0) factorial *= n;
    return ((n % 2 === 0 ? 1 : -1) * 2) / (Math.sqrt(Math.PI) * factorial * (2 * n + 1));
  });
  const sum = coefficients.reduceRight<Value | null>(
    (acc, c) => (acc === null ? ops.add(ops.mul(square, 0), c) : ops.add(ops.mul(acc, square), c)),
    null,
  );
  return ops.mul(x, sum as Value);
}

/** Halves (or neighbours) turned by the angles of each token: [a, b] to [a·cos − b·sin, b·cos + a·sin]. x [B,T,H·D]. */
function rotate(node: Node, [x, positions, cos, sin]: readonly Value[]): Value {
  if (x === undefined || positions === undefined || cos === undefined || sin === undefined)
    throw new Error('RotaryEmbedding has four inputs');
  const heads = numberOf(node, 'num_heads');
  const half = cos.shape[1] as number;
  const table = (values: Value): Value => ops.unsqueeze(ops.gather(values, positions), numberOf(node, 'interleaved') === 1 ? [2, 4] : [2]);
  const [batch, tokens] = x.shape as [string, string];
  if (numberOf(node, 'interleaved') === 1) {
    const [a, b] = ops.split(ops.reshape(x, [batch, tokens, heads, half, 2]), 2, 4) as [Value, Value];
    return ops.reshape(turn(a, b, table(cos), table(sin), 4), x.shape);
  }
  const [a, b] = ops.split(ops.reshape(x, [batch, tokens, heads, 2 * half]), 2, 3) as [Value, Value];
  return ops.reshape(turn(a, b, table(cos), table(sin), 3), x.shape);
}

function turn(a: Value, b: Value, cos: Value, sin: Value, axis: number): Value {
  return ops.concat([ops.sub(ops.mul(a, cos), ops.mul(b, sin)), ops.add(ops.mul(b, cos), ops.mul(a, sin))], axis);
}

function gelu(node: Node, x: Value): Value {
  if (textOf(node, 'approximate') === 'tanh') return ops.gelu(x, 'tanh');
  return ops.mul(x, ops.mul(ops.add(erfSeries(ops.mul(x, Math.SQRT1_2)), 1), 0.5));
}

/** Both normalizations, with statistics in float64; the operators' own are float32. */
function normalize(node: Node, [x, gain, bias]: readonly Value[]): readonly Value[] {
  if (x === undefined || gain === undefined) throw new Error(`${node.operator} has two inputs or more`);
  const plain = node.operator === 'SimplifiedLayerNormalization';
  const mean = ops.reduceMean(x, [-1]);
  const centred = plain ? x : ops.sub(x, mean);
  const r = ops.reciprocal(ops.sqrt(ops.add(ops.reduceMean(ops.mul(centred, centred), [-1]), numberOf(node, 'epsilon'))));
  const scaled = ops.mul(ops.mul(centred, r), gain);
  const y = bias === undefined ? scaled : ops.add(scaled, bias);
  return plain ? [y, r] : [y, mean, r];
}

const TABLE: Readonly<Record<string, Lowering>> = {
  Erf: (_node, [x]) => [erfSeries(x as Value)],
  Gelu: (node, [x]) => [gelu(node, x as Value)],
  SimplifiedLayerNormalization: normalize,
  LayerNormalization: normalize,
  RotaryEmbedding: (node, inputs) => [rotate(node, inputs)],
};

export function lowerToFloat64(graph: Graph): Graph {
  const lowered = new Graph(graph.name, { opset: 21 });
  const copies = new Map<Value, Value>();
  for (const input of graph.inputs) copies.set(input, lowered.input(input.name, input.dtype, input.shape));
  const copyOf = (value: Value): Value => {
    let copy = copies.get(value);
    if (copy === undefined) {
      copy = lowered.constant(value.constant as TypedArray, value.dtype, value.shape as readonly number[]);
      copies.set(value, copy);
    }
    return copy;
  };
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((value) => (value === null ? null : copyOf(value)));
    const lowering = TABLE[node.operator];
    const start = lowered.nodes.length;
    const outputs =
      lowering === undefined
        ? lowered.emit({ ...node, inputs, outputNames: node.outputs.map((value) => value?.name ?? '') })
        : lowering(
            node,
            inputs.filter((value) => value !== null),
          );
    if (lowering !== undefined) {
      // Names of the copied graph stay free for its own values.
      lowered.nodes
        .slice(start)
        .forEach((made, n) => made.outputs.forEach((value, i) => value && lowered.rename(value, `${node.name}/${n}.${i}`)));
    }
    node.outputs.forEach((value, i) => {
      if (value === null) return;
      const copy = outputs[i] as Value;
      copies.set(value, copy);
      if (copy.name !== value.name) lowered.rename(copy, value.name);
    });
  }
  for (const output of graph.outputs) lowered.output(copies.get(output) as Value, output.name);
  return lowered;
}
