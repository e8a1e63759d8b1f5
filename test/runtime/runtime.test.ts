import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Runtime } from '../../src/runtime/index.js';
import { CHECK_MODEL } from '../../src/runtime/embedded-models.js';

let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open({ intraOpThreads: 2 });
});
afterAll(() => runtime.close());

describe('a session', () => {
  test('runs through a binding and through call', async () => {
    const weight = runtime.from(Array.from({ length: 256 }, (_, i) => (i % 17 === 0 ? 3 : 0)), 'float32', [16, 16]);
    const session = await runtime.loadSession(CHECK_MODEL, { name: 'check', initializers: new Map([['weight', weight]]) });
    expect(session.inputs).toEqual([{ name: 'x', dtype: 'float32', shape: ['N', 16] }]);
    const x = runtime.from(Array.from({ length: 32 }, (_, i) => i), 'float32', [2, 16]);
    const y = runtime.empty('float32', [2, 16]);
    const binding = session.binding().input('x', x).output('y', y);
    await session.run(binding, { lane: 'generation' });
    expect([...y.f32()]).toEqual(Array.from({ length: 32 }, (_, i) => 3 * i));
    const out = await session.call({ x }, { lane: 'training' });
    expect(out.y?.shape).toEqual([2, 16]);
    expect([...(out.y?.f32() ?? [])]).toEqual([...y.f32()]);
    session.dispose();
  });
});
