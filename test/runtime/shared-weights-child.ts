/**
 * What sessions over the same weights cost in resident memory: three sessions of 24 products each, about 100 MB of weights.
 * argv: 'float32' or 'int8', then 'shared' (one container of prepacked weights) or 'alone'. Prints {weightBytes, addedBytes: one per session, y}.
 */
import { Graph, ops, serialize, type Value } from '../../src/onnx/index.js';
import { Runtime, processMemory, type Tensor } from '../../src/runtime/index.js';

const [kind, sharing] = process.argv.slice(2);
const LAYERS = 24;
const K = 512;
const N = kind === 'int8' ? 8192 : 2048;

const runtime = Runtime.open({ intraOpThreads: 2 });
const graph = new Graph('shared');
const x = graph.input('x', 'float32', ['B', K]);
const initializers = new Map<string, Tensor>();

/** Every layer has other weights, because equal ones would be packed once anyway. */
function product(layer: number): Value {
  if (kind !== 'int8') {
    const weight = runtime.empty('float32', [K, N]);
    weight.f32().fill(1 + layer);
    initializers.set(`w${layer}`, weight);
    return ops.matMul(x, graph.weight(`w${layer}`, 'float32', [K, N]));
  }
  const [quantized, scales] = [runtime.empty('uint8', [N, K / 32, 32]), runtime.empty('float32', [(N * K) / 32])];
  (quantized.data as Uint8Array).fill(129 + layer);
  scales.f32().fill(1);
  initializers.set(`q${layer}`, quantized).set(`s${layer}`, scales);
  const [q, s] = [graph.weight(`q${layer}`, 'uint8', [N, K / 32, 32]), graph.weight(`s${layer}`, 'float32', [(N * K) / 32])];
  return ops.matMulNBits(x, q, s, null, { K, N, bits: 8, blockSize: 32, accuracyLevel: 4 });
}

graph.output(Array.from({ length: LAYERS }, (_, layer) => product(layer)).reduce((a, b) => ops.add(a, b)), 'y');
const model = serialize(graph);
const container = runtime.prepackedWeights();
const [input, output] = [runtime.empty('float32', [1, K]), runtime.empty('float32', [1, N])];
input.f32().fill(1);

const addedBytes: number[] = [];
const y: number[] = [];
for (let i = 0; i < 3; i++) {
  const before = processMemory().residentBytes;
  const session = await runtime.loadSession(model, { name: 'shared', initializers, ...(sharing === 'shared' ? { prepacked: container } : {}) });
  await session.run(session.binding().input('x', input).output('y', output), { lane: 'generation' });
  y.push(output.f32()[N - 1] as number);
  addedBytes.push(processMemory().residentBytes - before);
}
container.dispose();
const weightBytes = [...initializers.values()].reduce((sum, tensor) => sum + tensor.byteLength, 0);
await runtime.close();
process.stdout.write(JSON.stringify({ weightBytes, addedBytes, y }) + '\n');
