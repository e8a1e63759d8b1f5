import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { serialize } from '../../src/onnx/index.js';
import { Runtime, type Tensor } from '../../src/runtime/index.js';
import { DTYPES, type DType, type TypedArray } from '../../src/tensor/dtype.js';
import { runChild } from './child-process.js';
import { CaseBuilder, GRAPHS, type CaseArray } from './graph-table.js';

interface Encoded { readonly dtype: DType; readonly shape: readonly number[]; readonly data: string }

let runtime: Runtime;
let reference: Record<string, Record<string, Encoded>>;

function encode({ dtype, shape, data }: CaseArray): Encoded {
  return { dtype, shape, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64') };
}

function decode({ dtype, data }: Encoded): TypedArray {
  return new DTYPES[dtype].array(Uint8Array.from(Buffer.from(data, 'base64')).buffer);
}

function built(name: string, embedWeights: boolean): CaseBuilder {
  const builder = new CaseBuilder('case', embedWeights);
  GRAPHS[name]?.(builder);
  return builder;
}

beforeAll(async () => {
  runtime = Runtime.open({ intraOpThreads: 2 });
  const cases = Object.keys(GRAPHS).map((name) => {
    const { graph, inputs } = built(name, true);
    return { name, model: Buffer.from(serialize(graph)).toString('base64'), inputs: Object.fromEntries(Object.entries(inputs).map(([key, value]) => [key, encode(value)])) };
  });
  const folder = mkdtempSync(join(tmpdir(), 'lorica-reference-'));
  try {
    writeFileSync(join(folder, 'cases.json'), JSON.stringify(cases));
    reference = await runChild('reference-child.mjs', [join(folder, 'cases.json')]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
afterAll(() => runtime.close());

function tensorOf({ data, dtype, shape }: CaseArray): Tensor {
  return runtime.from(data, dtype, shape);
}

/** Integers, bools and float16 bit patterns are equal; floats within 1e-6 of the larger. */
function expectSame(got: Tensor, expected: Encoded): void {
  expect({ dtype: got.dtype, shape: got.shape }).toEqual({ dtype: expected.dtype, shape: expected.shape });
  const wanted = decode(expected);
  if (got.dtype !== 'float32' && got.dtype !== 'float64') {
    expect(got.data).toEqual(wanted);
    return;
  }
  expect(got.data).toHaveLength(wanted.length);
  got.data.forEach((value: number | bigint, i: number) => {
    const other = Number(wanted[i]);
    expect(Math.abs(Number(value) - other)).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(other)));
  });
}

describe('the same as onnxruntime-node', () => {
  test.each(Object.keys(GRAPHS))('%s', async (name) => {
    const { graph, inputs, weights } = built(name, false);
    const initializers = new Map([...weights].map(([key, value]) => [key, tensorOf(value)]));
    const session = await runtime.loadSession(serialize(graph), { name, initializers });
    const tensors = Object.fromEntries(Object.entries(inputs).map(([key, value]) => [key, tensorOf(value)]));
    const called = await session.call(tensors, { lane: 'evaluation' });
    expect(Object.keys(called).sort()).toEqual(Object.keys(reference[name] ?? {}).sort());
    const binding = session.binding();
    for (const [key, tensor] of Object.entries(tensors)) binding.input(key, tensor);
    const bound = Object.entries(called).map(([key, { dtype, shape }]) => [key, runtime.empty(dtype, shape)] as const);
    for (const [key, tensor] of bound) binding.output(key, tensor);
    await session.run(binding, { lane: 'training' });
    for (const [key, tensor] of [...Object.entries(called), ...bound]) expectSame(tensor, reference[name]?.[key] as Encoded);
    session.dispose();
  });
});
