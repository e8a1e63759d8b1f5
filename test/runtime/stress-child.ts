/**
 * Creates, runs and drops thousands of tensors and hundreds of sessions, with collections in between, and checks every result.
 * Prints {tensors, sessions, runs, wrong, residentBytes: one per round}. Run under --expose-gc; see stress.test.ts.
 */
import { Graph, ops, serialize } from '../../src/onnx/index.js';
import { Runtime, processMemory, type Tensor } from '../../src/runtime/index.js';

const ROUNDS = 8;
const SESSIONS_A_ROUND = 30;
const RUNS_A_SESSION = 8;

const collect = (globalThis as unknown as { gc: () => void }).gc;
const runtime = Runtime.open({ intraOpThreads: 2 });
const counts = { tensors: 0, sessions: 0, runs: 0, wrong: 0 };
const residentBytes: number[] = [];

/** y[N,32] = (x·w + x)·scale with an external weight. */
const graph = new Graph('stress');
const x = graph.input('x', 'float32', ['N', 32]);
graph.output(ops.mul(ops.add(ops.matMul(x, graph.weight('w', 'float32', [32, 32])), x), graph.input('scale', 'float32', [])), 'y');
const model = serialize(graph);

function tensor(shape: readonly number[], value: number): Tensor {
  counts.tensors++;
  const made = runtime.empty('float32', shape);
  made.f32().fill(value);
  return made;
}

/** Some tensors are disposed, some are dropped for the collector; typed arrays of every size come and go beside them. */
async function oneSession(index: number): Promise<void> {
  const weight = tensor([32, 32], 1);
  const session = await runtime.loadSession(model, { name: `stress ${index}`, initializers: new Map([['w', weight]]), ...(index % 3 === 0 ? { prepack: false } : {}) });
  counts.sessions++;
  weight.dispose();
  const binding = session.binding();
  for (let run = 0; run < RUNS_A_SESSION; run++) {
    const rows = 1 + ((index + run) % 5) * 40;
    const [input, scale, output] = [tensor([rows, 32], run), tensor([], 2), tensor([rows, 32], -1)];
    const running = session.run(binding.input('x', input).input('scale', scale).output('y', output.view([rows, 32])), { lane: run % 2 === 0 ? 'training' : 'generation' });
    const litter = Array.from({ length: 50 }, (_, i) => new Float32Array(1 + (i % 20)));
    if (run % 4 === 0) collect();
    await running;
    counts.runs++;
    if (litter.length !== 50 || output.f32().some((value) => value !== 66 * run)) counts.wrong++;
    if (run % 2 === 0) for (const used of [input, scale, output]) used.dispose();
  }
  const { y } = await session.call({ x: tensor([2, 32], 1), scale: tensor([], 1) }, { lane: 'evaluation' });
  counts.runs++;
  if (y === undefined || y.f32().some((value) => value !== 33)) counts.wrong++;
  const big = tensor([1 << 20], 1);
  if (index % 2 === 0) big.dispose();
  if (index % 2 === 0) binding.dispose();
  const last = session.call({ x: tensor([2, 32], 1), scale: tensor([], 1) }, { lane: 'evaluation' });
  session.dispose();
  await last;
  counts.runs++;
  await runtime.loadSession(model.subarray(0, 40), { name: 'broken' }).then(() => counts.wrong++, () => undefined);
}

for (let round = 0; round < ROUNDS; round++) {
  for (let i = 0; i < SESSIONS_A_ROUND; i += 3) await Promise.all([oneSession(i), oneSession(i + 1), oneSession(i + 2)]);
  collect();
  residentBytes.push(processMemory().residentBytes);
}
await runtime.close();
process.stdout.write(JSON.stringify({ ...counts, residentBytes }) + '\n');
