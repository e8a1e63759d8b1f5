import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { AdapterContent } from '../../src/adapters/index.js';
import type { LoricaError } from '../../src/common/errors.js';
import { Engine } from '../../src/engine/index.js';
import type { EngineOptions, GenerateRequest, GenerationEvent, ResolvedTarget, Sampling } from '../../src/engine/index.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime } from '../../src/runtime/index.js';
import { logSoftmax, oneShotLogits, openTiny, randomLora, serve } from './support.js';

let runtime: Runtime;
let checkpoint: Checkpoint;
const contents = new Map<string, AdapterContent>();
const loads: string[] = [];

beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openTiny();
  for (const [seed, rank] of [[1, 4], [2, 8], [3, 4]] as const) contents.set(`a${seed}`, randomLora(checkpoint, seed, rank));
  contents.set('attention', randomLora(checkpoint, 9, 4, (module) => module.includes('q_proj') || module.includes('v_proj')));
});
afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
});

function target(adapter?: string): ResolvedTarget {
  const base = { modelId: checkpoint.id, modelDigest: checkpoint.digest };
  if (adapter === undefined) return base;
  const content = contents.get(adapter)!;
  return { ...base, adapter: { name: `tenants/t/adapters/${adapter}`, tenant: 't', digest: content.digest, load: () => { loads.push(adapter); return Promise.resolve(content); } } };
}

async function withEngine<T>(options: EngineOptions, use: (engine: Engine, metrics: ReturnType<typeof createMetrics>) => Promise<T>): Promise<T> {
  const metrics = createMetrics();
  const engine = new Engine({ runtime, metrics, models: { checkpoint: () => Promise.resolve(checkpoint) }, options: { maxContextTokens: 96, servingForm: 'float32', ...options } });
  try {
    return await use(engine, metrics);
  } finally {
    await engine.stop({ graceMs: 0 });
  }
}

const PROMPTS = [[5, 17, 80, 33], [99, 4, 4, 120, 61, 7, 8], [12], [50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60], [101, 22], [9, 8, 7]];
const greedy = (maxTokens: number, more: Partial<Sampling> = {}): Sampling => ({ maxTokens, ...more });

function request(promptTokens: readonly number[], sampling: Sampling, adapter?: string, more: Partial<GenerateRequest> = {}): GenerateRequest {
  return { tenant: 't', target: target(adapter), promptTokens, sampling, ...more };
}

interface Collected { ids: number[]; text: string; end: Extract<GenerationEvent, { kind: 'end' }>; logProbabilities: number[] }

async function collect(events: AsyncIterable<GenerationEvent>): Promise<Collected> {
  const ids: number[] = [];
  const logProbabilities: number[] = [];
  let text = '';
  for await (const event of events) {
    text += event.text;
    if (event.kind === 'end') return { ids, text, end: event, logProbabilities };
    ids.push(event.id);
    if (event.logProbability !== undefined) logProbabilities.push(event.logProbability);
  }
  throw new Error('no end event');
}

/** Greedy continuation by whole passes from an empty past, the plainest way there is. */
async function naiveGreedy(promptTokens: readonly number[], count: number): Promise<{ ids: number[]; logProbabilities: number[] }> {
  const model = await serve(runtime, checkpoint, 'float32', 96);
  const ids: number[] = [];
  const logProbabilities: number[] = [];
  for (let i = 0; i < count; i++) {
    const all = await oneShotLogits(model, [...promptTokens, ...ids]);
    const last = all.subarray(all.length - checkpoint.config.vocabSize);
    const best = last.indexOf(last.reduce((a, b) => Math.max(a, b)));
    if (checkpoint.config.eosTokenIds.includes(best)) break;
    ids.push(best);
    logProbabilities.push(logSoftmax(last)[best]!);
  }
  model.dispose();
  return { ids, logProbabilities };
}

describe('generation', () => {
  test('prompt in pieces, then token by token, equals whole passes', async () => {
    const expected = await naiveGreedy(PROMPTS[3]!, 12);
    for (const prefillChunkTokens of [1, 3, 4, 64]) {
      await withEngine({ prefillChunkTokens }, async (engine) => {
        const got = await collect(engine.generate(request(PROMPTS[3]!, greedy(12, { logProbabilities: true }))));
        expect(got.ids).toEqual(expected.ids);
        got.logProbabilities.forEach((p, i) => expect(Math.abs(p - expected.logProbabilities[i]!)).toBeLessThan(1e-5));
        expect(got.end).toMatchObject({ finishReason: 'length', usage: { promptTokens: 11, generatedTokens: 12 } });
        expect(got.text).toBe(checkpoint.tokenizer.decode(expected.ids, { skipSpecialTokens: true }));
      });
    }
  });

  test('a batch of rows on different adapters and the base equals each alone', async () => {
    await withEngine({ maxSequences: 6 }, async (engine) => {
      const plan = [undefined, 'a1', 'a2', 'attention', 'a3', undefined].map((adapter, i) => request(PROMPTS[i]!, greedy(4 + 3 * i, { logProbabilities: true }), adapter));
      const alone: Collected[] = [];
      for (const one of plan) alone.push(await collect(engine.generate(one)));
      const together = await Promise.all(plan.map((one) => collect(engine.generate(one))));
      together.forEach((got, i) => {
        expect(got.ids).toEqual(alone[i]!.ids);
        got.logProbabilities.forEach((p, k) => expect(Math.abs(p - alone[i]!.logProbabilities[k]!)).toBeLessThan(1e-4));
      });
      const onBase = await collect(engine.generate(request(PROMPTS[1]!, greedy(7))));
      expect(onBase.ids).not.toEqual(alone[1]!.ids);
    });
  });

  test('the same with int8 weights, rows joining and leaving all the time, more requests than rows', async () => {
    await withEngine({ servingForm: 'int8', maxSequences: 3, prefillChunkTokens: 4 }, async (engine, metrics) => {
      const plan = Array.from({ length: 14 }, (_, i) =>
        request(PROMPTS[i % 6]!, greedy(1 + ((i * 5) % 11)), [undefined, 'a1', 'a2', 'a3'][i % 4], { tenant: `t${i % 3}` }));
      const alone: number[][] = [];
      for (const one of plan) alone.push((await collect(engine.generate(one))).ids);
      const together = await Promise.all(plan.map((one) => collect(engine.generate(one))));
      expect(together.map((got) => got.ids)).toEqual(alone);
      expect(engine.residency().adapters.every((a) => a.runningSequences === 0)).toBe(true);
      const text = await metrics.registry.metrics();
      expect(text).toMatch(/lorica_running_sequences 0/);
      expect(text).toMatch(/lorica_adapters_resident 3/);
    });
  });

  test('one adapter for all rows (the shared form) equals the row by row form', async () => {
    await withEngine({ maxSequences: 3 }, async (engine) => {
      const shared = await Promise.all([0, 1, 3].map((i) => collect(engine.generate(request(PROMPTS[i]!, greedy(8), 'a2')))));
      const mixed = await Promise.all([[0, 'a2'], [1, 'a2'], [3, undefined]].map(([i, adapter]) =>
        collect(engine.generate(request(PROMPTS[i as number]!, greedy(8), adapter as string | undefined)))));
      expect(mixed.slice(0, 2).map((got) => got.ids)).toEqual(shared.slice(0, 2).map((got) => got.ids));
    });
  });

  test('sampling depends on the seed alone, not on batch mates', async () => {
    await withEngine({}, async (engine) => {
      const sampled = (seed: number): GenerateRequest => request(PROMPTS[0]!, { maxTokens: 20, temperature: 1.2, topK: 40, topP: 0.95, seed });
      const first = await collect(engine.generate(sampled(5)));
      const [again, other] = await Promise.all([collect(engine.generate(sampled(5))), collect(engine.generate(sampled(6))),
        collect(engine.generate(request(PROMPTS[1]!, greedy(20), 'a1')))]);
      expect(again.ids).toEqual(first.ids);
      expect(other.ids).not.toEqual(first.ids);
    });
  });

  test('a stop string across tokens ends the text before it', async () => {
    await withEngine({}, async (engine) => {
      const { text } = await collect(engine.generate(request(PROMPTS[0]!, greedy(30))));
      const stop = text.slice(10, 15);
      const at = text.indexOf(stop);
      const stopped = await collect(engine.generate(request(PROMPTS[0]!, greedy(30, { stop: ['never there', stop] }))));
      expect(stopped.text).toBe(text.slice(0, at));
      expect(stopped.end.finishReason).toBe('stop');
    });
  });

  test('the context limit ends with length; a prompt that fills it is refused up front', async () => {
    await withEngine({ maxContextTokens: 16 }, async (engine) => {
      const long = Array.from({ length: 15 }, (_, i) => 20 + i);
      expect((await collect(engine.generate(request(long.slice(0, 10), greedy(1000))))).end).toMatchObject({ finishReason: 'length', usage: { generatedTokens: 6 } });
      expect((await collect(engine.generate(request(long, greedy(1000))))).ids).toHaveLength(1);
      await expect(collect(engine.generate(request([...long, 3], greedy(5))))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'CONTEXT_LENGTH_EXCEEDED' });
    });
  });

  test('everything wrong with a request is reported at once', async () => {
    await withEngine({}, async (engine) => {
      const bad = collect(engine.generate(request([1, 999], { maxTokens: 0, temperature: -1, topP: 0, topK: -2, stop: [''], seed: 1.5 })));
      await expect(bad).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      await bad.catch((error: unknown) => {
        expect((error as LoricaError).violations.map((v) => v.field)).toEqual(['prompt', ...['max_tokens', 'temperature', 'top_p', 'top_k', 'seed', 'stop'].map((f) => `sampling.${f}`)]);
      });
    });
  });

  test('an abort frees the row: cancelled while it runs, while it waits, before it begins', async () => {
    await withEngine({ maxSequences: 1 }, async (engine) => {
      const [running, waiting] = [new AbortController(), new AbortController()];
      const first = engine.generate(request(PROMPTS[0]!, greedy(80), undefined, { signal: running.signal }));
      expect((await first.next()).value).toMatchObject({ kind: 'token' });
      const second = collect(engine.generate(request(PROMPTS[1]!, greedy(5), undefined, { signal: waiting.signal })));
      const third = collect(engine.generate(request(PROMPTS[2]!, greedy(5))));
      await new Promise((resolve) => setImmediate(resolve));
      waiting.abort();
      expect((await second).end).toMatchObject({ finishReason: 'cancelled', usage: { generatedTokens: 0 } });
      running.abort();
      expect((await collect(first)).end.finishReason).toBe('cancelled');
      expect((await third).ids.length).toBeGreaterThan(0);
      const early = await collect(engine.generate(request(PROMPTS[1]!, greedy(5), undefined, { signal: AbortSignal.abort() })));
      expect(early.end.finishReason).toBe('cancelled');
    });
  });

  test('a consumer that leaves frees the row', async () => {
    await withEngine({ maxSequences: 1 }, async (engine) => {
      for await (const event of engine.generate(request(PROMPTS[0]!, greedy(90)))) if (event.kind === 'token') break;
      const next = await collect(engine.generate(request(PROMPTS[1]!, greedy(3))));
      expect(next.ids).toHaveLength(3);
      expect(engine.residency().models[0]!.runningSequences).toBe(0);
    });
  });

  test('too many waiting requests are refused with a time to come back', async () => {
    await withEngine({ maxSequences: 1, maxWaiting: 2 }, async (engine) => {
      const all = await Promise.allSettled(PROMPTS.slice(0, 5).map((prompt) => collect(engine.generate(request(prompt, greedy(6))))));
      const refused = all.filter((r): r is PromiseRejectedResult => r.status === 'rejected');
      expect(refused).toHaveLength(2);
      expect(refused[0]!.reason).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'OVERLOADED' });
      expect(refused[0]!.reason.retryAfterMs).toBeGreaterThan(0);
    });
  });

  test('tenants take turns: a burst of one does not hold up another', async () => {
    await withEngine({ maxSequences: 1 }, async (engine) => {
      const finished: string[] = [];
      const run = (tenant: string, i: number): Promise<number> =>
        collect(engine.generate(request(PROMPTS[2]!, greedy(3), undefined, { tenant }))).then(() => finished.push(`${tenant}${i}`));
      await Promise.all([...Array.from({ length: 5 }, (_, i) => run('burst', i)), run('other', 0)]);
      expect(finished.indexOf('other0')).toBeLessThanOrEqual(2);
    });
  });
});

describe('targets', () => {
  test('every load counts for the tenant whose adapter it is, whoever asks first', async () => {
    await withEngine({}, async (engine, metrics) => {
      await engine.score({ target: target('a1'), sequences: [{ tokens: [1, 2, 3], scoreFrom: 1 }] });
      await collect(engine.generate(request(PROMPTS[0]!, greedy(2), 'a1')));
      await collect(engine.generate(request(PROMPTS[0]!, greedy(2), 'a2')));
      await engine.preload(target('a3'));
      const counted = await metrics.registry.getSingleMetricAsString('lorica_adapter_loads_total');
      expect(counted.split('\n').filter((line) => !line.startsWith('#'))).toEqual(['lorica_adapter_loads_total{tenant="t"} 3']);
    });
  });

  test('an adapter is loaded once however many ask, and dropped on demand when idle', async () => {
    await withEngine({}, async (engine) => {
      loads.length = 0;
      await Promise.all([0, 1, 2].map((i) => collect(engine.generate(request(PROMPTS[i]!, greedy(2), 'a1')))));
      expect(loads).toEqual(['a1']);
      expect(engine.residency().adapters).toMatchObject([{ digest: contents.get('a1')!.digest, rank: 4, name: 'tenants/t/adapters/a1', runningSequences: 0 }]);
      expect(engine.unload(contents.get('a1')!.digest)).toBe(true);
      expect(engine.unload(contents.get('a1')!.digest)).toBe(false);
      expect(engine.residency().adapters).toEqual([]);
    });
  });

  test('above the byte budget the least recently used adapter goes', async () => {
    await withEngine({ adapterCacheBytes: 1 }, async (engine) => {
      const stream = engine.generate(request(PROMPTS[0]!, greedy(30), 'a1'));
      await stream.next();
      await collect(engine.generate(request(PROMPTS[1]!, greedy(2), 'a2')));
      expect(engine.residency().adapters.map((a) => a.name)).toEqual(['tenants/t/adapters/a1']);
      await collect(stream);
      expect(engine.residency().adapters).toEqual([]);
    });
  });

  test('an adapter that fails to load or does not fit fails its own request only', async () => {
    await withEngine({}, async (engine) => {
      const failing = { ...target(), adapter: { name: 'x', tenant: 't', digest: 'sha256:x', load: () => Promise.reject(new Error('disk')) } };
      const misfit = randomLora(checkpoint, 5, 4, (module) => module.endsWith('0.mlp.up_proj'));
      const module = misfit.modules.get('model.layers.0.mlp.up_proj')!;
      const wrong = { ...misfit, modules: new Map([['model.layers.0.mlp.up_proj', { ...module, a: module.a.slice(1) }]]) };
      const misfitting = { ...target(), adapter: { name: 'y', tenant: 't', digest: wrong.digest, load: () => Promise.resolve(wrong) } };
      const [good, bad, worse] = await Promise.allSettled([
        collect(engine.generate(request(PROMPTS[0]!, greedy(5)))),
        collect(engine.generate({ ...request(PROMPTS[0]!, greedy(5)), target: failing })),
        collect(engine.generate({ ...request(PROMPTS[0]!, greedy(5)), target: misfitting })),
      ]);
      expect(good.status).toBe('fulfilled');
      expect(bad).toMatchObject({ status: 'rejected', reason: { message: 'disk' } });
      expect(worse).toMatchObject({ status: 'rejected', reason: { reason: 'ADAPTER_INCOMPATIBLE', message: expect.stringContaining('model.layers.0.mlp.up_proj') } });
    });
  });

  test('a failed load leaves no running sequence behind', async () => {
    await withEngine({}, async (engine, metrics) => {
      const failing = { ...target(), adapter: { name: 'x', tenant: 't', digest: 'sha256:x', load: () => Promise.reject(new Error('disk')) } };
      await expect(collect(engine.generate({ ...request(PROMPTS[0]!, greedy(5)), target: failing }))).rejects.toThrow('disk');
      await new Promise((resolve) => setImmediate(resolve));
      expect(await metrics.registry.getSingleMetricAsString('lorica_running_sequences')).toMatch(/lorica_running_sequences 0/);
    });
  });

  test('an adapter with values that are not finite fails its own requests only', async () => {
    const broken = randomLora(checkpoint, 7, 4);
    for (const { b } of broken.modules.values()) b.fill(NaN);
    contents.set('broken', broken);
    await withEngine({ maxSequences: 3 }, async (engine) => {
      const alone = await collect(engine.generate(request(PROMPTS[0]!, greedy(30), 'a1')));
      const stream = engine.generate(request(PROMPTS[0]!, greedy(30), 'a1'));
      const first = (await stream.next()).value as GenerationEvent & { kind: 'token' };
      for (let i = 0; i < 2; i++) {
        await expect(collect(engine.generate(request(PROMPTS[1]!, greedy(5), 'broken')))).rejects.toMatchObject({ reason: 'RUNTIME_FAILED' });
      }
      expect([first.id, ...(await collect(stream)).ids]).toEqual(alone.ids);
    });
  });

  test('another model digest is refused', async () => {
    await withEngine({}, async (engine) => {
      const other = { ...request(PROMPTS[0]!, greedy(5)), target: { modelId: checkpoint.id, modelDigest: 'sha256:other' } };
      await expect(collect(engine.generate(other))).rejects.toMatchObject({ reason: 'DIGEST_MISMATCH' });
    });
  });

  test('after stop, requests are refused; streams end with cancelled at the end of the grace', async () => {
    await withEngine({}, async (engine) => {
      const stream = engine.generate(request(PROMPTS[0]!, greedy(90)));
      await stream.next();
      const stopping = engine.stop({ graceMs: 0 });
      await expect(collect(engine.generate(request(PROMPTS[1]!, greedy(2))))).rejects.toMatchObject({ code: 'UNAVAILABLE', reason: 'SHUTTING_DOWN' });
      expect((await collect(stream)).end.finishReason).toBe('cancelled');
      await stopping;
    });
  });

  test('a preload that stop overtakes ends with SHUTTING_DOWN, whatever it waited for', async () => {
    let open = (): void => undefined;
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    const models = { checkpoint: () => opened.then(() => checkpoint) };
    const engine = new Engine({ runtime, metrics: createMetrics(), models, options: { maxContextTokens: 96 } });
    const preload = engine.preload(target());
    await engine.stop({ graceMs: 0 });
    open();
    await expect(preload).rejects.toMatchObject({ code: 'UNAVAILABLE', reason: 'SHUTTING_DOWN' });
    expect(engine.residency().models).toEqual([]);
  });

  test('stop does not wait for a target that is still loading', async () => {
    await withEngine({}, async (engine) => {
      const content = contents.get('a1')!;
      let loaded = (): void => undefined;
      const waiting = new Promise<void>((resolve) => {
        loaded = resolve;
      });
      const slow = { ...target(), adapter: { name: 'slow', tenant: 't', digest: content.digest, load: () => waiting.then(() => content) } };
      const stream = collect(engine.generate({ ...request(PROMPTS[0]!, greedy(5)), target: slow }));
      await new Promise((resolve) => setTimeout(resolve, 20));
      await engine.stop({ graceMs: 0 });
      expect((await stream).end.finishReason).toBe('cancelled');
      loaded();
    });
  });
});
