/**
 * What sessions over the same weights cost in resident memory: three sessions with one product each, about 100 MB of weights.
 * argv: 'float32' or 'int8', then 'shared' (one container of prepacked weights) or 'alone'. Prints {weightBytes, addedBytes: one per session, y}.
 */
import { Graph, ops, serialize } from '../../src/onnx/index.js';
import { Runtime, processMemory, type Tensor } from '../../src/runtime/index.js';

const [kind, sharing] = process.argv.slice(2);
const runtime = Runtime.open({ intraOpThreads: 2 });
const [K, N] = [2048, kind === 'int8' ? 44_032 : 12_288];

const graph = new Graph('shared');
const x = graph.input('x', 'float32', ['B', K]);
const initializers = new Map<string, Tensor>();
if (kind === 'int8') {
  initializers.set('q', runtime.empty('uint8', [N, K / 32, 32])).set('s', runtime.empty('float32', [(N * K) / 32]));
  initializers.get('q')?.data.fill(129 as never);
  initializers.get('s')?.f32().fill(1);
  graph.output(ops.matMulNBits(x, graph.weight('q', 'uint8', [N, K / 32, 32]), graph.weight('s', 'float32', [(N * K) / 32]), null, { K, N, bits: 8, blockSize: 32, accuracyLevel: 4 }), 'y');
} else {
  initializers.set('w', runtime.empty('float32', [K, N]));
  initializers.get('w')?.f32().fill(1);
  graph.output(ops.matMul(x, graph.weight('w', 'float32', [K, N])), 'y');
}
const model = serialize(graph);
const container = runtime.prepackedWeights();
const input = runtime.empty('float32', [1, K]);
input.f32().fill(1);
const output = runtime.empty('float32', [1, N]);
output.f32().fill(0);

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
