/**
 * One check for every gradient rule. A case says how to build a graph from float inputs; the check builds it twice:
 * in float64, where the gradients of `backward` are compared with fourth-order central differences, element by element, and in float32 on
 * the operators as they are, where outputs and gradients are compared with the float64 ones. Operators without a float64 kernel are
 * replaced in the float64 graph, forward and backward part alike, by primitives (lower-to-float64.ts); the float32 comparison then ties
 * those primitives to the real operator.
 */
import { backward } from '../../src/autodiff/index.js';
import { extract, Graph, ops, type Dim, type DType, type Value } from '../../src/onnx/index.js';
import { load, shapeAt, type Feed, type Outcome, type Runner, type Symbols } from '../onnx/evaluate.js';
import { lowerToFloat64 } from './lower-to-float64.js';

export interface GradientCase {
  /** Differentiable inputs by name. */
  readonly inputs: Readonly<Record<string, readonly Dim[]>>;
  readonly symbols?: Symbols;
  /** Integer or bool inputs by name. */
  readonly indices?: Readonly<Record<string, { readonly shape: readonly Dim[]; readonly data: readonly number[]; readonly dtype?: DType }>>;
  /** Elements of every differentiable input lie in this range; default [-1.5, 1.5]. */
  readonly range?: readonly [number, number];
  /** Elements of single inputs, where the random ones would not do. */
  readonly data?: Readonly<Record<string, readonly number[]>>;
  readonly build: (values: Readonly<Record<string, Value>>, graph: Graph) => Value | readonly Value[];
  /** Inputs to differentiate; default: all of `inputs`. */
  readonly wrt?: readonly string[];
  /** Largest relative difference of the float32 run; default 2e-5. */
  readonly float32Tolerance?: number;
}

const TOLERANCE = 1e-6;
const STEP = 1e-3;

/** Numbers in [0, 1) from a seed (mulberry32). */
function uniform(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Built {
  readonly graph: Graph;
  readonly outputs: readonly Value[];
  readonly gradients: Readonly<Record<string, Value>>;
}

function build(testCase: GradientCase, dtype: DType): Built {
  const graph = new Graph('check');
  const values: Record<string, Value> = {};
  for (const [name, shape] of Object.entries(testCase.inputs)) values[name] = graph.input(name, dtype, shape);
  for (const [name, spec] of Object.entries(testCase.indices ?? {})) values[name] = graph.input(name, spec.dtype ?? 'int64', spec.shape);
  const built = testCase.build(values, graph);
  const outputs = (Array.isArray(built) ? (built as readonly Value[]) : [built as Value]).map((value) => ops.identity(value));
  const seeds = new Map(outputs.map((value, i) => [value, graph.input(`d${i}`, value.dtype, value.shape)]));
  const wrt = testCase.wrt ?? Object.keys(testCase.inputs);
  const results = backward(
    graph,
    seeds,
    wrt.map((name) => values[name] as Value),
  );
  outputs.forEach((value, i) => {
    graph.output(value, `y${i}`);
  });
  const gradients: Record<string, Value> = {};
  results.forEach((value, i) => {
    const name = wrt[i] as string;
    if (value === null) throw new Error(`no gradient for '${name}'`);
    const copy = ops.identity(value);
    graph.output(copy, `grad.${name}`);
    gradients[name] = copy;
  });
  return { graph, outputs, gradients };
}

function feedsOf(testCase: GradientCase, graph: Graph, dtype: DType): Record<string, Feed> {
  const symbols = testCase.symbols ?? {};
  const feeds: Record<string, Feed> = {};
  const [low, high] = testCase.range ?? [-1.5, 1.5];
  const next = uniform(20260101);
  for (const [name, spec] of Object.entries(testCase.indices ?? {})) {
    feeds[name] = { dtype: spec.dtype ?? 'int64', shape: shapeAt(spec.shape, symbols), data: spec.data };
  }
  for (const input of graph.inputs) {
    if (feeds[input.name] !== undefined) continue;
    const shape = shapeAt(input.shape, symbols);
    const count = shape.reduce((n, dim) => n * dim, 1);
    // Rounded to float32, so that both precisions see the same numbers.
    const random = Array.from({ length: count }, () => Math.fround(low + (high - low) * next()));
    feeds[input.name] = { dtype, shape, data: testCase.data?.[input.name] ?? random };
  }
  return feeds;
}

const largest = (xs: readonly number[]): number => xs.reduce((m, x) => Math.max(m, Math.abs(x)), 0);

function relativeDifference(a: readonly number[], b: readonly number[]): number {
  if (a.length !== b.length) return Infinity;
  const difference = a.reduce((m, x, i) => (Number.isNaN(x) ? NaN : Math.max(m, Math.abs(x - (b[i] as number)))), 0);
  return difference / Math.max(largest(b), 1e-30);
}

/** Σ cotangent·output. */
function weighted(results: Readonly<Record<string, Outcome>>, feeds: Readonly<Record<string, Feed>>): number {
  return Object.entries(results).reduce((sum, [name, result]) => {
    const d = (feeds[name.replace('y', 'd')] as Feed).data;
    return sum + result.data.reduce((s, y, i) => s + y * (d[i] as number), 0);
  }, 0);
}

async function centralDifferences(forward: Runner, feeds: Readonly<Record<string, Feed>>, name: string): Promise<number[]> {
  const feed = feeds[name] as Feed;
  const at = async (i: number, offset: number): Promise<number> => {
    const data = [...feed.data];
    data[i] = (data[i] as number) + offset;
    return weighted(await forward.run({ ...feeds, [name]: { ...feed, data } }), feeds);
  };
  const differences: number[] = [];
  for (let i = 0; i < feed.data.length; i++) {
    const near = (await at(i, STEP)) - (await at(i, -STEP));
    const far = (await at(i, 2 * STEP)) - (await at(i, -2 * STEP));
    differences.push((8 * near - far) / (12 * STEP));
  }
  return differences;
}

/** Throws an error that names the input and the difference unless every gradient of the case is right. */
export async function checkGradients(testCase: GradientCase): Promise<void> {
  const exact = build(testCase, 'float64');
  const lowered = lowerToFloat64(exact.graph);
  const feeds = feedsOf(testCase, exact.graph, 'float64');
  // Unoptimized: fusions exist for float32 only, or compute in it.
  const both = await load(lowered, { optimization: 'none' });
  const expected = await both.run(feeds);
  const outputs = exact.outputs.map((value) => lowered.value(value.name));
  const forward = await load(extract(lowered, { name: 'forward', outputs, stopAt: [] }), { optimization: 'none' });
  for (const name of Object.keys(exact.gradients)) {
    const analytic = (expected[`grad.${name}`] as Outcome).data;
    const numeric = await centralDifferences(forward, feeds, name);
    if (largest(numeric) === 0) throw new Error(`the case says nothing: all differences of '${name}' are zero`);
    const difference = relativeDifference(analytic, numeric);
    if (!(difference <= TOLERANCE)) {
      throw new Error(
        `gradient of '${name}' is off by ${difference.toExponential(2)} relative\nanalytic ${analytic.join(' ')}\nnumeric  ${numeric.join(' ')}`,
      );
    }
  }
  both.dispose();
  forward.dispose();

  const single = build(testCase, 'float32');
  const singleFeeds = Object.fromEntries(
    Object.entries(feeds).map(([name, feed]) => [name, feed.dtype === 'float64' ? { ...feed, dtype: 'float32' as const } : feed]),
  );
  const runner = await load(single.graph);
  const actual = await runner.run(singleFeeds);
  runner.dispose();
  for (const [name, outcome] of Object.entries(expected)) {
    const difference = relativeDifference((actual[name] as Outcome).data, outcome.data);
    if (!(difference <= (testCase.float32Tolerance ?? 2e-5)))
      throw new Error(`float32 '${name}' differs from float64 by ${difference.toExponential(2)} relative`);
  }
}
