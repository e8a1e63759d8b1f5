// The head's losses and gradients, with a vocabulary of several blocks, beside the same sums in float64.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { labelledStream, gaussian } from '../../src/common/random-streams.js';
import type { DecoderConfig } from '../../src/models/config.js';
import { headInputSegment, headLossSegment, headTableSegment, outputBlocks } from '../../src/models/training-form-head.js';
import { serialize, type Graph } from '../../src/onnx/index.js';
import { Runtime, type Tensor } from '../../src/runtime/index.js';

const [V, C, M, N] = [13_000, 12, 7, 4];
const { exp, log, sqrt, tanh, max } = Math;
const CONFIG: DecoderConfig = {
  family: 'llama', vocabSize: V, hiddenSize: C, intermediateSize: 32, layers: 1, heads: 2, kvHeads: 2, headDim: 6, maxPositionTokens: 64,
  ropeTheta: 1e4, rmsNormEpsilon: 1e-5, tieWordEmbeddings: true, attentionBias: false, mlpBias: false, eosTokenIds: [2],
};

let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open();
});
afterAll(() => runtime.close());

const drawn = (label: string, count: number, deviation: number): Float32Array => {
  const draw = gaussian(labelledStream(7, label));
  return Float32Array.from({ length: count }, () => deviation * draw());
};

/** Targets in the first, second and last block, one of them twice. */
const ROWS = [6, 0, 3, 2];
const TARGETS = [12_999, 6_160, 0, 6_160];
const WEIGHTS = [0.5, 1, 0.25, 2];
const x = drawn('x', M * C, 1);
const gain = drawn('gain', C, 1).map((one) => 1 + 0.1 * one);
const table = drawn('table', V * C, 0.7);

/** Losses [N], dh [N,C] before the norm is gone back through, dE [V,C] of Σ weights · losses. */
function reference({ logitDivisor = 1, logitSoftcap: cap }: DecoderConfig): { losses: number[]; h: Float64Array[]; dh: Float64Array[]; dTable: Float64Array } {
  const [losses, hs, dhs, dTable]: [number[], Float64Array[], Float64Array[], Float64Array] = [[], [], [], new Float64Array(V * C)];
  for (const [n, row] of ROWS.entries()) {
    const selected = x.subarray(row * C, (row + 1) * C);
    const scale = 1 / sqrt(selected.reduce((sum, one) => sum + one * one, 0) / C + CONFIG.rmsNormEpsilon);
    const h = Float64Array.from(selected, (one, c) => one * scale * gain[c]!);
    const z = new Float64Array(V);
    for (let v = 0; v < V; v++) {
      for (let c = 0; c < C; c++) z[v]! += h[c]! * table[v * C + c]!;
      z[v]! /= logitDivisor;
      if (cap !== undefined) z[v] = cap * tanh(z[v]! / cap);
    }
    let largest = -Infinity;
    for (let v = 0; v < V; v++) largest = max(largest, z[v]!);
    let sum = 0;
    for (let v = 0; v < V; v++) sum += exp(z[v]! - largest);
    losses.push(log(sum) + largest - z[TARGETS[n]!]!);
    const dh = new Float64Array(C);
    for (let v = 0; v < V; v++) {
      const slope = cap === undefined ? 1 : 1 - (z[v]! / cap) ** 2;
      const dz = ((exp(z[v]! - largest) / sum - Number(v === TARGETS[n])) * slope * WEIGHTS[n]!) / logitDivisor;
      for (let c = 0; c < C; c++) {
        dh[c]! += dz * table[v * C + c]!;
        dTable[v * C + c]! += dz * h[c]!;
      }
    }
    hs.push(h);
    dhs.push(dh);
  }
  return { losses, h: hs, dh: dhs, dTable };
}

async function run(graph: Graph, inputs: Readonly<Record<string, Tensor>>): Promise<Record<string, Float32Array>> {
  const session = await runtime.loadSession(serialize(graph), { name: graph.name });
  const binding = session.binding();
  const size = (dim: number | string): number => (typeof dim === 'number' ? dim : dim === 'M' ? M : N);
  for (const { name } of session.inputs) binding.input(name, inputs[name]!);
  const results = graph.outputs.map(({ name, shape }) => ({ name, tensor: runtime.empty('float32', shape.map(size)) }));
  for (const { name, tensor } of results) binding.output(name, tensor);
  await session.run(binding, { lane: 'training' });
  binding.dispose();
  session.dispose();
  return Object.fromEntries(results.map(({ name, tensor }) => [name, tensor.f32()]));
}

const largestDifference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let most = a.length === b.length ? 0 : Infinity;
  for (let i = 0; i < a.length; i++) most = max(most, Math.abs(a[i]! - b[i]!));
  return most;
};

test.each([['plain', {}], ['divided', { logitDivisor: 2.5 }], ['capped', { logitSoftcap: 3, logitDivisor: 0.5 }]])('losses and gradients over three blocks: %s', async (_name, part) => {
  const config = { ...CONFIG, ...part };
  const blocks = outputBlocks(V);
  expect(blocks).toHaveLength(3);
  const float = (values: ArrayLike<number>, shape: number[]): Tensor => runtime.from(values as Float32Array, 'float32', shape);
  const inputs: Record<string, Tensor> = {
    x: float(x, [M, C]), gain: float(gain, [C]), weights: float(WEIGHTS, [N]), rows: runtime.from(ROWS, 'int64', [N]), targets: runtime.from(TARGETS, 'int64', [N]),
  };
  const keep = (name: string, values: Float32Array, width: number): Tensor => (inputs[name] = float(values, [values.length / width, width]));
  blocks.forEach(({ start, size }, i) => keep(`table.${i}`, table.slice(start * C, (start + size) * C), C));
  const { losses, factor, ...differences } = await run(headLossSegment(config, V, true), inputs);
  const expected = reference(config);
  expect(largestDifference(losses!, expected.losses)).toBeLessThan(1e-5);
  expect(largestDifference((await run(headLossSegment(config, V, false), inputs))['losses']!, losses!)).toBe(0);

  keep('factor', factor!, 1);
  blocks.forEach(({ size }, i) => keep(`difference.${i}`, differences[`difference.${i}`]!, size));
  const { dx, 'gradient.norm': dGain } = await run(headInputSegment(config, V, { inputGradient: true, trainNorm: true, trainNormBias: false }, false), inputs);
  // Back through y = x · r · gain with r = 1 / √(mean x² + ε).
  const wanted = { dx: new Float64Array(N * C), dGain: new Float64Array(C) };
  ROWS.forEach((row, n) => {
    const selected = x.subarray(row * C, (row + 1) * C);
    const r = 1 / sqrt(selected.reduce((sum, one) => sum + one * one, 0) / C + CONFIG.rmsNormEpsilon);
    let product = 0;
    for (let c = 0; c < C; c++) product += expected.dh[n]![c]! * gain[c]! * selected[c]!;
    for (let c = 0; c < C; c++) {
      wanted.dx[n * C + c] = r * expected.dh[n]![c]! * gain[c]! - (r ** 3 * product * selected[c]!) / C;
      wanted.dGain[c]! += expected.dh[n]![c]! * selected[c]! * r;
    }
  });
  expect(largestDifference(dx!, wanted.dx)).toBeLessThan(2e-5);
  expect(largestDifference(dGain!, wanted.dGain)).toBeLessThan(2e-5);

  const written = await run(headTableSegment(config, V, false), inputs);
  blocks.forEach((_, i) => keep(`sum.head.${i}`, written[`gradient.head.${i}`]!, C));
  const added = await run(headTableSegment(config, V, true), inputs);
  for (const [i, { start, size }] of blocks.entries()) {
    const wantedBlock = expected.dTable.subarray(start * C, (start + size) * C);
    expect(largestDifference(written[`gradient.head.${i}`]!, wantedBlock)).toBeLessThan(1e-5);
    expect(largestDifference(added[`gradient.head.${i}`]!, wantedBlock.map((one) => 2 * one))).toBeLessThan(2e-5);
  }
  for (const tensor of Object.values(inputs)) tensor.dispose();
});
