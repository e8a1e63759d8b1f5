/**
 * Every operator on the real runtime: the result is what its definition says on small numbers, and the shape and dtype that ran are
 * those that the graph had inferred, symbols included (evaluate.ts compares them).
 */
import { describe, expect, test } from '@jest/globals';
import { Graph, ops, type Value } from '../../src/onnx/index.js';
import { evaluate, type Feed } from './evaluate.js';
import { CASES } from './operator-cases.js';

test('every operator has a case', () => {
  expect(Object.keys(CASES).sort()).toEqual(
    Object.keys(ops)
      .filter((name) => name !== 'END' && name !== 'isFloat')
      .sort(),
  );
});

describe.each(Object.entries(CASES))('%s', (_name, { inputs, opset, build, expected }) => {
  test('runs as inferred', async () => {
    const g = new Graph('operator', opset === undefined ? {} : { opset });
    const values = Object.fromEntries(Object.entries(inputs).map(([name, [dtype, shape]]) => [name, g.input(name, dtype, shape)]));
    const built = build(values, g);
    const results = Array.isArray(built) ? (built as readonly Value[]) : [built as Value];
    results.forEach((value, i) => {
      g.output(value, `y${i}`);
    });
    const feeds: Record<string, Feed> = Object.fromEntries(
      Object.entries(inputs).map(([name, [dtype, , shape, data]]) => [name, { dtype, shape, data }]),
    );
    const outcome = await evaluate(g, feeds);
    expect(results.length).toBe(expected.length);
    expected.forEach((numbers, i) => {
      const actual = outcome[`y${i}`]?.data as number[];
      expect(actual.length).toBe(numbers.length);
      actual.forEach((number, k) => {
        expect(Math.abs(number - (numbers[k] as number))).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(numbers[k] as number)));
      });
    });
  });
});
