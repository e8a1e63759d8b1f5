/** The wire format, by loading what is written into the real runtime; and extraction, by running the parts. */
import { describe, expect, test } from '@jest/globals';
import { extract, Graph, ops, print, serialize, type DType, type Value } from '../../src/onnx/index.js';
import { evaluate, load, runtime, tensor, type Feed } from './evaluate.js';

const f32 = (shape: readonly number[], data: readonly number[]): Feed => ({ dtype: 'float32', shape, data });

describe('serialize', () => {
  test('names, dtypes and symbolic shapes of inputs and outputs arrive', async () => {
    const g = new Graph('signature');
    const x = g.input('x', 'float32', ['B', 'T', 4]);
    const ids = g.input('ids', 'int64', ['T*B']);
    g.output(ops.mul(x, 2), 'y');
    g.output(ops.add(ids, 1), 'next');
    const session = await runtime.loadSession(serialize(g), { name: 'signature' });
    expect(session.inputs).toEqual([
      { name: 'x', dtype: 'float32', shape: ['B', 'T', 4] },
      { name: 'ids', dtype: 'int64', shape: ['B*T'] },
    ]);
    expect(session.outputs).toEqual([
      { name: 'y', dtype: 'float32', shape: ['B', 'T', 4] },
      { name: 'next', dtype: 'int64', shape: ['B*T'] },
    ]);
    session.dispose();
  });

  test.each([21, 24] as const)('opset %i loads', async (opset) => {
    const g = new Graph('opset', { opset });
    const x = g.input('x', 'float32', ['M', 4]);
    g.output(
      ops.simplifiedLayerNorm(
        ops.fusedMatMul(x, g.constant([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], 'float32', [4, 4]), { transB: true }),
        g.constant([1, 1, 1, 1], 'float32'),
        { epsilon: 0 },
      ).y,
      'y',
    );
    expect((await evaluate(g, { x: f32([1, 4], [2, -2, 2, -2]) }))['y']?.data).toEqual([1, -1, 1, -1]);
  });

  test('weights of any size come from the runtime by name; unused ones are not asked for', async () => {
    const g = new Graph('weights');
    const x = g.input('x', 'float32', ['M', 2]);
    const small = g.weight('layer.0/bias', 'float32', [2]);
    const large = g.weight('layer.0/weight', 'float32', [400, 2]);
    g.weight('unused', 'float32', [3]);
    g.output(ops.fusedMatMul(ops.add(x, small), large, { transB: true }), 'y');
    const data = Array.from({ length: 800 }, (_, i) => i / 8);
    const weights = { 'layer.0/bias': f32([2], [1, 10]), 'layer.0/weight': f32([400, 2], data) };
    const result = await evaluate(g, { x: f32([1, 2], [0.5, 0.25]) }, { weights });
    expect(result['y']?.data).toEqual(
      Array.from({ length: 400 }, (_, i) => 1.5 * (data[2 * i] as number) + 10.25 * (data[2 * i + 1] as number)),
    );
    await expect(load(g, { weights: { 'layer.0/bias': f32([2], [1, 10]) } })).rejects.toThrow();
  });

  test.each<[DType, readonly number[], readonly number[]]>([
    ['float32', [1.5, -2], [1.5, -2]],
    ['float64', [1e300, 0.1], [1e300, 0.1]],
    ['float16', [1.5, -2], [0x3e00, 0xc000]],
    ['bfloat16', [1.5, -2], [0x3fc0, 0xc000]],
    ['int8', [-128, 127], [-128, 127]],
    ['uint8', [0, 255], [0, 255]],
    ['int16', [-5, 5], [-5, 5]],
    ['uint16', [0, 65535], [0, 65535]],
    ['int32', [-7, 7], [-7, 7]],
    ['uint32', [0, 4294967295], [0, 4294967295]],
    ['int64', [-9007199254740991, 3], [-9007199254740991, 3]],
    ['uint64', [0, 3], [0, 3]],
    ['bool', [1, 0], [1, 0]],
  ])('a constant of %s', async (dtype, data, stored) => {
    const g = new Graph('constant');
    g.output(g.constant(data, dtype), 'y');
    expect(await evaluate(g)).toEqual({ y: { dtype, shape: [2], data: stored } });
  });

  test('dead nodes and their constants are not written', () => {
    const g = new Graph('dead');
    const x = g.input('x', 'float32', [2]);
    g.output(ops.neg(x), 'y');
    const before = serialize(g).byteLength;
    ops.matMul(ops.reshape(x, [1, 2]), g.constant([1, 2, 3, 4], 'float32', [2, 2]));
    expect(serialize(g).byteLength).toBe(before);
    expect(() => serialize(new Graph('empty'))).toThrow(/graph 'empty' has no outputs/);
  });
});

describe('extract', () => {
  function chain(): { g: Graph; h: Value; parts: readonly [Value, Value]; y: Value } {
    const g = new Graph('chain');
    const x = g.input('x', 'float32', ['M', 4]);
    const w = g.weight('w', 'float32', [4]);
    const h = g.rename(ops.mul(x, w), 'h');
    const [a, b] = ops.split(ops.mul(h, 2), 2, 1) as [Value, Value];
    g.rename(a, 'a');
    g.rename(b, 'b');
    const y = g.rename(ops.add(ops.sub(a, b), g.input('z', 'float32', ['M', 1])), 'y');
    return { g, h, parts: [a, b], y };
  }
  const feeds = { x: f32([1, 4], [1, 2, 3, 4]), z: f32([1, 1], [100]), h: f32([1, 4], [10, 20, 30, 40]), a: f32([1, 2], [7, 8]) };
  const weights = { w: f32([4], [1, 10, 100, 1000]) };

  test('what is given is not computed; weights and inputs come along as needed', async () => {
    const { g, h, y } = chain();
    const part = extract(g, { name: 'part', outputs: [y], stopAt: [h] });
    expect(print(part)).toMatchInlineSnapshot(`
     "part(z: float32[M,1], h: float32[M,4])
       Mul_1: float32[M,4] = Mul(h, 2)
       a: float32[M,2], b: float32[M,2] = Split(Mul_1, [2,2], axis=1)
       Sub_0: float32[M,2] = Sub(a, b)
       y: float32[M,2] = Add(Sub_0, z)
       return y"
    `);
    expect((await evaluate(part, feeds))['y']?.data).toEqual([100 - 40, 100 - 40]);
    const whole = extract(g, { name: 'whole', outputs: [y, h], stopAt: [] });
    expect(whole.weights.map((value) => value.name)).toEqual(['w']);
    expect((await evaluate(whole, feeds, { weights }))['h']?.data).toEqual([1, 20, 300, 4000]);
  });

  test('a node that runs again while one of its outputs is given keeps out of its way', async () => {
    const { g, parts, y } = chain();
    const part = extract(g, { name: 'part', outputs: [y], stopAt: [parts[0]] });
    expect(print(part)).toMatchInlineSnapshot(`
     "part(x: float32[M,4], z: float32[M,1], a: float32[M,2])
       weight w: float32[4]
       h: float32[M,4] = Mul(x, w)
       Mul_1: float32[M,4] = Mul(h, 2)
       a.again: float32[M,2], b: float32[M,2] = Split(Mul_1, [2,2], axis=1)
       Sub_0: float32[M,2] = Sub(a, b)
       y: float32[M,2] = Add(Sub_0, z)
       return y"
    `);
    expect((await evaluate(part, feeds, { weights }))['y']?.data).toEqual([7 - 600 + 100, 8 - 8000 + 100]);
  });

  test('a given value that is an output leaves under another name; a given value nobody needs is dropped', async () => {
    const { g, h, parts } = chain();
    const part = extract(g, { name: 'part', outputs: [h], stopAt: [h, parts[1]] });
    expect(part.inputs.map((value) => value.name)).toEqual(['h']);
    expect((await evaluate(part, feeds))['h.out']?.data).toEqual([10, 20, 30, 40]);
  });

  test('a size that is read off a tensor brings that tensor along', async () => {
    const g = new Graph('sizes');
    g.input('ids', 'int64', ['B', 'T']);
    const x = g.input('x', 'float32', ['B*T', 2]);
    const y = ops.reshape(ops.neg(x), ['B', 'T', 2]);
    const part = extract(g, { name: 'part', outputs: [y], stopAt: [] });
    expect(part.inputs.map((value) => value.name)).toEqual(['ids', 'x']);
    const result = await evaluate(part, { ids: { dtype: 'int64', shape: [1, 2], data: [0, 0] }, x: f32([2, 2], [1, 2, 3, 4]) });
    expect(result[part.outputs[0]?.name as string]).toEqual({ dtype: 'float32', shape: [1, 2, 2], data: [-1, -2, -3, -4] });
  });
});

test('tensor() makes what it is told', () => {
  expect(tensor({ dtype: 'int64', shape: [2], data: [1, -1] }).data).toEqual(BigInt64Array.of(1n, -1n));
});
