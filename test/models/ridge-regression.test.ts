import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { cholesky, multiplyRows, NormalEquations } from '../../src/models/ridge-regression.js';
import { GOLDEN } from '../golden/smollm2.js';

interface Golden {
  readonly x: number[][];
  readonly y: number[][];
  readonly penalties: number[];
  readonly map: number[][];
}
const golden = JSON.parse(readFileSync(join(GOLDEN, 'ridge.json'), 'utf8')) as Golden;
const turn = (): undefined => undefined;

describe('ridge regression', () => {
  test('equals numpy, whatever number of rows waits to be added', async () => {
    const sums = new NormalEquations(7, 3);
    golden.x.forEach((x, row) => {
      sums.add(x, golden.y[row]!);
      // Flushes what waits; the result must not depend on it.
      if (row % 3 === 0) sums.squares(0);
    });
    expect(sums.rows).toBe(11);
    const map = await sums.solve(Float64Array.from(golden.penalties), turn);
    golden.map.flat().forEach((value, i) => expect(map[i]).toBeCloseTo(value, 12));
  });

  test('squares are sums over rows', () => {
    const sums = new NormalEquations(7, 3);
    golden.x.forEach((x, row) => sums.add(x, golden.y[row]!));
    expect(sums.squares(4)).toBeCloseTo(
      golden.x.reduce((sum, x) => sum + x[4]! ** 2, 0),
      12,
    );
  });

  test('multiplyRows: a part of the rows, in fours and the rest', () => {
    const matrix = Float64Array.from({ length: 27 }, (_, i) => i - 13);
    const x = Float64Array.from({ length: 9 }, (_, i) => (i % 3) - 0.5);
    const out = Float64Array.of(1, 2, 3);
    multiplyRows(x, matrix, 2, 9, out);
    const expected = [1, 2, 3].map((start, c) => x.slice(2).reduce((sum, value, i) => sum + value * matrix[(i + 2) * 3 + c]!, start));
    expect([...out]).toEqual(expected);
  });

  test('a matrix that is not positive definite is refused', async () => {
    await expect(cholesky(Float64Array.of(1, 0, 2, 1), 2, turn)).rejects.toThrow(/pivot 1 of 2 is -3/);
  });
});
