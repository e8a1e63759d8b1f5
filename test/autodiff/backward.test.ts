/** What `backward` builds: the nodes themselves (inline snapshots), pruning, accumulation, composites and errors. */
import { describe, expect, test } from '@jest/globals';
import { backward } from '../../src/autodiff/index.js';
import { extract, Graph, ops, print, type Value } from '../../src/onnx/index.js';
import { evaluate } from '../onnx/evaluate.js';
import { checkGradients } from './check-gradients.js';
import { gradientGraph } from './gradient-graph.js';

describe('the backward graph', () => {
  test('of a linear layer on [B,T,C] forms the weight gradient as one product', () => {
    const g = new Graph('linear');
    const x = g.input('x', 'float32', ['B', 'T', 8]);
    const w = g.input('w', 'float32', [4, 8]);
    expect(print(gradientGraph(g, ops.fusedMatMul(x, w, { transB: true, alpha: 0.5 }), [x, w]))).toMatchInlineSnapshot(`
     "linear(x: float32[B,T,8], w: float32[4,8], dy: float32[B,T,4])
       dx: float32[B,T,8] = FusedMatMul(dy, w, transA=0, transB=0, alpha=0.5)
       Reshape_0: float32[B*T,8] = Reshape(x, [-1,8])
       Reshape_1: float32[B*T,4] = Reshape(dy, [-1,4])
       dw: float32[4,8] = FusedMatMul(Reshape_1, Reshape_0, transA=1, transB=0, alpha=0.5)
       return dx, dw"
    `);
  });

  test('of RMSNorm uses the inverse deviation', () => {
    const g = new Graph('norm');
    const x = g.input('x', 'float32', ['M', 8]);
    const gain = g.input('gain', 'float32', [8]);
    expect(print(gradientGraph(g, ops.simplifiedLayerNorm(x, gain, { epsilon: 1e-5 }).y, [x, gain]))).toMatchInlineSnapshot(`
     "norm(x: float32[M,8], gain: float32[8], dy: float32[M,8])
       SimplifiedLayerNormalization_0.0: float32[M,8], SimplifiedLayerNormalization_0.1: float32[M,1] = SimplifiedLayerNormalization(x, gain, axis=-1, epsilon=0.00001, stash_type=1)
       Mul_0: float32[M,1] = Mul(SimplifiedLayerNormalization_0.1, SimplifiedLayerNormalization_0.1)
       Mul_1: float32[M,1] = Mul(SimplifiedLayerNormalization_0.1, Mul_0)
       Mul_2: float32[M,8] = Mul(dy, gain)
       Mul_3: float32[M,8] = Mul(Mul_2, x)
       ReduceMean_0: float32[M,1] = ReduceMean(Mul_3, [1], keepdims=1)
       Mul_4: float32[M,1] = Mul(ReduceMean_0, Mul_1)
       Mul_5: float32[M,8] = Mul(x, Mul_4)
       Mul_6: float32[M,8] = Mul(Mul_2, SimplifiedLayerNormalization_0.1)
       dx: float32[M,8] = Sub(Mul_6, Mul_5)
       Mul_7: float32[M,8] = Mul(x, SimplifiedLayerNormalization_0.1)
       Mul_8: float32[M,8] = Mul(dy, Mul_7)
       dgain: float32[8] = ReduceSum(Mul_8, [0], keepdims=0)
       return dx, dgain"
    `);
  });

  test('of a broadcast addition sums what was repeated', () => {
    const g = new Graph('bias');
    const x = g.input('x', 'float32', ['B', 'T', 8]);
    const bias = g.input('bias', 'float32', [1, 8]);
    expect(print(gradientGraph(g, ops.add(x, bias), [bias]))).toMatchInlineSnapshot(`
     "bias(x: float32[B,T,8], bias: float32[1,8], dy: float32[B,T,8])
       ReduceSum_0: float32[1,1,8] = ReduceSum(dy, [0,1], keepdims=1)
       dbias: float32[1,8] = Squeeze(ReduceSum_0, [0])
       return dbias"
    `);
  });

  test('of softmax attention', () => {
    const g = new Graph('attention');
    const [q, k, v] = (['q', 'k', 'v'] as const).map((name) => g.input(name, 'float32', ['B', 2, 'T', 4])) as [Value, Value, Value];
    const p = ops.softmax(ops.fusedMatMul(q, k, { transB: true, alpha: 0.5 }));
    expect(print(gradientGraph(g, ops.matMul(p, v), [q, k, v]))).toMatchInlineSnapshot(`
     "attention(q: float32[B,2,T,4], k: float32[B,2,T,4], v: float32[B,2,T,4], dy: float32[B,2,T,4])
       FusedMatMul_0: float32[B,2,T,T] = FusedMatMul(q, k, transA=0, transB=1, alpha=0.5)
       Softmax_0: float32[B,2,T,T] = Softmax(FusedMatMul_0, axis=3)
       FusedMatMul_1: float32[B,2,T,T] = FusedMatMul(dy, v, transA=0, transB=1, alpha=1)
       dv: float32[B,2,T,4] = FusedMatMul(Softmax_0, dy, transA=1, transB=0, alpha=1)
       Mul_0: float32[B,2,T,T] = Mul(FusedMatMul_1, Softmax_0)
       ReduceSum_0: float32[B,2,T,1] = ReduceSum(Mul_0, [3], keepdims=1)
       Sub_0: float32[B,2,T,T] = Sub(FusedMatMul_1, ReduceSum_0)
       Mul_1: float32[B,2,T,T] = Mul(Softmax_0, Sub_0)
       dq: float32[B,2,T,4] = FusedMatMul(Mul_1, k, transA=0, transB=0, alpha=0.5)
       dk: float32[B,2,T,4] = FusedMatMul(Mul_1, q, transA=1, transB=0, alpha=0.5)
       return dq, dk, dv"
    `);
  });

  test('of rotary embedding turns back', () => {
    const g = new Graph('rotary');
    const x = g.input('x', 'float32', ['B', 'T', 8]);
    const positions = g.input('positions', 'int64', ['B', 'T']);
    const [cos, sin] = (['cos', 'sin'] as const).map((name) => g.input(name, 'float32', [16, 2])) as [Value, Value];
    expect(print(gradientGraph(g, ops.rotaryEmbedding(x, positions, cos, sin, { numHeads: 2 }), [x]))).toMatchInlineSnapshot(`
     "rotary(x: float32[B,T,8], positions: int64[B,T], cos: float32[16,2], sin: float32[16,2], dy: float32[B,T,8])
       Neg_0: float32[16,2] = Neg(sin)
       dx: float32[B,T,8] = RotaryEmbedding(dy, positions, cos, Neg_0, num_heads=2, interleaved=0)
       return dx"
    `);
  });

  test('of reshapes between [B,T,C] and [B*T,C] reads the sizes at run time where it must', () => {
    const g = new Graph('reshapes');
    const x = g.input('x', 'float32', ['B', 'T', 8]);
    const y = ops.exp(ops.reshape(x, ['B*T', 8]));
    expect(print(gradientGraph(g, y, [x]))).toMatchInlineSnapshot(`
     "reshapes(x: float32[B,T,8], dy: float32[B*T,8])
       Reshape_0: float32[B*T,8] = Reshape(x, [-1,8])
       Exp_0: float32[B*T,8] = Exp(Reshape_0)
       Mul_0: float32[B*T,8] = Mul(dy, Exp_0)
       Shape_0: int64[1] = Shape(x, start=1, end=2)
       Concat_0: int64[3] = Concat([-1], Shape_0, [8], axis=0)
       dx: float32[B,T,8] = Reshape(Mul_0, Concat_0)
       return dx"
    `);
  });

  test('of an embedding adds rows', () => {
    const g = new Graph('embedding');
    const table = g.input('table', 'float32', [50, 8]);
    expect(print(gradientGraph(g, ops.gather(table, g.input('ids', 'int64', ['B', 'T'])), [table]))).toMatchInlineSnapshot(`
     "embedding(table: float32[50,8], ids: int64[B,T], dy: float32[B,T,8])
       ConstantOfShape_0: float32[50,8] = ConstantOfShape([50,8], value=float32[1])
       Unsqueeze_0: int64[B,T,1] = Unsqueeze(ids, [2])
       dtable: float32[50,8] = ScatterND(ConstantOfShape_0, Unsqueeze_0, dy, reduction=add)
       return dtable"
    `);
  });
});

test('a large table gets its zeros at run time, where no session can fold them into a constant', async () => {
  const g = new Graph('large');
  const table = g.input('table', 'float32', [70_000, 4]);
  gradientGraph(g, ops.gather(table, g.input('ids', 'int64', ['N'])), [table]);
  expect(print(g)).toMatchInlineSnapshot(`
   "large(table: float32[70000,4], ids: int64[N], dy: float32[N,4])
     ReduceSum_0: int64[] = ReduceSum(ids, [0], keepdims=0)
     Mul_0: int64[] = Mul(ReduceSum_0, 0)
     Add_0: int64[2] = Add([70000,4], Mul_0)
     ConstantOfShape_0: float32[70000,4] = ConstantOfShape(Add_0, value=float32[1])
     Unsqueeze_0: int64[N,1] = Unsqueeze(ids, [1])
     dtable: float32[70000,4] = ScatterND(ConstantOfShape_0, Unsqueeze_0, dy, reduction=add)
     return dtable"
  `);
  const result = await evaluate(g, {
    table: { dtype: 'float32', shape: [70_000, 4], data: Array<number>(280_000).fill(1) },
    ids: { dtype: 'int64', shape: [2], data: [69_999, 69_999] },
    dy: { dtype: 'float32', shape: [2, 4], data: [1, 2, 3, 4, 10, 20, 30, 40] },
  });
  const data = result['dtable']?.data as number[];
  expect(data.slice(-4)).toEqual([11, 22, 33, 44]);
  expect(data.slice(0, -4).every((value) => value === 0)).toBe(true);
});

describe('pruning', () => {
  test('a frozen weight gets no gradient nodes, and nothing below the lowest trainable tensor runs', () => {
    const g = new Graph('frozen');
    const x = g.input('x', 'float32', ['M', 8]);
    const frozen = g.input('frozen', 'float32', [8, 8]);
    const a = g.input('a', 'float32', [2, 8]);
    const b = g.input('b', 'float32', [8, 2]);
    const h = ops.sigmoid(ops.fusedMatMul(x, frozen, { transB: true }));
    const y = ops.add(
      ops.fusedMatMul(h, frozen, { transB: true }),
      ops.fusedMatMul(ops.fusedMatMul(h, a, { transB: true }), b, { transB: true, alpha: 2 }),
    );
    const before = g.nodes.length;
    gradientGraph(g, y, [a, b]);
    expect(g.nodes.slice(before).map((node) => node.operator)).toEqual(['FusedMatMul', 'FusedMatMul', 'FusedMatMul']);
  });

  test('null where no path leads, and no nodes at all when nothing is asked for', () => {
    const g = new Graph('apart');
    const [a, b] = [g.input('a', 'float32', [2]), g.input('b', 'float32', [2])];
    const y = ops.exp(a);
    const seeds = new Map([[y, g.constant([1, 1], 'float32')]]);
    const before = g.nodes.length;
    expect(backward(g, seeds, [b])).toEqual([null]);
    expect(g.nodes.length).toBe(before);
    expect(backward(g, seeds, [])).toEqual([]);
  });

  test('integers and comparisons end a path', () => {
    const g = new Graph('integers');
    const a = g.input('a', 'float32', [4]);
    const y = ops.cast(ops.cast(ops.mul(a, 3), 'int64'), 'float32');
    expect(backward(g, new Map([[y, y]]), [a])).toEqual([null]);
  });

  test('an intermediate value may be asked for; nothing below it is built', () => {
    const g = new Graph('middle');
    const a = g.input('a', 'float32', [4]);
    const h = ops.tanh(a);
    const y = ops.exp(h);
    const before = g.nodes.length;
    backward(g, new Map([[y, g.constant([1, 1, 1, 1], 'float32')]]), [h]);
    expect(g.nodes.slice(before).map((node) => node.operator)).toEqual(['Mul']);
  });
});

describe('accumulation', () => {
  test('a value used several times gets the sum', async () => {
    await checkGradients({
      inputs: { x: ['B', 3], w: [3, 3] },
      symbols: { B: 2 },
      build: ({ x, w }) => {
        const h = ops.tanh(ops.matMul(x as Value, w as Value));
        const again = ops.matMul(ops.add(h, x as Value), w as Value);
        return [ops.mul(again, h), ops.reduceSum(h, [0])];
      },
    });
  });

  test('seeds on several values, one of them below another', async () => {
    const g = new Graph('seeds');
    const x = g.input('x', 'float32', [2]);
    const h = ops.mul(x, 3);
    const y = ops.mul(h, 5);
    const [dx] = backward(
      g,
      new Map([
        [y, g.constant([1, 1], 'float32')],
        [h, g.constant([10, 20], 'float32')],
      ]),
      [x],
    );
    g.output(dx as Value, 'dx');
    expect((await evaluate(g, { x: { dtype: 'float32', shape: [2], data: [1, 1] } }))['dx']?.data).toEqual([45, 75]);
  });

  test('a second derivative: the nodes of a gradient are ordinary nodes', async () => {
    await checkGradients({
      inputs: { x: [4] },
      build: ({ x }, graph) => {
        const y = ops.mul(ops.sigmoid(x as Value), x as Value);
        const [dx] = backward(graph, new Map([[y, ops.exp(x as Value)]]), [x as Value]);
        return dx as Value;
      },
    });
  });
});

describe('errors', () => {
  test('a missing rule names the operator and where it was built', () => {
    const g = new Graph('missing');
    const x = g.input('x', 'float32', ['M', 4]);
    const { sum } = ops.skipSimplifiedLayerNorm(x, x, g.constant([1, 1, 1, 1], 'float32'), { epsilon: 1e-5 });
    expect(() => backward(g, new Map([[sum, sum]]), [x])).toThrow(
      /SkipSimplifiedLayerNormalization: has no gradient rule \(built at test\/autodiff\/backward\.test\.ts:\d+:\d+\)/,
    );
  });

  test('but only where it is on the way', () => {
    const g = new Graph('beside');
    const x = g.input('x', 'float32', ['M', 4]);
    const y = ops.add(ops.quickGelu(ops.exp(x)), 1);
    const w = g.input('w', 'float32', [4]);
    const z = ops.mul(y, w);
    expect(backward(g, new Map([[z, z]]), [w])[0]).not.toBeNull();
  });

  test('a reduction without a rule is named', () => {
    const g = new Graph('reduction');
    const x = g.input('x', 'float32', [4]);
    const y = ops.scatterElements(x, g.constant([0], 'int64'), g.constant([2], 'float32'), 0, 'mul');
    expect(() => backward(g, new Map([[y, y]]), [x])).toThrow(/ScatterElements: has no gradient rule with reduction 'mul'/);
  });

  test('seeds have the shape of their value and belong to the graph', () => {
    const g = new Graph('seed');
    const x = g.input('x', 'float32', ['M', 4]);
    const y = ops.exp(x);
    expect(() => backward(g, new Map([[y, g.constant([1], 'float32')]]), [x])).toThrow(
      /the cotangent of 'Exp_0' is float32\[1\], not float32\[M,4\]/,
    );
    expect(() => backward(new Graph('other'), new Map([[y, y]]), [x])).toThrow(/another graph/);
  });
});

test('forward and backward segments, cut from one graph, equal the whole', async () => {
  const feeds = {
    x: { dtype: 'float32', shape: [2, 3], data: [0.1, -0.4, 0.9, 1.2, -0.7, 0.3] },
    w: { dtype: 'float32', shape: [3, 3], data: [0.5, -0.2, 0.1, 0.9, 0.4, -0.6, 0.3, 0.8, -0.5] },
    dy: { dtype: 'float32', shape: [2, 3], data: [1, -2, 0.5, 0.25, 3, -1] },
  } as const;
  const g = new Graph('whole');
  const x = g.input('x', 'float32', ['M', 3]);
  const w = g.input('w', 'float32', [3, 3]);
  const kept = g.rename(ops.fusedMatMul(x, w, { transB: true }), 'kept');
  const { y: normed } = ops.simplifiedLayerNorm(ops.tanh(kept), g.constant([1, 2, 3], 'float32'), { epsilon: 1e-5 });
  const y = g.rename(ops.add(normed, x), 'y');
  const dy = g.input('dy', 'float32', y.shape);
  const [dx, dw] = backward(g, new Map([[y, dy]]), [x, w]) as [Value, Value];
  g.rename(dx, 'dx');
  g.rename(dw, 'dw');
  const forward = extract(g, { name: 'forward', outputs: [y, kept], stopAt: [] });
  const back = extract(g, { name: 'backward', outputs: [dx, dw], stopAt: [kept] });
  expect(forward.inputs.map((value) => value.name)).toEqual(['x', 'w']);
  expect(back.inputs.map((value) => value.name)).toEqual(['x', 'w', 'dy', 'kept']);
  for (const value of [y, dx, dw]) g.output(value);
  const whole = await evaluate(g, feeds);
  const first = await evaluate(forward, feeds);
  const second = await evaluate(back, { ...feeds, kept: first['kept'] as NonNullable<(typeof first)['kept']> });
  expect(first['y']).toEqual(whole['y']);
  expect(second['dx']).toEqual(whole['dx']);
  expect(second['dw']).toEqual(whole['dw']);
});
