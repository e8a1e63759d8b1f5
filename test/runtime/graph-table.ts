/**
 * Small graphs over all dtypes, dynamic and empty dimensions, scalars, several outputs and weights, with inputs that make them interesting.
 * A weight is an external initializer in our build of a case and an embedded constant in the reference's.
 */
import { Graph, ops, type Value } from '../../src/onnx/index.js';
import { DTYPES, elementCount, type DType, type TypedArray } from '../../src/tensor/dtype.js';

export interface CaseArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

/** What a case builds with: a fresh graph, its inputs and its weights. */
export class CaseBuilder {
  readonly inputs: Record<string, CaseArray> = {};
  readonly weights = new Map<string, CaseArray>();
  readonly graph: Graph;

  constructor(name: string, private readonly embedWeights: boolean) {
    this.graph = new Graph(name);
  }

  /** An input named x0, x1, … with `shape` in the graph and `data` of the concrete shape `sizes` in the run. */
  input(dtype: DType, shape: readonly (number | string)[], sizes: readonly number[], element: (i: number) => number): Value {
    const name = `x${Object.keys(this.inputs).length}`;
    this.inputs[name] = { dtype, shape: sizes, data: fill(dtype, sizes, element) };
    return this.graph.input(name, dtype, shape);
  }

  weight(dtype: DType, shape: readonly number[], element: (i: number) => number): Value {
    const data = fill(dtype, shape, element);
    if (this.embedWeights) return this.graph.constant(data, dtype, shape);
    const name = `w${this.weights.size}`;
    this.weights.set(name, { dtype, shape, data });
    return this.graph.weight(name, dtype, shape);
  }

  out(...values: Value[]): void {
    for (const value of values) this.graph.output(value, `y${this.graph.outputs.length}`);
  }
}

/** Elements by index; float16 elements are given as bit patterns. */
function fill(dtype: DType, shape: readonly number[], element: (i: number) => number): TypedArray {
  const count = elementCount(shape);
  const array = new DTYPES[dtype].array(new ArrayBuffer(count * DTYPES[dtype].bytes));
  for (let i = 0; i < count; i++) (array as Record<number, number | bigint>)[i] = array instanceof BigInt64Array || array instanceof BigUint64Array ? BigInt(element(i)) : element(i);
  return array;
}

const wave = (i: number): number => Math.sin(1 + i * 0.7);
const small = (i: number): number => (i * 7) % 5;
/** 1, 1.5, 2, 3, -2 as float16. */
const half = (i: number): number => [0x3c00, 0x3e00, 0x4000, 0x4200, 0xc000][i % 5] as number;
const bit = (i: number): number => (i * 3) % 2;

export const GRAPHS: Readonly<Record<string, (b: CaseBuilder) => void>> = {
  'float32 add, broadcast over dynamic dimensions': (b) => b.out(ops.add(b.input('float32', ['B', 'T', 4], [2, 3, 4], wave), b.input('float32', [4], [4], small))),
  'float32 product with an external weight': (b) => b.out(ops.matMul(b.input('float32', ['B', 64], [3, 64], wave), b.weight('float32', [64, 48], wave))),
  'gemm, transposed, scaled, with bias': (b) => b.out(ops.gemm(b.input('float32', ['B', 8], [5, 8], wave), b.weight('float32', [6, 8], small), b.weight('float32', [6], wave), { transB: true, alpha: 0.5, beta: 2 })),
  'fusedMatMul with a bound weight': (b) => b.out(ops.fusedMatMul(b.input('float32', ['B', 'T', 8], [2, 3, 8], wave), b.input('float32', [5, 8], [5, 8], wave), { transB: true, alpha: 0.25 })),
  'batched product': (b) => b.out(ops.matMul(b.input('float32', ['B', 2, 'T', 4], [2, 2, 3, 4], wave), b.input('float32', ['B', 2, 4, 5], [2, 2, 4, 5], wave))),
  'float64 arithmetic': (b) => {
    const x = b.input('float64', ['N'], [7], wave);
    b.out(ops.div(ops.exp(x), ops.add(ops.exp(x), b.input('float64', [], [], () => 1))));
  },
  'float16 in and out': (b) => b.out(ops.add(b.input('float16', ['N', 5], [2, 5], half), b.input('float16', [5], [5], half))),
  'float16 to float32': (b) => b.out(ops.cast(b.input('float16', ['N'], [5], half), 'float32')),
  'float32 to float16 weights': (b) => b.out(ops.mul(ops.cast(b.input('float32', ['N', 5], [3, 5], wave), 'float16'), b.weight('float16', [5], half))),
  'bool logic': (b) => {
    const [p, q] = [b.input('bool', ['N'], [9], bit), b.input('bool', ['N'], [9], (i) => Number(i > 4))];
    b.out(ops.and(p, q), ops.or(p, q), ops.not(p));
  },
  'comparisons and a choice': (b) => {
    const [x, y] = [b.input('float32', ['N'], [6], wave), b.input('float32', ['N'], [6], () => 0.3)];
    b.out(ops.where(ops.greater(x, y), x, y), ops.less(x, y), ops.equal(y, y));
  },
  'int64 arithmetic beyond 32 bits': (b) => b.out(ops.mul(b.input('int64', ['N'], [4], (i) => 2 ** 31 + i), b.input('int64', ['N'], [4], (i) => i - 2))),
  'int32 arithmetic': (b) => b.out(ops.sub(b.input('int32', ['N', 2], [3, 2], small), b.input('int32', [2], [2], (i) => i * 100))),
  'uint8 and int8 to int32': (b) => b.out(ops.cast(b.input('uint8', ['N'], [4], (i) => 250 + i), 'int32'), ops.cast(b.input('int8', ['N'], [4], (i) => i - 100), 'int32')),
  'uint16, int16, uint32 and uint64 pass through': (b) => b.out(
    ops.identity(b.input('uint16', ['N'], [3], (i) => 65_530 + i)), ops.identity(b.input('int16', ['N'], [3], (i) => i - 30_000)),
    ops.identity(b.input('uint32', ['N'], [3], (i) => 4_000_000_000 + i)), ops.identity(b.input('uint64', ['N'], [3], (i) => 2 ** 50 + i))),
  'gather of embeddings by int64 ids': (b) => b.out(ops.gather(b.weight('float32', [20, 6], wave), b.input('int64', ['B', 'T'], [2, 3], (i) => (i * 5) % 20), 0)),
  'gatherElements and scatterElements with addition': (b) => {
    const x = b.input('float32', ['N', 4], [3, 4], wave);
    const index = b.input('int64', ['N', 2], [3, 2], (i) => i % 4);
    b.out(ops.gatherElements(x, index, 1), ops.scatterElements(x, index, ops.gatherElements(x, index, 1), 1, 'add'));
  },
  'softmax and logSoftmax': (b) => {
    const x = b.input('float32', ['B', 'V'], [3, 17], (i) => 5 * wave(i));
    b.out(ops.softmax(x, -1), ops.logSoftmax(x, -1));
  },
  'reductions': (b) => {
    const x = b.input('float32', ['B', 'T', 3], [2, 4, 3], wave);
    b.out(ops.reduceSum(x, [1]), ops.reduceMean(x, [0, 2], false), ops.reduceMax(x, [2], false), ops.reduceSum(x));
  },
  'transpose and reshape to a product of dimensions': (b) => b.out(ops.reshape(ops.transpose(b.input('float32', ['B', 'T', 4], [2, 3, 4], wave), [1, 0, 2]), ['B*T', 4])),
  'concat, split and slice': (b) => {
    const x = b.input('float32', ['B', 6], [3, 6], wave);
    const [first, second] = ops.split(x, 2, 1) as [Value, Value];
    b.out(ops.concat([second, first, x], 1), ops.slice(x, [1], [5], [1], [2]));
  },
  'cumSum, topK and argMax': (b) => {
    const x = b.input('float32', ['B', 8], [2, 8], wave);
    const { values, indices } = ops.topK(x, 3);
    b.out(ops.cumSum(x, 1), values, indices, ops.argMax(x, 1));
  },
  'layer norms': (b) => {
    const x = b.input('float32', ['B', 16], [3, 16], wave);
    b.out(ops.simplifiedLayerNorm(x, b.weight('float32', [16], small), { epsilon: 1e-5 }).y, ops.layerNorm(x, b.weight('float32', [16], wave), b.weight('float32', [16], small), { epsilon: 1e-5 }).y);
  },
  'int8 block quantized product': (b) => {
    const x = b.input('float32', ['B', 64], [2, 64], wave);
    const [q, s] = [b.weight('uint8', [24, 2, 32], (i) => (i * 37) % 256), b.weight('float32', [48], (i) => 0.01 + 0.001 * (i % 7))];
    b.out(ops.matMulNBits(x, q, s, null, { K: 64, N: 24, bits: 8, blockSize: 32, accuracyLevel: 4 }));
  },
  'int4 block quantized product': (b) => {
    const x = b.input('float32', ['B', 64], [2, 64], wave);
    const [q, s] = [b.weight('uint8', [24, 2, 16], (i) => (i * 91) % 256), b.weight('float32', [48], (i) => 0.01 + 0.001 * (i % 7))];
    b.out(ops.matMulNBits(x, q, s, null, { K: 64, N: 24, bits: 4, blockSize: 32, accuracyLevel: 4 }));
  },
  'scalars': (b) => b.out(ops.add(b.input('float32', [], [], () => 1.25), b.input('float32', [], [], () => 2))),
  'no rows at all': (b) => b.out(ops.matMul(b.input('float32', ['B', 8], [0, 8], wave), b.weight('float32', [8, 8], wave))),
  'a chain of elementwise operators': (b) => {
    const x = b.input('float32', ['N'], [33], wave);
    b.out(ops.tanh(ops.sqrt(ops.abs(ops.mul(ops.sigmoid(x), ops.erf(ops.neg(x)))))), ops.pow(ops.abs(x), ops.exp(x)), ops.log(ops.reciprocal(ops.abs(x))));
  },
};
