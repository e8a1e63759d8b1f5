/** One case for every operator: inputs, construction, and the elements of the outputs by the operator's definition. */
import { ops, type Dim, type DType, type Graph, type Value } from '../../src/onnx/index.js';

export interface Case {
  /** Inputs: dtype, symbolic shape, run-time shape, elements. */
  readonly inputs: Readonly<Record<string, readonly [DType, readonly Dim[], readonly number[], readonly number[]]>>;
  readonly opset?: 24;
  readonly build: (v: Readonly<Record<string, Value>>, g: Graph) => Value | readonly Value[];
  /** Elements of each output; compared within 1e-6. */
  readonly expected: readonly (readonly number[])[];
}

const v = (values: Readonly<Record<string, Value>>, name = 'x'): Value => values[name] as Value;
const F = 'float32';
/** [M,3] of six numbers. */
const x: Case['inputs'] = { x: [F, ['M', 3], [2, 3], [1, -2, 3, -4, 5, -6]] };
const xy: Case['inputs'] = { ...x, y: [F, ['M', 1], [2, 1], [2, 4]] };
const unit: Case['inputs'] = { x: [F, ['M'], [3], [-1, 0, 0.5]] };
const pass: Case['inputs'] = { x: [F, ['M'], [3], [1, 2, 4]] };
const flags: Case['inputs'] = { a: ['bool', ['M', 1], [2, 1], [1, 0]], b: ['bool', [2], [2], [1, 0]] };
const square: Case['inputs'] = { x: [F, ['M', 2], [2, 2], [1, 2, 3, 4]], w: [F, [3, 2], [3, 2], [1, 0, 0, 1, 1, 1]] };
const erf = (z: number): number => {
  let [sum, term] = [z, z];
  for (let n = 1; n < 40; n++) {
    term *= (-z * z) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
};
const geluTanh = (z: number): number => 0.5 * z * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3)));
const unitOf = (f: (z: number) => number): number[] => [-1, 0, 0.5].map(f);
const norm = (row: readonly number[]): number => 1 / Math.sqrt(row.reduce((s, z) => s + z * z, 0) / row.length);
const ids: Case['inputs'] = { i: ['int64', ['N'], [2], [1, 0]] };
/** Identity weights of two inputs and two outputs, int8 blocks of 16 with scale 1/2 and zero at 128. */
const blocks = Array.from({ length: 2 * 16 }, (_, i) => (i === 0 ? 130 : i === 17 ? 132 : 128));

type Name = Exclude<keyof typeof ops, 'END' | 'isFloat'>;

export const CASES: Readonly<Record<Name, Case>> = {
  add: { inputs: xy, build: (a) => ops.add(v(a), v(a, 'y')), expected: [[3, 0, 5, 0, 9, -2]] },
  sub: { inputs: xy, build: (a) => ops.sub(10, v(a)), expected: [[9, 12, 7, 14, 5, 16]] },
  mul: { inputs: xy, build: (a) => ops.mul(v(a), v(a, 'y')), expected: [[2, -4, 6, -16, 20, -24]] },
  div: { inputs: xy, build: (a) => ops.div(v(a), v(a, 'y')), expected: [[0.5, -1, 1.5, -1, 1.25, -1.5]] },
  pow: { inputs: pass, build: (a) => ops.pow(v(a), -2), expected: [[1, 0.25, 0.0625]] },
  min: { inputs: xy, build: (a) => ops.min(v(a), v(a, 'y')), expected: [[1, -2, 2, -4, 4, -6]] },
  max: { inputs: xy, build: (a) => ops.max(v(a), v(a, 'y')), expected: [[2, 2, 3, 4, 5, 4]] },
  neg: { inputs: unit, build: (a) => ops.neg(v(a)), expected: [[1, -0, -0.5]] },
  abs: { inputs: unit, build: (a) => ops.abs(v(a)), expected: [[1, 0, 0.5]] },
  sign: { inputs: unit, build: (a) => ops.sign(v(a)), expected: [[-1, 0, 1]] },
  floor: { inputs: unit, build: (a) => ops.floor(v(a)), expected: [[-1, 0, 0]] },
  identity: { inputs: unit, build: (a) => ops.identity(v(a)), expected: [[-1, 0, 0.5]] },
  sqrt: { inputs: pass, build: (a) => ops.sqrt(v(a)), expected: [[1, Math.SQRT2, 2]] },
  reciprocal: { inputs: pass, build: (a) => ops.reciprocal(v(a)), expected: [[1, 0.5, 0.25]] },
  exp: { inputs: unit, build: (a) => ops.exp(v(a)), expected: [unitOf(Math.exp)] },
  log: { inputs: pass, build: (a) => ops.log(v(a)), expected: [[0, Math.LN2, 2 * Math.LN2]] },
  sigmoid: { inputs: unit, build: (a) => ops.sigmoid(v(a)), expected: [unitOf((z) => 1 / (1 + Math.exp(-z)))] },
  tanh: { inputs: unit, build: (a) => ops.tanh(v(a)), expected: [unitOf(Math.tanh)] },
  erf: { inputs: unit, build: (a) => ops.erf(v(a)), expected: [unitOf(erf)] },
  gelu: {
    inputs: unit,
    build: (a) => [ops.gelu(v(a)), ops.gelu(v(a), 'tanh')],
    expected: [unitOf((z) => 0.5 * z * (1 + erf(z / Math.SQRT2))), unitOf(geluTanh)],
  },
  quickGelu: { inputs: unit, build: (a) => ops.quickGelu(v(a)), expected: [unitOf((z) => z / (1 + Math.exp(-z)))] },
  equal: { inputs: x, build: (a) => ops.equal(v(a), 3), expected: [[0, 0, 1, 0, 0, 0]] },
  less: { inputs: x, build: (a) => ops.less(v(a), 1), expected: [[0, 1, 0, 1, 0, 1]] },
  lessOrEqual: { inputs: x, build: (a) => ops.lessOrEqual(v(a), 1), expected: [[1, 1, 0, 1, 0, 1]] },
  greater: { inputs: x, build: (a) => ops.greater(v(a), 1), expected: [[0, 0, 1, 0, 1, 0]] },
  greaterOrEqual: { inputs: x, build: (a) => ops.greaterOrEqual(v(a), 1), expected: [[1, 0, 1, 0, 1, 0]] },
  and: { inputs: flags, build: (a) => ops.and(v(a, 'a'), v(a, 'b')), expected: [[1, 0, 0, 0]] },
  or: { inputs: flags, build: (a) => ops.or(v(a, 'a'), v(a, 'b')), expected: [[1, 1, 1, 0]] },
  not: { inputs: flags, build: (a) => ops.not(v(a, 'a')), expected: [[0, 1]] },
  where: { inputs: { ...x, ...flags }, build: (a) => ops.where(v(a, 'a'), v(a), -1), expected: [[1, -2, 3, -1, -1, -1]] },
  cast: {
    inputs: pass,
    build: (a) => [ops.cast(v(a), 'int32'), ops.cast(v(a), 'float16')],
    expected: [
      [1, 2, 4],
      [0x3c00, 0x4000, 0x4400],
    ],
  },

  matMul: { inputs: square, build: (a) => ops.matMul(v(a), ops.transpose(v(a, 'w'), [1, 0])), expected: [[1, 2, 3, 3, 4, 7]] },
  fusedMatMul: {
    inputs: square,
    build: (a) => ops.fusedMatMul(v(a), v(a, 'w'), { transB: true, alpha: 2 }),
    expected: [[2, 4, 6, 6, 8, 14]],
  },
  gemm: {
    inputs: square,
    build: (a, g) => ops.gemm(v(a), v(a, 'w'), g.constant([1, 2, 3], F), { transB: true, beta: 10 }),
    expected: [[11, 22, 33, 13, 24, 37]],
  },

  softmax: { inputs: { x: [F, ['M', 2], [1, 2], [0, Math.log(3)]] }, build: (a) => ops.softmax(v(a)), expected: [[0.25, 0.75]] },
  logSoftmax: {
    inputs: { x: [F, ['M', 2], [1, 2], [0, Math.log(3)]] },
    build: (a) => ops.logSoftmax(v(a)),
    expected: [[Math.log(0.25), Math.log(0.75)]],
  },
  reduceSum: { inputs: x, build: (a) => [ops.reduceSum(v(a), [0]), ops.reduceSum(v(a), undefined, false)], expected: [[-3, 3, -3], [-3]] },
  reduceMean: { inputs: x, build: (a) => ops.reduceMean(v(a), [1], false), expected: [[2 / 3, -5 / 3]] },
  reduceMax: { inputs: x, build: (a) => ops.reduceMax(v(a), [-1]), expected: [[3, 5]] },
  cumSum: {
    inputs: x,
    build: (a) => [ops.cumSum(v(a), 1), ops.cumSum(v(a), 1, { exclusive: true, reverse: true })],
    expected: [
      [1, -1, 2, -4, 1, -5],
      [1, 3, 0, -1, -6, 0],
    ],
  },
  argMax: { inputs: x, build: (a) => ops.argMax(v(a), 1, false), expected: [[2, 1]] },
  topK: {
    inputs: x,
    build: (a) => {
      const { values, indices } = ops.topK(v(a), 2);
      return [values, indices, ops.topK(v(a), 1, 1, { largest: false }).indices];
    },
    expected: [
      [3, 1, 5, -4],
      [2, 0, 1, 0],
      [1, 2],
    ],
  },

  transpose: { inputs: x, build: (a) => ops.transpose(v(a), [1, 0]), expected: [[1, -4, -2, 5, 3, -6]] },
  reshape: { inputs: x, build: (a) => ops.reshape(v(a), [3, -1]), expected: [[1, -2, 3, -4, 5, -6]] },
  reshapePromised: { inputs: xy, build: (a) => ops.reshapePromised(v(a, 'y'), ['M', 1, 1]), expected: [[2, 4]] },
  expand: {
    inputs: xy,
    build: (a) => [ops.expand(v(a, 'y'), v(a)), ops.expand(v(a, 'y'), [2, 'M', 1])],
    expected: [
      [2, 2, 2, 4, 4, 4],
      [2, 4, 2, 4],
    ],
  },
  unsqueeze: { inputs: x, build: (a) => ops.unsqueeze(v(a), [0, 3]), expected: [[1, -2, 3, -4, 5, -6]] },
  squeeze: { inputs: xy, build: (a) => ops.squeeze(v(a, 'y'), [-1]), expected: [[2, 4]] },
  concat: {
    inputs: xy,
    build: (a) => [ops.concat([v(a), v(a, 'y')], 1), ops.concat([v(a, 'y'), v(a, 'y')], 0)],
    expected: [
      [1, -2, 3, 2, -4, 5, -6, 4],
      [2, 4, 2, 4],
    ],
  },
  split: {
    inputs: x,
    build: (a) => [...ops.split(v(a), [1, 2], 1), ...ops.split(v(a), 3, -1)],
    expected: [
      [1, -4],
      [-2, 3, 5, -6],
      [1, -4],
      [-2, 5],
      [3, -6],
    ],
  },
  slice: {
    inputs: x,
    build: (a) => [
      ops.slice(v(a), [1, -2], [ops.END, ops.END], [0, 1]),
      ops.slice(v(a), [2], [-ops.END], [1], [-2]),
      ops.slice(v(a), [0], ['M'], [1]),
    ],
    expected: [
      [5, -6],
      [3, 1, -6, -4],
      [1, -2, -4, 5],
    ],
  },
  pad: { inputs: x, build: (a) => ops.pad(v(a), 1, 1, 'M'), expected: [[0, 1, -2, 3, 0, 0, 0, -4, 5, -6, 0, 0]] },

  shapeOf: { inputs: x, build: (a) => ops.shapeOf(v(a)), expected: [[2, 3]] },
  dimension: { inputs: x, build: (_a, g) => [ops.dimension(g, 'M'), ops.dimension(g, 7)], expected: [[2], [7]] },
  dimensionScalar: { inputs: x, build: (_a, g) => ops.dimensionScalar(g, 'M*M+3', F), expected: [[7]] },
  dimensionVector: { inputs: x, build: (_a, g) => ops.dimensionVector(g, [1, 2, 'M', '3*M-1']), expected: [[1, 2, 2, 5]] },
  constantOfShape: {
    inputs: x,
    build: (a) => ops.constantOfShape(ops.shapeOf(v(a)), ['M', 3], 2, 'int32'),
    expected: [[2, 2, 2, 2, 2, 2]],
  },
  fill: {
    inputs: x,
    build: (_a, g) => [ops.fill(g, ['M', 2], 1.5, F), ops.fill(g, ['2*M'], 3, 'int64')],
    expected: [
      [1.5, 1.5, 1.5, 1.5],
      [3, 3, 3, 3],
    ],
  },

  gather: {
    inputs: { ...x, ...ids },
    build: (a) => [ops.gather(v(a), v(a, 'i')), ops.gather(v(a), v(a, 'i'), 1)],
    expected: [
      [-4, 5, -6, 1, -2, 3],
      [-2, 1, 5, -4],
    ],
  },
  gatherElements: {
    inputs: { ...x, i: ['int64', ['M', 1], [2, 1], [2, 0]] },
    build: (a) => ops.gatherElements(v(a), v(a, 'i'), 1),
    expected: [[3, -4]],
  },
  scatterElements: {
    inputs: { ...xy, i: ['int64', ['M', 1], [2, 1], [2, 0]] },
    build: (a) => [ops.scatterElements(v(a), v(a, 'i'), v(a, 'y'), 1), ops.scatterElements(v(a), v(a, 'i'), v(a, 'y'), 1, 'add')],
    expected: [
      [1, -2, 2, 4, 5, -6],
      [1, -2, 5, 0, 5, -6],
    ],
  },
  gatherND: {
    inputs: { ...x, i: ['int64', ['N', 2], [2, 2], [0, 2, 1, 1]] },
    build: (a) => ops.gatherND(v(a), v(a, 'i')),
    expected: [[3, 5]],
  },
  scatterND: {
    inputs: { ...x, i: ['int64', ['N', 1], [2, 1], [1, 1]], u: [F, ['N', 3], [2, 3], [1, 1, 1, 2, 2, 2]] },
    build: (a) => ops.scatterND(v(a), v(a, 'i'), v(a, 'u'), 'add'),
    expected: [[1, -2, 3, -1, 8, -3]],
  },
  range: {
    inputs: x,
    build: (_a, g) => [ops.range(g, 0, 'M'), ops.range(g, 'M', '5*M', 2), ops.range(g, 3, 0, -1, 'int32')],
    expected: [
      [0, 1],
      [2, 4, 6, 8],
      [3, 2, 1],
    ],
  },
  oneHot: {
    inputs: ids,
    build: (a) => [ops.oneHot(v(a, 'i'), 3), ops.oneHot(v(a, 'i'), 2, 'int64', { axis: 0, on: 5, off: 1 })],
    expected: [
      [0, 1, 0, 1, 0, 0],
      [1, 5, 5, 1],
    ],
  },
  trilu: {
    inputs: x,
    build: (a) => [ops.trilu(v(a)), ops.trilu(v(a), { upper: false, diagonal: -1 })],
    expected: [
      [1, -2, 3, 0, 5, -6],
      [0, 0, 0, -4, 0, 0],
    ],
  },

  simplifiedLayerNorm: {
    inputs: x,
    build: (a, g) => {
      const { y, inverseDeviation } = ops.simplifiedLayerNorm(v(a), g.constant([1, 10, 100], F), { epsilon: 0 });
      return [y, inverseDeviation];
    },
    expected: [
      [
        [1, -2, 3],
        [-4, 5, -6],
      ].flatMap((row) => row.map((z, i) => z * norm(row) * 10 ** i)),
      [
        [1, -2, 3],
        [-4, 5, -6],
      ].map(norm),
    ],
  },
  layerNorm: {
    inputs: { x: [F, ['M', 2], [1, 2], [1, 5]] },
    build: (a, g) => {
      const { y, mean, inverseDeviation } = ops.layerNorm(v(a), g.constant([1, 10], F), g.constant([0, 1], F), { epsilon: 0 });
      return [y, mean, inverseDeviation];
    },
    expected: [[-1, 11], [3], [0.5]],
  },
  skipSimplifiedLayerNorm: {
    inputs: { x: [F, ['B', 'T', 2], [1, 1, 2], [1, 2]], s: [F, ['B', 'T', 2], [1, 1, 2], [2, 2]] },
    build: (a, g) => {
      const { y, sum } = ops.skipSimplifiedLayerNorm(v(a), v(a, 's'), g.constant([1, 1], F), { epsilon: 0 });
      return [y, sum];
    },
    expected: [
      [3 * norm([3, 4]), 4 * norm([3, 4])],
      [3, 4],
    ],
  },

  rotaryEmbedding: {
    inputs: { x: [F, ['B', 'T', 4], [1, 2, 4], [1, 2, 3, 4, 1, 2, 3, 4]], p: ['int64', ['B', 'T'], [1, 2], [0, 1]] },
    build: (a, g) => {
      const [cos, sin] = [g.constant([1, 1, 0, 1], F, [2, 2]), g.constant([0, 0, 1, 0], F, [2, 2])];
      return [
        ops.rotaryEmbedding(v(a), v(a, 'p'), cos, sin, { numHeads: 1 }),
        ops.rotaryEmbedding(v(a), v(a, 'p'), cos, sin, { numHeads: 1, interleaved: true }),
      ];
    },
    expected: [
      [1, 2, 3, 4, -3, 2, 1, 4],
      [1, 2, 3, 4, -2, 1, 3, 4],
    ],
  },
  // One head of four features over a past of one token: equal scores average the values.
  groupQueryAttention: {
    inputs: {
      qkv: [F, ['B', 'T', 24], [1, 1, 24], [...Array<number>(8).fill(0), ...Array<number>(8).fill(1), 4, 4, 4, 4, 4, 4, 4, 4]],
      pk: [F, ['B', 1, 'S', 8], [1, 1, 2, 8], Array<number>(16).fill(1)],
      pv: [F, ['B', 1, 'S', 8], [1, 1, 2, 8], Array<number>(16).fill(2)],
      n: ['int32', ['B'], [1], [1]],
      total: ['int32', [], [], [2]],
    },
    build: (a) => {
      const { y, presentKey, presentValue } = ops.groupQueryAttention(
        { qkv: v(a, 'qkv'), pastKey: v(a, 'pk'), pastValue: v(a, 'pv'), seqlensK: v(a, 'n'), totalSequenceLength: v(a, 'total') },
        { numHeads: 1, kvNumHeads: 1 },
      );
      const [query, key, value] = ops.split(v(a, 'qkv'), 3, 2) as [Value, Value, Value];
      const alone = ops.groupQueryAttention(
        { query, key, value, seqlensK: ops.sub(v(a, 'n'), 1), totalSequenceLength: ops.sub(v(a, 'total'), 1) },
        { numHeads: 1, kvNumHeads: 1, scale: 1 },
      );
      return [y, presentKey, presentValue, alone.y, alone.presentKey];
    },
    expected: [
      Array<number>(8).fill(3),
      Array<number>(16).fill(1),
      [...Array<number>(8).fill(2), ...Array<number>(8).fill(4)],
      Array<number>(8).fill(4),
      Array<number>(8).fill(1),
    ],
  },
  tensorScatter: {
    inputs: {
      past: [F, ['B', 1, 'S', 2], [2, 1, 3, 2], Array<number>(12).fill(0)],
      u: [F, ['B', 1, 'T', 2], [2, 1, 1, 2], [1, 2, 3, 4]],
      at: ['int64', ['B'], [2], [2, 0]],
    },
    opset: 24,
    build: (a) => ops.tensorScatter(v(a, 'past'), v(a, 'u'), v(a, 'at')),
    expected: [[0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]],
  },
  attention: {
    inputs: {
      q: [F, ['B', 2, 'T', 2], [1, 2, 1, 2], [0, 0, 0, 0]],
      k: [F, ['B', 1, 'S', 2], [1, 1, 3, 2], [1, 1, 1, 1, 1, 1]],
      w: [F, ['B', 1, 'S', 2], [1, 1, 3, 2], [1, 2, 3, 4, 50, 60]],
      m: ['bool', ['B', 1, 'T', 'S'], [1, 1, 1, 3], [1, 1, 0]],
      n: ['int64', ['B'], [1], [3]],
    },
    opset: 24,
    build: (a) => ops.attention(v(a, 'q'), v(a, 'k'), v(a, 'w'), { mask: v(a, 'm'), nonpadKvSequenceLength: v(a, 'n') }),
    expected: [[2, 3, 2, 3]],
  },

  matMulNBits: {
    inputs: {
      x: [F, ['M', 16], [1, 16], [3, 5, ...Array<number>(14).fill(0)]],
      q: ['uint8', [2, 1, 16], [2, 1, 16], blocks],
      s: [F, [2], [2], [0.5, 0.5]],
    },
    build: (a) => ops.matMulNBits(v(a), v(a, 'q'), v(a, 's'), null, { K: 16, N: 2, bits: 8, blockSize: 16 }),
    expected: [[3, 10]],
  },
  gatherBlockQuantized: {
    inputs: { q: ['uint8', [2, 16], [2, 16], blocks], s: [F, [2, 1], [2, 1], [0.5, 0.25]], ...ids },
    build: (a, g) =>
      ops.gatherBlockQuantized(v(a, 'q'), v(a, 'i'), v(a, 's'), g.constant([128, 128], 'uint8', [2, 1]), { bits: 8, blockSize: 16 }),
    expected: [[0, 1, ...Array<number>(14).fill(0), 1, ...Array<number>(15).fill(0)]],
  },
  quantizeLinear: {
    inputs: x,
    build: (a, g) => ops.quantizeLinear(v(a), g.constant([1, 2], F), g.constant([128, 128], 'uint8'), 0),
    expected: [[129, 126, 131, 126, 130, 125]],
  },
  dequantizeLinear: {
    inputs: { x: ['int8', ['M'], [2], [3, -3]] },
    build: (a, g) => ops.dequantizeLinear(v(a), g.constant(0.5, F), g.constant(1, 'int8')),
    expected: [[1, -2]],
  },
  dynamicQuantizeLinear: {
    inputs: { x: [F, ['M'], [2], [0, 255]] },
    build: (a) => {
      const { y, scale, zeroPoint } = ops.dynamicQuantizeLinear(v(a));
      return [y, scale, zeroPoint];
    },
    expected: [[0, 255], [1], [0]],
  },
  matMulIntegerToFloat: {
    inputs: { x: ['uint8', ['M', 2], [1, 2], [130, 127]] },
    build: (a, g) =>
      ops.matMulIntegerToFloat(
        v(a),
        g.constant([1, 2, 3, 4], 'int8', [2, 2]),
        g.constant(0.5, F),
        g.constant([1, 10], F),
        g.constant(128, 'uint8'),
      ),
    expected: [[0.5 * (2 - 3), 5 * (4 - 4)]],
  },
};
