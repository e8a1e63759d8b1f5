import { describe, expect, test } from '@jest/globals';
import {
  addDims,
  broadcastShapes,
  canonical,
  divideDims,
  elementCountOf,
  multiplyDims,
  subtractDims,
  type Dim,
} from '../../src/onnx/index.js';

describe('canonical dimensions', () => {
  test.each<[Dim, Dim]>([
    [7, 7],
    ['T', 'T'],
    ['T*B', 'B*T'],
    ['T * 2', '2*T'],
    ['1+T', 'T+1'],
    ['T-1', 'T-1'],
    ['-1+T', 'T-1'],
    ['B+T*B', 'B*T+B'],
    ['T-T', 0],
    ['2*3', 6],
    ['layers.0.rank', 'layers.0.rank'],
    ['T+T', '2*T'],
    ['-T', '-T'],
  ])('%s is %s', (written, dim) => {
    expect(canonical(written)).toBe(dim);
  });

  test.each(['', 'T/2', 'T**2', '2T', '*T', 1.5, NaN])('%s is refused', (written) => {
    expect(() => canonical(written)).toThrow(RangeError);
  });
});

describe('arithmetic', () => {
  test('sums and differences', () => {
    expect(addDims('P', 'T')).toBe('P+T');
    expect(addDims(2, 3)).toBe(5);
    expect(subtractDims('P+T', 'P')).toBe('T');
    expect(subtractDims('T', 'T')).toBe(0);
    expect(subtractDims(4, 'T')).toBe('-T+4');
  });

  test('products distribute', () => {
    expect(multiplyDims('T', 'B')).toBe('B*T');
    expect(multiplyDims('T+1', 'B')).toBe('B*T+B');
    expect(multiplyDims(0, 'B')).toBe(0);
    expect(elementCountOf(['B', 3, 'T', 2])).toBe('6*B*T');
    expect(elementCountOf([])).toBe(1);
  });

  test('only exact divisions succeed', () => {
    expect(divideDims('6*B*T', '2*T')).toBe('3*B');
    expect(divideDims('B*T+B', 'B')).toBe('T+1');
    expect(divideDims('T+1', 'T+1')).toBe(1);
    expect(divideDims(12, 5)).toBeUndefined();
    expect(divideDims('T', 'B')).toBeUndefined();
    expect(divideDims('B*T+B', 'T+1')).toBeUndefined();
    expect(divideDims(4, 0)).toBeUndefined();
  });

  test('broadcasting', () => {
    expect(broadcastShapes(['B', 1, 4], ['T', 1])).toEqual(['B', 'T', 4]);
    expect(broadcastShapes([], [3])).toEqual([3]);
    expect(broadcastShapes(['B'], ['T'])).toBeUndefined();
    expect(broadcastShapes(['B'], [2])).toBeUndefined();
  });
});
