import { writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { Graph, ops, serialize } from '../../src/onnx/index.js';
import { CHECK_MODEL, COPY_MODEL } from '../../src/runtime/embedded-models.js';
import { Runtime, inspectRuntime, processMemory } from '../../src/runtime/index.js';
import { packagedLibraryPath } from '../../src/runtime/library.js';

const folder = mkdtempSync(join(tmpdir(), 'lorica-runtime-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** What opening with these options throws. */
function refusal(options: Parameters<typeof Runtime.open>[0]): unknown {
  try {
    void Runtime.open(options).close();
  } catch (error) {
    return error;
  }
  throw new Error('it opened');
}

describe('opening', () => {
  test('a library that is missing, or is none, is RUNTIME_UNAVAILABLE and says what to do', () => {
    const notALibrary = join(folder, 'libonnxruntime.so.1');
    writeFileSync(notALibrary, 'not a library');
    for (const libraryPath of [join(folder, 'missing.so'), notALibrary]) {
      expect(refusal({ libraryPath })).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'RUNTIME_UNAVAILABLE', hint: expect.stringContaining('1.30') });
    }
  });

  test('impossible options are refused', () => {
    for (const intraOpThreads of [0, -1, 1.5, 1e6]) expect(refusal({ intraOpThreads })).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(refusal({ device: 'tpu' as 'cpu' })).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' });
    expect(refusal({ device: 'cuda:x' as 'cpu' })).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' });
  });

  test('a CUDA device that this library or machine lacks is DEVICE_UNAVAILABLE, never the CPU', () => {
    expect(refusal({ device: 'cuda:99' })).toMatchObject({
      code: 'FAILED_PRECONDITION', reason: 'DEVICE_UNAVAILABLE', message: expect.stringContaining('cuda:99'), hint: expect.stringContaining('CUDA build'),
    });
  });

  test('again with equal options gives the same runtime, closed by its last user; other options are refused meanwhile', async () => {
    const one = Runtime.open({ intraOpThreads: 2 });
    const two = Runtime.open({ intraOpThreads: 2, libraryPath: packagedLibraryPath() });
    expect(two).toBe(one);
    expect(one.version).toMatch(/^1\.30\./);
    expect(refusal({ intraOpThreads: 1 })).toMatchObject({ reason: 'RUNTIME_UNAVAILABLE', message: expect.stringContaining('open with 2 threads, not 1 threads') });
    expect(refusal({ intraOpThreads: 2, spinning: true })).toMatchObject({ reason: 'RUNTIME_UNAVAILABLE', message: expect.stringContaining('not 2 spinning threads') });
    await one.close();
    expect(two.empty('float32', [1]).f32()).toHaveLength(1);
    await two.close();
    expect(() => two.empty('float32', [1])).toThrow('closed');
  });

  test('after closing it opens anew, with other options', async () => {
    const again = Runtime.open({ intraOpThreads: 1 });
    expect(again.threads).toBe(1);
    const graph = new Graph('again');
    graph.output(ops.sigmoid(graph.input('x', 'float32', ['N'])), 'y');
    const session = await again.loadSession(serialize(graph), { name: 'again' });
    const { y } = await session.call({ x: again.empty('float32', [3]) }, { lane: 'evaluation' });
    expect([...(y?.f32() ?? [])]).toEqual([0.5, 0.5, 0.5]);
    await again.close();
  });

  test('closing waits for what runs and loads, and disposes what was left', async () => {
    const runtime = Runtime.open({ intraOpThreads: 1 });
    const graph = new Graph('left');
    let h = graph.input('x', 'float32', [128, 128]);
    for (let i = 0; i < 50; i++) h = ops.matMul(h, h);
    graph.output(h, 'y');
    const session = await runtime.loadSession(serialize(graph), { name: 'left' });
    const running = session.call({ x: runtime.empty('float32', [128, 128]) }, { lane: 'training' });
    const loading = runtime.loadSession(serialize(graph), { name: 'late' });
    await runtime.close();
    expect((await running).y?.shape).toEqual([128, 128]);
    const late = await loading;
    expect(() => late.binding()).toThrow('closed');
    await expect(runtime.loadSession(serialize(graph), { name: 'no' })).rejects.toThrow('closed');
  });
});

test('the embedded models are the graphs that their comments state', () => {
  const copy = new Graph('copy');
  copy.output(ops.identity(copy.input('from', 'uint8', ['N'])), 'to');
  const check = new Graph('check');
  check.output(ops.matMul(check.input('x', 'float32', ['N', 16]), check.weight('weight', 'float32', [16, 16])), 'y');
  for (const [graph, embedded] of [[copy, COPY_MODEL], [check, CHECK_MODEL]] as const) {
    expect(Buffer.from(embedded).toString('base64')).toBe(Buffer.from(serialize(graph)).toString('base64'));
  }
});

test('inspection says what there is, and why a device cannot be used', async () => {
  const cpu = await inspectRuntime({ intraOpThreads: 2 });
  expect(cpu).toMatchObject({ device: 'cpu', threads: 2, libraryPath: packagedLibraryPath(), providers: expect.arrayContaining(['CPUExecutionProvider']) });
  expect(cpu.deviceProblem).toBeUndefined();
  expect(await inspectRuntime({ device: 'cuda:99' })).toMatchObject({ device: 'cuda:99', deviceProblem: expect.stringContaining('cuda:99') });
});

test('process memory: the peak is at least what is resident', () => {
  const { residentBytes, peakResidentBytes } = processMemory();
  expect(residentBytes).toBeGreaterThan(1e7);
  expect(peakResidentBytes).toBeGreaterThanOrEqual(residentBytes);
});
