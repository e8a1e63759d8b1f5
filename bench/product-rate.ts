/**
 * What this machine's processors give ONNX Runtime: the rate of one float32 product of the training step, x [1024, 576] · Wᵀ [1536, 576].
 * Training is bound by such products, so its rate is read beside this one (docs/decisions/0008-floors-and-machines.md).
 */
import { Graph, ops, serialize } from '../src/onnx/index.js';
import { Runtime } from '../src/runtime/index.js';
import { median } from './statistics.js';

const ROWS = 1024;
const INPUTS = 576;
const OUTPUTS = 1536;
const WARM_UP_RUNS = 5;
const RUNS = 40;

/** Median rate over the runs, in 10⁹ floating-point operations a second (a multiplication and an addition count as two). */
export async function float32ProductGigaflops(): Promise<number> {
  const graph = new Graph('product');
  const x = graph.input('x', 'float32', [ROWS, INPUTS]);
  const weight = graph.input('weight', 'float32', [OUTPUTS, INPUTS]);
  graph.output(ops.fusedMatMul(x, weight, { transB: true }), 'y');
  const runtime = Runtime.open();
  try {
    const session = await runtime.loadSession(serialize(graph), { name: 'product' });
    const tensors = [runtime.empty('float32', [ROWS, INPUTS]), runtime.empty('float32', [OUTPUTS, INPUTS]), runtime.empty('float32', [ROWS, OUTPUTS])] as const;
    for (const tensor of tensors) tensor.f32().forEach((_, i, values) => (values[i] = Math.sin(i)));
    const binding = session.binding().input('x', tensors[0]).input('weight', tensors[1]).output('y', tensors[2]);
    const rates: number[] = [];
    for (let run = 0; run < WARM_UP_RUNS + RUNS; run++) {
      const from = performance.now();
      await session.run(binding, { lane: 'training' });
      if (run >= WARM_UP_RUNS) rates.push((2 * ROWS * INPUTS * OUTPUTS) / (performance.now() - from) / 1e6);
    }
    session.dispose();
    for (const tensor of tensors) tensor.dispose();
    return median(rates);
  } finally {
    await runtime.close();
  }
}
