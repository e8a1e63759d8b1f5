/** Composites with a gradient of their own. */
import { describe, expect, test } from '@jest/globals';
import { backward, customVjp } from '../../src/autodiff/index.js';
import { Graph, ops, print, type Value } from '../../src/onnx/index.js';
import { evaluate } from '../onnx/evaluate.js';
import { checkGradients } from './check-gradients.js';
import { gradientGraph } from './gradient-graph.js';

/** SiLU gate with the gradient written by hand. */
function gate(a: Value, b: Value): Value {
  let s: Value;
  let silu: Value;
  const [y] = customVjp(
    [a, b],
    () => {
      s = ops.sigmoid(a);
      silu = ops.mul(a, s);
      return [ops.mul(silu, b)];
    },
    ([d], needed) => [
      needed[0] === true ? ops.mul(ops.mul(d as Value, b), ops.add(ops.sub(silu, ops.mul(silu, s)), s)) : null,
      needed[1] === true ? ops.mul(d as Value, silu) : null,
    ],
  );
  return y as Value;
}

describe('customVjp', () => {
  test('its rule takes the place of the inner nodes', async () => {
    await checkGradients({
      inputs: { a: ['B', 3], b: ['B', 3] },
      symbols: { B: 2 },
      build: ({ a, b }) => ops.exp(gate(ops.tanh(a as Value), b as Value)),
    });
    const g = new Graph('gate');
    const [a, b] = [g.input('a', 'float32', ['M']), g.input('b', 'float32', ['M'])];
    expect(print(gradientGraph(g, gate(a, b), [b]))).toMatchInlineSnapshot(`
     "gate(a: float32[M], b: float32[M], dy: float32[M])
       Sigmoid_0: float32[M] = Sigmoid(a)
       Mul_0: float32[M] = Mul(a, Sigmoid_0)
       db: float32[M] = Mul(dy, Mul_0)
       return db"
    `);
  });

  test('a wrong rule is found by the check', async () => {
    const wrong = (x: Value): Value =>
      customVjp(
        [x],
        () => [ops.exp(x)],
        ([d]) => [d as Value],
      )[0] as Value;
    await expect(checkGradients({ inputs: { x: [3] }, build: ({ x }) => wrong(x as Value) })).rejects.toThrow(/gradient of 'x' is off/);
  });

  test('rounding inside does not cut the path', async () => {
    const g = new Graph('straight-through');
    const x = g.input('x', 'float32', [3]);
    const [y] = customVjp(
      [x],
      () => [ops.cast(ops.cast(x, 'int32'), 'float32')],
      ([d]) => [d as Value],
    );
    gradientGraph(g, ops.mul(y as Value, 2), [x]);
    const feed = { dtype: 'float32', shape: [3], data: [1.5, 2.5, 3.5] } as const;
    expect((await evaluate(g, { x: feed, dy: feed }))['dx']?.data).toEqual([3, 5, 7]);
  });

  test('an unused composite is not asked, nor one whose inputs need nothing', () => {
    const g = new Graph('unused');
    const x = g.input('x', 'float32', [3]);
    const refuse = (): never => {
      throw new Error('asked');
    };
    customVjp([x], () => [ops.exp(x)], refuse);
    const z = g.input('z', 'float32', [3]);
    const [y] = customVjp([z], () => [ops.exp(z)], refuse);
    const sum = ops.add(y as Value, x);
    expect(backward(g, new Map([[sum, sum]]), [x])[0]).not.toBeNull();
  });

  test('an outer composite hides an inner one', async () => {
    const inner = (x: Value): Value =>
      customVjp(
        [x],
        () => [ops.exp(x)],
        () => {
          throw new Error('asked');
        },
      )[0] as Value;
    await checkGradients({
      inputs: { x: [3] },
      build: ({ x }) => {
        let y: Value | undefined;
        return customVjp(
          [x as Value],
          () => [(y = inner(x as Value))],
          ([d]) => [ops.mul(d as Value, y as Value)],
        );
      },
    });
  });

  test('several outputs, one without a cotangent; an input that passes through', async () => {
    await checkGradients({
      inputs: { x: [3] },
      build: ({ x }) => {
        const [same, square] = customVjp(
          [x as Value],
          () => [x as Value, ops.mul(x as Value, x as Value), ops.exp(x as Value)],
          ([d, e, f]) => {
            if (f !== null) throw new Error('the third output has no cotangent');
            return [ops.add(d as Value, ops.mul(e as Value, ops.mul(x as Value, 2)))];
          },
        );
        return [same as Value, square as Value];
      },
    });
  });

  test('a differentiable value that is used but not listed is refused, and so is a path around the rule', () => {
    const g = new Graph('leak');
    const [x, w] = [g.input('x', 'float32', [3]), g.input('w', 'float32', [3])];
    const [y] = customVjp(
      [x],
      () => [ops.mul(x, w)],
      ([d]) => [ops.mul(d as Value, w)],
    ) as [Value];
    expect(backward(g, new Map([[y, y]]), [x])[0]).not.toBeNull();
    expect(() => backward(g, new Map([[y, y]]), [x, w])).toThrow(/'w' needs a gradient and is used inside/);
    let inside: Value | undefined;
    const [z] = customVjp(
      [x],
      () => [ops.exp((inside = ops.neg(x)))],
      ([d]) => [d as Value],
    ) as [Value];
    const around = ops.add(z, inside as Value);
    expect(() => backward(g, new Map([[around, around]]), [x])).toThrow(/something else differentiates through it/);
  });

  test('a cotangent of the wrong shape is refused', () => {
    const g = new Graph('shape');
    const x = g.input('x', 'float32', ['M', 3]);
    const [y] = customVjp(
      [x],
      () => [ops.exp(x)],
      ([d]) => [ops.reduceSum(d as Value, [0])],
    ) as [Value];
    expect(() => backward(g, new Map([[y, y]]), [x])).toThrow(/the cotangent of 'x' is float32\[1,3\], not float32\[M,3\]/);
  });
});
