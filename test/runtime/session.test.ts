import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Graph, ops, serialize } from '../../src/onnx/index.js';
import { Runtime, type RunReport, type Session, type Tensor } from '../../src/runtime/index.js';

let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open({ intraOpThreads: 2 });
});
afterAll(() => runtime.close());

const LANE = { lane: 'generation' } as const;
const INVALID = { code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' };
const STATE = { code: 'FAILED_PRECONDITION', reason: 'RUNTIME_FAILED' };

function load(graph: Graph, initializers?: ReadonlyMap<string, Tensor>): Promise<Session> {
  return runtime.loadSession(serialize(graph), { name: graph.name, ...(initializers === undefined ? {} : { initializers }) });
}

/** sum[B,T] = a[B,T] + b[B,T]; twice[B,T] = a + a; flat[B*T]. */
async function sums(): Promise<Session> {
  const graph = new Graph('sums');
  const a = graph.input('a', 'float32', ['B', 'T']);
  const b = graph.input('b', 'float32', ['B', 'T']);
  const flat = graph.input('flat', 'float32', ['B*T']);
  graph.output(ops.add(a, b), 'sum');
  graph.output(ops.add(a, a), 'twice');
  graph.output(ops.add(flat, flat), 'flatTwice');
  return load(graph);
}

/** Seconds of work in many operators: h = h·w, `depth` times. */
async function chain(size: number, depth: number): Promise<{ session: Session; x: Tensor; y: Tensor }> {
  const graph = new Graph('chain');
  const w = graph.input('w', 'float32', [size, size]);
  let h = graph.input('x', 'float32', [size, size]);
  for (let i = 0; i < depth; i++) h = ops.matMul(h, w);
  graph.output(h, 'y');
  const identity = runtime.empty('float32', [size, size]);
  for (let i = 0; i < size; i++) identity.f32()[i * size + i] = 1;
  const session = await load(graph);
  const x = runtime.empty('float32', [size, size]);
  x.f32().fill(0.5);
  return { session, x: x, y: identity };
}

describe('a session', () => {
  test('describes its inputs and outputs', async () => {
    const session = await sums();
    expect(session.inputs).toEqual([
      { name: 'a', dtype: 'float32', shape: ['B', 'T'] }, { name: 'b', dtype: 'float32', shape: ['B', 'T'] }, { name: 'flat', dtype: 'float32', shape: ['B*T'] },
    ]);
    expect(session.outputs.map(({ name }) => name)).toEqual(['sum', 'twice', 'flatTwice']);
    session.dispose();
  });

  test('runs a binding again and again, with some of the outputs, after rebinding, and in place', async () => {
    const session = await sums();
    const a = runtime.from([1, 2], 'float32', [1, 2]);
    const b = runtime.from([10, 20], 'float32', [1, 2]);
    const sum = runtime.empty('float32', [1, 2]);
    const binding = session.binding().input('a', a).input('b', b).input('flat', runtime.empty('float32', [2])).output('sum', sum);
    await session.run(binding, LANE);
    expect([...sum.f32()]).toEqual([11, 22]);
    a.f32()[0] = 5;
    await session.run(binding, LANE);
    expect([...sum.f32()]).toEqual([15, 22]);
    const wide = runtime.from([1, 2, 3], 'float32', [3, 1]);
    binding.input('a', wide).input('b', wide).input('flat', runtime.empty('float32', [3])).output('sum', wide);
    await session.run(binding, LANE);
    expect([...wide.f32()]).toEqual([2, 4, 6]);
    session.dispose();
  });

  test('everything that disagrees is refused before native code runs, by name', async () => {
    const session = await sums();
    const bind = (a: Tensor, b: Tensor, flat: Tensor, sum?: Tensor): Promise<void> => {
      const binding = session.binding().input('a', a).input('b', b).input('flat', flat);
      if (sum !== undefined) binding.output('sum', sum);
      return session.run(binding, LANE).finally(() => binding.dispose());
    };
    const f32 = (...shape: number[]): Tensor => runtime.empty('float32', shape);
    await expect(bind(f32(2, 3), f32(2, 3), f32(6), f32(2, 3))).resolves.toBeUndefined();
    await expect(bind(runtime.empty('float64', [2, 3]), f32(2, 3), f32(6))).rejects.toMatchObject({ ...INVALID, message: 'sums.a: input is float32 [B,T], got float64 [2,3]' });
    await expect(bind(f32(6), f32(2, 3), f32(6))).rejects.toMatchObject({ ...INVALID, message: 'sums.a: input is float32 [B,T], got float32 [6]' });
    await expect(bind(f32(2, 3), f32(2, 4), f32(6))).rejects.toMatchObject({ message: 'sums.b: input is float32 [B,T], got float32 [2,4], but T is 3 here' });
    await expect(bind(f32(2, 3), f32(2, 3), f32(5))).rejects.toMatchObject({ message: 'sums.flat: input is float32 [B*T], got float32 [5], but B*T is 6 here' });
    await expect(bind(f32(2, 3), f32(2, 3), f32(6), f32(3, 2))).rejects.toMatchObject(INVALID);
    await expect(bind(f32(2, 3), f32(3, 3), f32(7))).rejects.toMatchObject({ violations: [{ field: 'sums.b' }, { field: 'sums.flat' }] });
    const partial = session.binding().input('a', f32(1, 1));
    await expect(session.run(partial, LANE)).rejects.toMatchObject({ violations: [{ field: 'sums.b' }, { field: 'sums.flat' }] });
    expect(() => partial.input('c', f32(1))).toThrow('sums.c: no such input; there are a, b, flat');
    expect(() => partial.output('a', f32(1))).toThrow('sums.a: no such output; there are sum, twice, flatTwice');
    await expect(session.call({ a: f32(1, 1) }, LANE)).rejects.toMatchObject(INVALID);
    session.dispose();
  });

  test('call gives outputs of any size, empty ones too', async () => {
    const session = await sums();
    const out = await session.call({ a: runtime.empty('float32', [0, 4]), b: runtime.empty('float32', [0, 4]), flat: runtime.empty('float32', [0]) }, LANE);
    expect(out.sum?.shape).toEqual([0, 4]);
    expect(out.flatTwice?.f32()).toHaveLength(0);
    session.dispose();
  });

  test('a binding of another session is refused', async () => {
    const [one, two] = [await sums(), await sums()];
    await expect(one.run(two.binding(), LANE)).rejects.toMatchObject(INVALID);
    one.dispose();
    two.dispose();
  });

  test('models that are none, and initializers that do not fit, are refused with a reason', async () => {
    await expect(runtime.loadSession(new Uint8Array(0), { name: 'empty' })).rejects.toMatchObject({ reason: 'GRAPH_INVALID' });
    await expect(runtime.loadSession(Uint8Array.of(1, 2, 3), { name: 'tiny' })).rejects.toMatchObject({ reason: 'GRAPH_INVALID' });
    await expect(runtime.loadSession(new Uint8Array(1000).fill(7), { name: 'noise' })).rejects.toMatchObject({ reason: 'GRAPH_INVALID' });
    const graph = new Graph('weighted');
    graph.output(ops.matMul(graph.input('x', 'float32', ['B', 4]), graph.weight('w', 'float32', [4, 4])), 'y');
    const f32 = (...shape: number[]): Map<string, Tensor> => new Map([['w', runtime.empty('float32', shape)]]);
    await expect(load(graph)).rejects.toMatchObject({ code: expect.stringMatching(/INVALID_ARGUMENT|INTERNAL/) });
    await expect(load(graph, f32(4, 5))).rejects.toThrow('weighted');
    await expect(load(graph, f32(2, 2))).rejects.toThrow('weighted');
    await expect(load(graph, new Map([['w', runtime.empty('float64', [4, 4])]]))).rejects.toThrow('weighted');
    await expect(load(graph, new Map([...f32(4, 4), ['other', runtime.empty('float32', [1])]]))).rejects.toThrow('weighted');
    const gone = runtime.empty('float32', [4, 4]);
    gone.dispose();
    await expect(load(graph, new Map([['w', gone]]))).rejects.toMatchObject(STATE);
    (await load(graph, f32(4, 4))).dispose();
  });
});

describe('disposal', () => {
  test('an initializer may be disposed after loading: the session keeps it', async () => {
    const graph = new Graph('kept');
    graph.output(ops.matMul(graph.input('x', 'float32', ['B', 2]), graph.weight('w', 'float32', [2, 2])), 'y');
    const w = runtime.from([1, 2, 3, 4], 'float32', [2, 2]);
    const session = await load(graph, new Map([['w', w]]));
    w.dispose();
    const { y } = await session.call({ x: runtime.from([1, 1], 'float32', [1, 2]) }, LANE);
    expect([...(y?.f32() ?? [])]).toEqual([4, 6]);
    expect(w.storage.alive).toBe(true);
    session.dispose();
    expect(w.storage.alive).toBe(false);
  });

  test('a bound tensor that was disposed is refused at the run', async () => {
    const session = await sums();
    const t = runtime.empty('float32', [1, 1]);
    const binding = session.binding().input('a', t).input('b', t).input('flat', runtime.empty('float32', [1])).output('sum', runtime.empty('float32', [1, 1]));
    await session.run(binding, LANE);
    t.dispose();
    await expect(session.run(binding, LANE)).rejects.toMatchObject(STATE);
    expect(() => binding.input('a', t)).toThrow('disposed');
    session.dispose();
  });

  test('session, binding and tensors disposed while a run goes on: it ends well, then they are gone', async () => {
    const { session, x, y: w } = await chain(128, 60);
    const y = runtime.empty('float32', [128, 128]);
    const result = y.view([128 * 128]);
    const binding = session.binding().input('x', x).input('w', w).output('y', y);
    const running = session.run(binding, LANE);
    expect(() => binding.input('x', w)).toThrow('a run uses this binding');
    for (const tensor of [x, w, y]) tensor.dispose();
    binding.dispose();
    session.dispose();
    expect(x.storage.alive).toBe(true);
    await running;
    expect(result.f32().every((value) => value === 0.5)).toBe(true);
    expect(x.storage.alive).toBe(false);
    await expect(session.run(binding, LANE)).rejects.toMatchObject(STATE);
    expect(() => session.binding()).toThrow('disposed');
  });
});

describe('cancelling', () => {
  test('a listener of runs that aborts the run it is told of stops no other', async () => {
    const { session, x, y: w } = await chain(8, 1);
    const abort = new AbortController();
    const stop = runtime.onRun(() => abort.abort());
    const binding = session.binding().input('x', x).input('w', w).output('y', runtime.empty('float32', [8, 8]));
    await session.run(binding, { ...LANE, signal: abort.signal }).catch(() => undefined);
    stop();
    await session.run(binding, LANE);
    binding.dispose();
    session.dispose();
  });

  test('terminates a run that goes on; the session works afterwards', async () => {
    const { session, x, y: w } = await chain(512, 400);
    const y = runtime.empty('float32', [512, 512]);
    const binding = session.binding().input('x', x).input('w', w).output('y', y);
    const abort = new AbortController();
    const reports: RunReport[] = [];
    const stop = runtime.onRun((report) => reports.push(report));
    const running = session.run(binding, { lane: 'training', signal: abort.signal });
    setTimeout(() => abort.abort(new Error('enough')), 5);
    await expect(running).rejects.toMatchObject({ code: 'CANCELLED', reason: 'CANCELLED', cause: { message: 'enough' } });
    stop();
    expect(reports).toMatchObject([{ session: 'chain', lane: 'training', failed: true }]);
    session.dispose();
    const after = await chain(64, 2);
    const out = await after.session.call({ x: after.x, w: after.y }, LANE);
    expect(out.y?.f32().every((value) => value === 0.5)).toBe(true);
    after.session.dispose();
  });

  test('does not run at all with a signal that is aborted already', async () => {
    const session = await sums();
    const reports: RunReport[] = [];
    const stop = runtime.onRun((report) => reports.push(report));
    const inputs = { a: runtime.empty('float32', [1, 1]), b: runtime.empty('float32', [1, 1]), flat: runtime.empty('float32', [1]) };
    await expect(session.call(inputs, { ...LANE, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(reports).toEqual([]);
    stop();
    session.dispose();
  });
});

describe('runs', () => {
  test('leave the event loop free', async () => {
    const { session, x, y: w } = await chain(256, 100);
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await session.call({ x, w }, LANE);
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(0);
    session.dispose();
  });

  test('of several sessions started together all come out right', async () => {
    const all = await Promise.all(Array.from({ length: 8 }, () => chain(32, 3)));
    const outs = await Promise.all(all.flatMap(({ session, x, y }, i) => [0, 1, 2].map(() => session.call({ x, w: y }, { lane: i % 2 === 0 ? 'generation' : 'training' }))));
    expect(outs.every(({ y }) => y?.f32().every((value) => value === 0.5))).toBe(true);
    for (const { session } of all) session.dispose();
  });
});

test('a profile names the operators that ran', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lorica-profile-'));
  try {
    const graph = new Graph('profiled');
    graph.output(ops.sigmoid(graph.input('x', 'float32', ['N'])), 'y');
    const session = await runtime.loadSession(serialize(graph), { name: 'profiled', profilePrefix: join(folder, 'run') });
    await session.call({ x: runtime.empty('float32', [4]) }, LANE);
    const path = session.endProfiling();
    expect(path.startsWith(join(folder, 'run'))).toBe(true);
    const events = JSON.parse(readFileSync(path, 'utf8')) as { args?: { op_name?: string } }[];
    expect(events.some((event) => event.args?.op_name === 'Sigmoid')).toBe(true);
    expect(() => session.endProfiling()).toThrow('not being profiled');
    session.dispose();
  } finally {
    rmSync(folder, { recursive: true });
  }
});
