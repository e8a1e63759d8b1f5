/** Construction: inference, names, constants, errors, printing. Nothing runs here. */
import { describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import { Graph, ops, print, type Value } from '../../src/onnx/index.js';

const graphWith = (shape: readonly (number | string)[]): { g: Graph; x: Value } => {
  const g = new Graph('g');
  return { g, x: g.input('x', 'float32', shape) };
};

describe('reshape picks its target', () => {
  const targetOf = (from: readonly (number | string)[], to: readonly (number | string)[]): string => {
    const { g, x } = graphWith(from);
    g.output(ops.reshape(x, to), 'y');
    return print(g);
  };

  test('as constants with 0 and -1 where these can say it', () => {
    expect(targetOf(['B', 'T', 8], ['T*B', 8])).toMatchInlineSnapshot(`
     "g(x: float32[B,T,8])
       y: float32[B*T,8] = Reshape(x, [-1,8])
       return y"
    `);
    expect(targetOf(['B', 'T', 8], ['B', 'T', 2, 4])).toMatchInlineSnapshot(`
     "g(x: float32[B,T,8])
       y: float32[B,T,2,4] = Reshape(x, [0,0,2,4])
       return y"
    `);
    expect(targetOf(['B', 2, 'T', 4], ['B', '2*T', 4])).toMatchInlineSnapshot(`
     "g(x: float32[B,2,T,4])
       y: float32[B,2*T,4] = Reshape(x, [0,-1,4])
       return y"
    `);
    expect(targetOf(['B', 6], [3, -1])).toMatchInlineSnapshot(`
     "g(x: float32[B,6])
       y: float32[3,2*B] = Reshape(x, [3,-1])
       return y"
    `);
  });

  test('from Shape nodes where they cannot', () => {
    const g = new Graph('g');
    const ids = g.input('ids', 'int64', ['B', 'T']);
    const x = g.input('x', 'float32', ['B*T', 8]);
    g.output(ops.reshape(x, ['B', 'T', 8]), 'y');
    g.output(ops.reshape(x, ['T', 'B', 2, 4]), 'z');
    expect(ids.kind).toBe('input');
    expect(print(g)).toMatchInlineSnapshot(`
     "g(ids: int64[B,T], x: float32[B*T,8])
       Shape_0: int64[1] = Shape(ids, start=1, end=2)
       Concat_0: int64[3] = Concat([-1], Shape_0, [8], axis=0)
       y: float32[B,T,8] = Reshape(x, Concat_0)
       Shape_1: int64[1] = Shape(ids, start=0, end=1)
       Concat_1: int64[4] = Concat([-1], Shape_1, [2,4], axis=0)
       z: float32[T,B,2,4] = Reshape(x, Concat_1)
       return y, z"
    `);
  });

  test('and from arithmetic where no tensor has the size', () => {
    const g = new Graph('g');
    g.input('ids', 'int64', ['B', 'T']);
    g.input('ranks', 'float32', ['R']);
    const x = g.input('x', 'float32', ['4*B*T*R']);
    g.output(ops.reshape(x, ['2*B', 'R', '2*T']), 'y');
    expect(print(g)).toMatchInlineSnapshot(`
     "g(ids: int64[B,T], ranks: float32[R], x: float32[4*B*R*T])
       Shape_0: int64[1] = Shape(ranks, start=0, end=1)
       Shape_1: int64[1] = Shape(ids, start=1, end=2)
       Mul_0: int64[1] = Mul(Shape_1, [2])
       Concat_0: int64[3] = Concat([-1], Shape_0, Mul_0, axis=0)
       y: float32[2*B,R,2*T] = Reshape(x, Concat_0)
       return y"
    `);
  });

  test('and is x itself when nothing changes', () => {
    const { x } = graphWith(['B', 4]);
    expect(ops.reshape(x, ['B', 4])).toBe(x);
    expect(ops.reshape(x, [-1, 4])).toBe(x);
  });
});

describe('names and constants', () => {
  test('equal constants are one value, different shapes and dtypes are not', () => {
    const g = new Graph('g');
    expect(g.constant([1, 2], 'float32')).toBe(g.constant(Float32Array.of(1, 2), 'float32'));
    expect(g.constant([1, 2], 'float32')).not.toBe(g.constant([1, 2], 'float32', [1, 2]));
    expect(g.constant(1, 'float32')).not.toBe(g.constant(1, 'int64'));
    expect(g.constant(0, 'float32')).not.toBe(g.constant(-0, 'float32'));
    const data = Float32Array.of(5);
    const c = g.constant(data, 'float32');
    data[0] = 6;
    expect(Array.from(c.constant as Float32Array)).toEqual([5]);
  });

  test('the same construction gives the same names', () => {
    const build = (): string => {
      const { g, x } = graphWith(['M', 4]);
      const [a, b] = ops.split(ops.exp(x), 2, 1) as [Value, Value];
      g.output(ops.mul(a, ops.sigmoid(b)));
      return print(g);
    };
    expect(build()).toBe(build());
    expect(build()).toMatchInlineSnapshot(`
     "g(x: float32[M,4])
       Exp_0: float32[M,4] = Exp(x)
       Split_0.0: float32[M,2], Split_0.1: float32[M,2] = Split(Exp_0, [2,2], axis=1)
       Sigmoid_0: float32[M,2] = Sigmoid(Split_0.1)
       Mul_0: float32[M,2] = Mul(Split_0.0, Sigmoid_0)
       return Mul_0"
    `);
  });

  test('an output takes its name; inputs and second outputs go through Identity', () => {
    const { g, x } = graphWith(['M']);
    const y = ops.exp(x);
    g.output(y, 'y');
    g.output(y, 'again');
    g.output(x, 'copy');
    expect(y.name).toBe('y');
    expect(g.outputs.map((value) => value.name)).toEqual(['y', 'again', 'copy']);
    expect(g.nodes.map((node) => node.operator)).toEqual(['Exp', 'Identity', 'Identity']);
    expect(() => {
      g.output(ops.neg(x), 'copy');
    }).toThrow(/the name 'copy' is taken/);
    expect(() => g.input('y', 'float32', [1])).toThrow(/the name 'y' is taken in graph 'g'/);
    expect(() => g.rename(x, 'z')).toThrow(/'x' is a graph input, whose name is fixed/);
    expect(g.value('copy').shape).toEqual(['M']);
    expect(() => g.value('nothing')).toThrow(/graph 'g' has no value 'nothing'/);
  });

  test('shapes are canonical and frozen', () => {
    const g = new Graph('g');
    expect(g.input('x', 'float32', ['T*B', 2]).shape).toEqual(['B*T', 2]);
    expect(() => g.input('z', 'float32', ['T/2'])).toThrow(/'T\/2' is not a polynomial/);
    expect(() => g.weight('w', 'float32', [-1])).toThrow(/negative dimension \[-1\]/);
    expect(() => g.constant([1, 2, 3], 'float32', [2])).toThrow(/3 elements do not fill the shape \[2\]/);
    expect(() => g.constant(Float64Array.of(1), 'float32')).toThrow(/a Float64Array does not hold float32/);
  });
});

describe('errors name the operator, the shapes and where it was built', () => {
  const g = new Graph('g');
  const x = g.input('x', 'float32', ['B', 'T', 8]);
  const w = g.input('w', 'float32', [4, 6]);
  const i = g.input('i', 'int64', ['B', 'T']);
  const h = g.input('h', 'float16', [8]);
  test.each<[string, () => unknown, RegExp]>([
    [
      'matMul',
      () => ops.matMul(x, w),
      /^MatMul: inner dimensions 8 and 4 differ; given float32\[B,T,8\], float32\[4,6\] \(built at test\/onnx\/graph\.test\.ts:\d+:\d+\)$/,
    ],
    ['add', () => ops.add(x, w), /^Add: shapes do not broadcast; given float32\[B,T,8\], float32\[4,6\]/],
    ['mul', () => ops.mul(x, h), /^Mul: dtypes differ; given float32\[B,T,8\], float16\[8\]/],
    ['exp', () => ops.exp(i), /^Exp: needs floating-point operands; given int64\[B,T\]/],
    ['gemm', () => ops.gemm(w, w, null), /^Gemm: inner dimensions 6 and 4 differ/],
    ['gemm c', () => ops.gemm(w, w, x, { transB: true }), /^Gemm: c does not broadcast to the product/],
    ['softmax', () => ops.softmax(x, 3), /^Softmax: axis 3 is not in a tensor of rank 3/],
    ['reduceSum', () => ops.reduceSum(x, [0, -3]), /^ReduceSum: axes 0,-3 repeat/],
    ['reshape', () => ops.reshape(x, ['B', 9]), /^Reshape: 8\*B\*T elements do not fill \[B,9\]; given float32\[B,T,8\]/],
    ['reshape -1', () => ops.reshape(x, [-1, 3]), /^Reshape: 8\*B\*T elements do not divide into \[-1,3\]/],
    ['reshape twice -1', () => ops.reshape(x, [-1, -1]), /^Reshape: more than one -1/],
    ['transpose', () => ops.transpose(x, [0, 1]), /^Transpose: perm \[0,1\] is no permutation/],
    ['expand', () => ops.expand(w, [4, 7]), /^Expand: does not broadcast to \[4,7\]/],
    ['concat', () => ops.concat([x, w], 0), /^Concat: dimensions beside axis 0 differ/],
    ['split', () => ops.split(x, 3, -1), /^Split: 8 does not divide into 3 parts/],
    ['split sizes', () => ops.split(x, [1, 2], -1), /^Split: sizes \[1,2\] do not add up to 8/],
    ['slice', () => ops.slice(x, [0], [ops.END], [1], [2]), /^Slice: step 2 on the symbolic dimension 'T'/],
    ['squeeze', () => ops.squeeze(x, [2]), /^Squeeze: dimensions at 2 are not 1/],
    ['gather', () => ops.gather(x, x), /^Gather: indices are not int64 or int32/],
    ['scatterND', () => ops.scatterND(w, g.constant([0], 'int64', [1, 1]), h), /^ScatterND: dtypes differ/],
    [
      'simplifiedLayerNorm',
      () => ops.simplifiedLayerNorm(x, ops.reduceSum(w, [0], false), { epsilon: 1e-5 }),
      /^SimplifiedLayerNormalization: the gain is not \[C\]/,
    ],
    ['where', () => ops.where(x, x, x), /^Where: the condition is not bool/],
    [
      'rotaryEmbedding',
      () => ops.rotaryEmbedding(x, i, w, w, { numHeads: 2 }),
      /^RotaryEmbedding: x is not 2 heads of at least twice the width of cos/,
    ],
    [
      'matMulNBits',
      () => ops.matMulNBits(x, w, w, null, { K: 8, N: 2, bits: 8, blockSize: 4 }),
      /^MatMulNBits: the weight is not uint8 \[2,2,4\]/,
    ],
    ['tensorScatter', () => ops.tensorScatter(x, x, i), /^TensorScatter: needs a graph of opset 24/],
    ['two numbers', () => ops.add(1, 2), /^Add: at least one operand must be a value/],
    ['another graph', () => ops.add(x, new Graph('other').input('x', 'float32', [8])), /^Add: 'x' belongs to graph 'other', not to 'g'/],
    ['an unknown size', () => ops.fill(g, ['Q', 2], 0, 'float32'), /^Shape: no tensor of graph 'g' has the dimension 'Q'/],
  ])('%s', (_name, build, message) => {
    let caught: unknown;
    try {
      build();
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(LoricaError);
    expect((caught as LoricaError).code).toBe('INTERNAL');
    expect((caught as LoricaError).reason).toBe('GRAPH_INVALID');
    expect((caught as LoricaError).message).toMatch(message);
    expect((caught as LoricaError).message).toMatch(/\(built at test\/onnx\/graph\.test\.ts:/);
  });
});

test('symbolic sizes follow the operators', () => {
  const { x } = graphWith(['B', 'T', 8]);
  const cache = x.graph.input('cache', 'float32', ['B', 'P', 8]);
  expect(ops.concat([cache, x], 1).shape).toEqual(['B', 'P+T', 8]);
  expect(ops.slice(x, [1], [ops.END], [1]).shape).toEqual(['B', 'T-1', 8]);
  expect(ops.slice(x, [0], [-1], [1]).shape).toEqual(['B', 'T-1', 8]);
  expect(ops.slice(x, [-2], [ops.END], [1]).shape).toEqual(['B', 2, 8]);
  expect(ops.split(ops.concat([cache, x], 1), ['P', 'T'], 1).map((v) => v.shape)).toEqual([
    ['B', 'P', 8],
    ['B', 'T', 8],
  ]);
  expect(ops.pad(x, 1, 1, 'T').shape).toEqual(['B', '2*T+1', 8]);
  expect(ops.range(x.graph, 0, 'T').shape).toEqual(['T']);
  expect(ops.range(x.graph, 'P', 'P+T').shape).toEqual(['T']);
  expect(ops.reduceMax(x, [1], false).shape).toEqual(['B', 8]);
  expect(ops.gather(x, x.graph.input('i', 'int64', ['N', 2]), 1).shape).toEqual(['B', 'N', 2, 8]);
});
