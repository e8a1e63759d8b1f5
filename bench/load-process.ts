/**
 * One cold start, in a process of its own that load.ts runs: `load-process.js <int8|int4|float32|llama-TYPE> <path> [<cache>]` prints a LoadResult.
 * With a cache folder, weights are taken from there or kept there, as the server does. Modules of the side that isn't measured are never loaded.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const CONTEXT_TOKENS = 1024;
/** "The history of the railway begins in the early nineteenth century, when engineers", as SmolLM2's tokenizer has it. */
const PROMPT = [504, 1463, 282, 260, 20184, 5956, 281, 260, 2307, 29556, 3220, 28, 645, 8390];
/** Freed memory goes back to the system after a moment. */
const SETTLE_MS = 300;

export interface LoadResult {
  readonly firstTokenMs: number;
  readonly residentBytes: number;
  readonly peakBytes: number;
  readonly partsMs: Readonly<Record<string, number>>;
  /** Of the serving form; 0 for llama.cpp. */
  readonly weightBytes: number;
  /** Resident memory that a second kind of session added; 0 for llama.cpp. */
  readonly secondSessionBytes: number;
}

/** A field of /proc/self/status, in bytes. */
function memory(field: 'VmRSS' | 'VmHWM'): number {
  const kibibytes = new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return Number(kibibytes) * 1024;
}

class Clock {
  readonly parts: Record<string, number> = {};
  #last = 0;

  /** Everything since the last part, the first since the start of the process. */
  part(name: string): void {
    const now = performance.now();
    this.parts[name] = now - this.#last;
    this.#last = now;
  }
}

async function ours(form: 'int8' | 'int4' | 'float32', path: string, cacheFolder: string | undefined): Promise<LoadResult> {
  const clock = new Clock();
  const { openCheckpoint } = await import('../src/models/checkpoint.js');
  const { ServingCache } = await import('../src/models/serving-cache.js');
  const { ServingModel } = await import('../src/engine/serving-model.js');
  const { ServingWeights } = await import('../src/engine/serving-weights.js');
  const { mapFile, Runtime } = await import('../src/runtime/index.js');
  clock.part('modules');
  const checkpoint = await openCheckpoint(path);
  clock.part('openCheckpoint');
  const runtime = Runtime.open();
  const cache = cacheFolder === undefined ? undefined : new ServingCache(cacheFolder, mapFile);
  const weights = await ServingWeights.load(runtime, checkpoint, form, CONTEXT_TOKENS, undefined, cache);
  clock.part('weights');
  const { config } = checkpoint;
  const model = new ServingModel({ runtime, checkpoint, config, weights, form, contextTokens: CONTEXT_TOKENS });
  const [batch, head] = await Promise.all([model.session('batch.none'), model.session('head')]);
  clock.part('sessions');
  const { hidden } = await batch.call({
    tokens: runtime.from(PROMPT, 'int64', [1, PROMPT.length]), last_index: runtime.from([PROMPT.length - 1], 'int32', [1]),
    longest: runtime.from([PROMPT.length], 'int32', []), rows: runtime.from([PROMPT.length - 1], 'int64', [1]),
  }, { lane: 'generation' });
  const { logits } = await head.call({ hidden: hidden! }, { lane: 'generation' });
  if (!Number.isFinite(logits!.f32()[0])) throw new Error('no logits');
  clock.part('firstToken');
  const firstTokenMs = performance.now();
  const [residentBytes, peakBytes] = [memory('VmRSS'), memory('VmHWM')];
  await weights.kept;
  const settled = async (): Promise<number> => {
    (globalThis as { gc?: () => void }).gc?.();
    await sleep(SETTLE_MS);
    return memory('VmRSS');
  };
  const before = await settled();
  await model.session('decode.none');
  const secondSessionBytes = (await settled()) - before;
  return { firstTokenMs, residentBytes, peakBytes, partsMs: clock.parts, weightBytes: weights.ownBytes, secondSessionBytes };
}

async function llama(path: string): Promise<LoadResult> {
  const clock = new Clock();
  const { LlamaModel } = await import('./llama-cpp.js');
  clock.part('modules');
  const model = new LlamaModel(path, { contextTokens: CONTEXT_TOKENS, threads: availableParallelism() });
  clock.part('model');
  if (!Number.isFinite(model.decode(PROMPT, 'last')[0])) throw new Error('no logits');
  clock.part('firstToken');
  return { firstTokenMs: performance.now(), residentBytes: memory('VmRSS'), peakBytes: memory('VmHWM'), partsMs: clock.parts, weightBytes: 0, secondSessionBytes: 0 };
}

const [kind = '', path = '', cacheFolder] = process.argv.slice(2);
const result = kind.startsWith('llama-') ? await llama(path) : await ours(kind as 'int8' | 'int4' | 'float32', path, cacheFolder);
process.stdout.write(JSON.stringify(result));
// Native threads and sessions are left to the system: what is measured is over.
process.exit(0);
