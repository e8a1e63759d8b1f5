/**
 * Every rule against central differences in float64 and against the real operators in float32 (check-gradients.ts says how).
 * Erf, Gelu and RotaryEmbedding have no float64 kernel on the CPU, and the normalizations keep their statistics in float32: these are
 * checked on float64 primitives. A Cast exists only in the float32 run of its case.
 */
import { describe, expect, test } from '@jest/globals';
import { RULES } from '../../src/autodiff/rules/index.js';
import { ops, type Value } from '../../src/onnx/index.js';
import { checkGradients, type GradientCase } from './check-gradients.js';

const BT = { B: 2, T: 3 } as const;
const x = ['B', 'T', 4] as const;
const unary = (op: (value: Value) => Value | readonly Value[], extra: Partial<GradientCase> = {}): GradientCase => ({
  inputs: { x },
  symbols: BT,
  build: (v) => op(v['x'] as Value),
  ...extra,
});
type Binary = (a: Value, b: Value) => Value;
const pairs = (name: string, op: Binary, extra: Partial<GradientCase> = {}): Record<string, GradientCase> => {
  const make = (a: readonly (number | string)[], b: readonly (number | string)[]): GradientCase => ({
    inputs: { a, b },
    symbols: BT,
    build: (v) => op(v['a'] as Value, v['b'] as Value),
    ...extra,
  });
  return {
    [`${name}, equal shapes`]: make(['B', 'T', 4], ['B', 'T', 4]),
    [`${name}, vector`]: make(['B', 'T', 4], [4]),
    [`${name}, scalar`]: make([], ['B', 'T']),
    [`${name}, both repeated`]: make(['B', 1, 4], ['T', 1]),
    [`${name}, leading and inner`]: make([1, 'T', 1], ['B', 'T', 4]),
  };
};
const val = (v: Readonly<Record<string, Value>>, name: string): Value => v[name] as Value;

const FLAGS = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const;

/** By rule (key of the table), then by case. */
const CASES: Readonly<Record<string, Readonly<Record<string, GradientCase>>>> = {
  Add: pairs('add', ops.add),
  Sub: pairs('sub', ops.sub),
  Mul: { ...pairs('mul', ops.mul), 'mul, a value with itself': unary((v) => ops.mul(v, v)) },
  Div: pairs('div', ops.div, { range: [0.5, 2] }),
  Pow: {
    ...pairs('pow', ops.pow, { range: [0.5, 2] }),
    'pow, square': unary((v) => ops.pow(v, 2)),
    'pow, constant': unary((v) => ops.pow(v, -1.5), { range: [0.5, 2] }),
    'pow, of a number': unary((v) => ops.pow(1.7, v)),
  },
  Max: { ...pairs('max', ops.max), 'max, with a number': unary((v) => ops.max(v, 0.1)) },
  Min: pairs('min', ops.min),
  Neg: { neg: unary(ops.neg) },
  Abs: { abs: unary(ops.abs) },
  Sign: { 'sign, where nothing flows': unary((v) => ops.mul(ops.sign(v), v)) },
  Identity: { identity: unary(ops.identity) },
  Sqrt: { sqrt: unary(ops.sqrt, { range: [0.3, 2] }) },
  Reciprocal: { reciprocal: unary(ops.reciprocal, { range: [0.5, 2] }) },
  Exp: { exp: unary(ops.exp) },
  Log: { log: unary(ops.log, { range: [0.3, 3] }) },
  Sigmoid: { sigmoid: unary(ops.sigmoid) },
  Tanh: { tanh: unary(ops.tanh) },
  Erf: { erf: unary(ops.erf) },
  Gelu: { gelu: unary((v) => ops.gelu(v)), 'gelu, tanh': unary((v) => ops.gelu(v, 'tanh')) },
  Cast: { 'cast, between floats': { ...unary((v) => ops.mul(ops.cast(ops.cast(v, 'float64'), v.dtype), v)) } },
  Where: {
    where: {
      inputs: { a: ['B', 'T'], b: ['T'] },
      symbols: BT,
      indices: { c: { shape: ['B', 1], data: [1, 0], dtype: 'bool' } },
      build: (v) => ops.where(val(v, 'c'), ops.mul(val(v, 'a'), val(v, 'a')), val(v, 'b')),
    },
  },
  MatMul: {
    'matMul, matrices': { inputs: { a: ['T', 4], b: [4, 5] }, symbols: BT, build: (v) => ops.matMul(val(v, 'a'), val(v, 'b')) },
    'matMul, batch and weight': {
      inputs: { a: ['B', 'T', 4], b: [4, 5] },
      symbols: BT,
      build: (v) => ops.matMul(val(v, 'a'), val(v, 'b')),
    },
    'matMul, two batches': {
      inputs: { a: ['B', 'T', 4], b: ['B', 4, 2] },
      symbols: BT,
      build: (v) => ops.matMul(val(v, 'a'), val(v, 'b')),
    },
    'matMul, a repeated batch': {
      inputs: { a: [3, 4], b: ['B', 1, 4, 2] },
      symbols: BT,
      build: (v) => ops.matMul(val(v, 'a'), val(v, 'b')),
    },
  },
  'com.microsoft.FusedMatMul': Object.fromEntries(
    FLAGS.flatMap(([transA, transB]) => {
      const options = { transA, transB, alpha: 0.7 };
      const name = `fusedMatMul${transA ? ' transA' : ''}${transB ? ' transB' : ''}`;
      const b = options.transB ? [5, 4] : [4, 5];
      const build: GradientCase['build'] = (v) => ops.fusedMatMul(val(v, 'a'), val(v, 'b'), options);
      return [
        [`${name}, batches`, { inputs: { a: options.transA ? ['B', 4, 3] : ['B', 3, 4], b: ['B', ...b] }, symbols: BT, build }],
        [`${name}, batch and weight`, { inputs: { a: options.transA ? ['B', 4, 3] : ['B', 3, 4], b }, symbols: BT, build }],
        [`${name}, repeated batch`, { inputs: { a: options.transA ? [1, 4, 3] : [1, 3, 4], b: ['B', ...b] }, symbols: BT, build }],
      ];
    }),
  ),
  Gemm: {
    gemm: { inputs: { a: ['T', 4], b: [4, 5], c: [5] }, symbols: BT, build: (v) => ops.gemm(val(v, 'a'), val(v, 'b'), val(v, 'c')) },
    'gemm, scaled and transposed': {
      inputs: { a: [4, 'T'], b: [5, 4], c: ['T', 1] },
      symbols: BT,
      build: (v) => ops.gemm(val(v, 'a'), val(v, 'b'), val(v, 'c'), { transA: true, transB: true, alpha: 0.5, beta: -2 }),
    },
    'gemm, without c': {
      inputs: { a: ['T', 4], b: [5, 4] },
      symbols: BT,
      build: (v) => ops.gemm(val(v, 'a'), val(v, 'b'), null, { transB: true, alpha: 3 }),
    },
  },
  Softmax: { softmax: unary((v) => ops.softmax(v)), 'softmax, inner axis': unary((v) => ops.softmax(v, 1)) },
  LogSoftmax: { logSoftmax: unary((v) => ops.logSoftmax(v)), 'logSoftmax, inner axis': unary((v) => ops.logSoftmax(v, 0)) },
  ReduceSum: {
    'reduceSum, kept': unary((v) => ops.reduceSum(v, [1])),
    'reduceSum, dropped': unary((v) => ops.reduceSum(v, [0, -1], false)),
    'reduceSum, all': unary((v) => ops.reduceSum(v, undefined, false)),
  },
  ReduceMean: {
    'reduceMean, fixed size': unary((v) => ops.reduceMean(v, [-1])),
    'reduceMean, symbolic size': unary((v) => ops.reduceMean(v, [0, 1], false)),
    'reduceMean, all': unary((v) => ops.reduceMean(v, undefined, false)),
  },
  ReduceMax: {
    'reduceMax, kept': unary((v) => ops.reduceMax(v, [2])),
    'reduceMax, dropped': unary((v) => ops.reduceMax(v, [0, 2], false)),
  },
  CumSum: Object.fromEntries(
    FLAGS.map(([exclusive, reverse]) => [
      `cumSum${exclusive ? ' exclusive' : ''}${reverse ? ' reverse' : ''}`,
      unary((v) => ops.cumSum(v, 1, { exclusive, reverse })),
    ]),
  ),
  TopK: {
    topK: unary((v) => ops.topK(v, 2).values),
    'topK, smallest along an inner axis': unary((v) => ops.topK(v, 2, 1, { largest: false }).values),
  },
  Transpose: { transpose: unary((v) => ops.transpose(v, [2, 0, 1])) },
  Reshape: {
    'reshape, joined': unary((v) => ops.mul(ops.reshape(v, ['B*T', 4]), ops.reshape(v, [-1, 4]))),
    'reshape, joined and parted': unary((v) => ops.reshape(ops.exp(ops.reshape(v, [-1, 4])), ['B', 'T', 2, 2])),
  },
  Expand: {
    expand: {
      inputs: { a: ['T', 1] },
      symbols: BT,
      indices: { like: { shape: ['B'], data: [0, 0] } },
      build: (v) => ops.expand(val(v, 'a'), ['B', 'T', 4]),
    },
  },
  Unsqueeze: { unsqueeze: unary((v) => ops.unsqueeze(v, [0, -1])) },
  Squeeze: { squeeze: { inputs: { a: ['B', 1, 4, 1] }, symbols: BT, build: (v) => ops.squeeze(val(v, 'a'), [1, -1]) } },
  Concat: {
    concat: {
      inputs: { a: ['B', 'T', 2], b: ['B', 2, 2] },
      symbols: BT,
      build: (v) => ops.concat([val(v, 'a'), val(v, 'b'), val(v, 'a')], 1),
    },
  },
  Split: {
    split: unary((v) => ops.split(v, [1, 3], 2)),
    'split, one part used': unary((v) => ops.split(v, 2, -1)[1] as Value),
    'split, symbolic sizes': {
      inputs: { a: ['B+T', 2], b: ['B'], c: ['T'] },
      symbols: { ...BT, 'B+T': 5 },
      wrt: ['a'],
      build: (v) => ops.split(val(v, 'a'), ['B', 'T'], 0),
    },
  },
  Slice: {
    'slice, two axes': unary((v) => ops.slice(v, [1, 1], [ops.END, 3], [1, 2])),
    'slice, from the end': unary((v) => ops.slice(v, [0, -2], [-1, ops.END], [1, 2])),
    'slice, strided': unary((v) => ops.slice(v, [0], [ops.END], [2], [2])),
    'slice, backwards': unary((v) => ops.slice(v, [3], [-ops.END], [2], [-1])),
    'slice, a symbolic end': {
      inputs: { a: [8, 2], b: ['T'] },
      symbols: BT,
      wrt: ['a'],
      build: (v) => ops.slice(val(v, 'a'), [1], ['T'], [0]),
    },
  },
  Pad: { pad: unary((v) => ops.pad(v, 1, 2, 'B')) },
  Gather: {
    'gather, repeated rows': {
      inputs: { a: [5, 'T'] },
      symbols: BT,
      indices: { i: { shape: ['B', 3], data: [4, 0, 4, 1, 4, 0] } },
      build: (v) => ops.gather(val(v, 'a'), val(v, 'i')),
    },
    'gather, inner axis': {
      inputs: { a: ['B', 5, 2] },
      symbols: BT,
      indices: { i: { shape: [4], data: [1, 1, 0, 3] } },
      build: (v) => ops.gather(val(v, 'a'), val(v, 'i'), 1),
    },
    'gather, one row': {
      inputs: { a: [5, 2] },
      indices: { i: { shape: [], data: [3], dtype: 'int32' } },
      build: (v) => ops.gather(val(v, 'a'), val(v, 'i')),
    },
  },
  GatherElements: {
    gatherElements: {
      inputs: { a: ['B', 4] },
      symbols: BT,
      indices: { i: { shape: ['B', 3], data: [0, 0, 3, 2, 1, 2] } },
      build: (v) => ops.gatherElements(val(v, 'a'), val(v, 'i'), 1),
    },
  },
  GatherND: {
    gatherND: {
      inputs: { a: [3, 4, 2] },
      indices: { i: { shape: ['B', 2, 2], data: [0, 1, 2, 3, 0, 1, 1, 1] } },
      symbols: BT,
      build: (v) => ops.gatherND(val(v, 'a'), val(v, 'i')),
    },
  },
  ScatterElements: {
    'scatterElements, written': {
      inputs: { a: [3, 4], u: [3, 2] },
      indices: { i: { shape: [3, 2], data: [0, 3, 1, 2, 3, 0] } },
      build: (v) => ops.scatterElements(val(v, 'a'), val(v, 'i'), val(v, 'u'), 1),
    },
    'scatterElements, added': {
      inputs: { a: [3, 4], u: [3, 2] },
      indices: { i: { shape: [3, 2], data: [0, 0, 1, 2, 3, 3] } },
      build: (v) => ops.scatterElements(val(v, 'a'), val(v, 'i'), val(v, 'u'), 1, 'add'),
    },
  },
  ScatterND: {
    'scatterND, written': {
      inputs: { a: [4, 'T'], u: ['B', 'T'] },
      symbols: BT,
      indices: { i: { shape: ['B', 1], data: [3, 0] } },
      build: (v) => ops.scatterND(val(v, 'a'), val(v, 'i'), val(v, 'u')),
    },
    'scatterND, added': {
      inputs: { a: [4, 2], u: ['B', 2] },
      symbols: BT,
      indices: { i: { shape: ['B', 1], data: [3, 3] } },
      build: (v) => ops.scatterND(val(v, 'a'), val(v, 'i'), val(v, 'u'), 'add'),
    },
  },
  Trilu: { 'trilu, upper': unary((v) => ops.trilu(v)), 'trilu, lower': unary((v) => ops.trilu(v, { upper: false, diagonal: -1 })) },
  SimplifiedLayerNormalization: {
    simplifiedLayerNorm: {
      inputs: { x, gain: [4] },
      symbols: BT,
      build: (v) => ops.simplifiedLayerNorm(val(v, 'x'), val(v, 'gain'), { epsilon: 1e-3 }).y,
    },
    'simplifiedLayerNorm, both outputs': {
      inputs: { x, gain: [4] },
      symbols: BT,
      build: (v) => {
        const { y, inverseDeviation } = ops.simplifiedLayerNorm(val(v, 'x'), val(v, 'gain'), { epsilon: 1e-3 });
        return [y, ops.cast(inverseDeviation, y.dtype)];
      },
    },
    'simplifiedLayerNorm, the deviation alone': {
      inputs: { x, gain: [4] },
      wrt: ['x'],
      symbols: BT,
      build: (v) => ops.cast(ops.simplifiedLayerNorm(val(v, 'x'), val(v, 'gain'), { epsilon: 1e-3 }).inverseDeviation, val(v, 'x').dtype),
    },
  },
  LayerNormalization: {
    layerNorm: {
      inputs: { x, gain: [4], bias: [4] },
      symbols: BT,
      build: (v) => ops.layerNorm(val(v, 'x'), val(v, 'gain'), val(v, 'bias'), { epsilon: 1e-3 }).y,
    },
    'layerNorm, without a bias': {
      inputs: { x, gain: [4] },
      symbols: BT,
      build: (v) => ops.layerNorm(val(v, 'x'), val(v, 'gain'), null, { epsilon: 1e-3 }).y,
    },
  },
  'com.microsoft.RotaryEmbedding': Object.fromEntries(
    [false, true].map((interleaved) => [
      `rotaryEmbedding${interleaved ? ' interleaved' : ''}`,
      {
        inputs: { x: ['B', 'T', 8], cos: [5, 2], sin: [5, 2] },
        symbols: BT,
        wrt: ['x'],
        indices: { p: { shape: ['B', 'T'], data: [0, 1, 2, 4, 3, 1] } },
        build: (v) => ops.rotaryEmbedding(val(v, 'x'), val(v, 'p'), val(v, 'cos'), val(v, 'sin'), { numHeads: 2, interleaved }),
      } satisfies GradientCase,
    ]),
  ),
};

test('every rule of the table has a case, and every case a rule', () => {
  expect(Object.keys(CASES).sort()).toEqual(Object.keys(RULES).sort());
});

describe.each(Object.entries(CASES))('%s', (_rule, cases) => {
  test.each(Object.entries(cases))('%s', async (_name, testCase) => {
    await checkGradients(testCase);
  });
});
