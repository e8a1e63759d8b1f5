/**
 * Cold start: from the start of a fresh process to the first token of a prompt, and the memory that it then holds, for each serving form and for
 * llama.cpp on files made from the same float32 tensors. Processes run one after the other, the kinds in turn, so that a slow minute of the machine
 * falls on all; both sides start Node. `secondSession` is what loading a second kind of session adds to a process.
 */
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chooseBase, PREFERRED_MODEL } from '../src/cli/quickstart/model.js';
import { exportCheckpoint, openCheckpoint } from '../src/models/checkpoint.js';
import { quantizeGguf } from './llama-cpp.js';
import type { LoadResult } from './load-process.js';
import { spread, type Spread } from './statistics.js';

const REPEATS = 5;
const FORMS = ['int8', 'int4', 'float32'] as const;
const QUANTIZED_FORMS = ['int8', 'int4'] as const;
const LLAMA_FILES = ['Q8_0', 'Q4_0', 'F32'] as const;

interface Kind {
  readonly label: string;
  readonly kind: string;
  readonly path: string;
  readonly cache?: string;
}

interface KindFigures {
  /** From the start of the process, Node's own start included. */
  readonly firstTokenMs: Spread;
  /** Resident when the first token is there, the file's mapped pages included. */
  readonly residentBytes: Spread;
  readonly peakBytes: Spread;
  /** Medians of the parts, in the order in which they happen. */
  readonly partsMs: Readonly<Record<string, number>>;
}

export interface LoadFigures {
  readonly base: string;
  /** From the second start on: quantized weights are read as they were kept. */
  readonly forms: Readonly<Record<string, KindFigures>>;
  /** The first start: quantized weights are made from the checkpoint. */
  readonly firstStart: Readonly<Record<string, KindFigures>>;
  readonly llamaCpp: Readonly<Record<string, KindFigures>>;
  /** Resident memory that the second kind of session adds, over the bytes of the int8 weights: a copy would make it 1. */
  readonly secondSession: { readonly addedBytes: number; readonly weightBytes: number; readonly addedOverWeights: number };
}

function measure({ kind, path, cache }: Kind): LoadResult {
  const child = fileURLToPath(new URL('./load-process.js', import.meta.url));
  return JSON.parse(execFileSync(process.execPath, ['--expose-gc', child, kind, path, ...(cache === undefined ? [] : [cache])], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })) as LoadResult;
}

function summary(results: readonly LoadResult[]): KindFigures {
  const of = (pick: (result: LoadResult) => number): Spread => spread(results.map(pick));
  const names = Object.keys(results[0]!.partsMs);
  return {
    firstTokenMs: of(({ firstTokenMs }) => firstTokenMs), residentBytes: of(({ residentBytes }) => residentBytes), peakBytes: of(({ peakBytes }) => peakBytes),
    partsMs: Object.fromEntries(names.map((name) => [name, of(({ partsMs }) => partsMs[name]!).median])),
  };
}

export async function load(options: { model?: string; repeats?: number; log: (text: string) => void }): Promise<LoadFigures> {
  const base = await chooseBase(options.model ?? PREFERRED_MODEL, { signal: new AbortController().signal, onProgress: () => undefined });
  const folder = await mkdtemp(join(tmpdir(), 'lorica-load-'));
  try {
    const checkpoint = await openCheckpoint(base.path);
    const float32 = join(folder, 'F32.gguf');
    await exportCheckpoint(checkpoint, float32, { kind: 'gguf', storage: 'F32' });
    await checkpoint.close();
    for (const type of ['Q8_0', 'Q4_0'] as const) quantizeGguf(float32, join(folder, `${type}.gguf`), type, availableParallelism());
    const cache = join(folder, 'serving');
    const kinds: Kind[] = [
      ...FORMS.map((form) => ({ label: form, kind: form, path: base.path, cache })),
      ...QUANTIZED_FORMS.map((form) => ({ label: `${form} (first start)`, kind: form, path: base.path })),
      ...LLAMA_FILES.map((type) => ({ label: `llama.cpp ${type}`, kind: `llama-${type}`, path: join(folder, `${type}.gguf`) })),
    ];
    const results = new Map(kinds.map(({ label }) => [label, [] as LoadResult[]]));
    for (let run = 0; run <= (options.repeats ?? REPEATS); run++) {
      for (const kind of kinds) {
        const result = measure(kind);
        options.log(`${run === 0 ? 'warm-up' : `run ${run}`} ${kind.label}: ${result.firstTokenMs.toFixed(0)} ms, ${(result.residentBytes / 1e6).toFixed(0)} MB`);
        // The first run brings the files into the page cache, and the weights into ours.
        if (run > 0) results.get(kind.label)!.push(result);
      }
    }
    const int8 = results.get('int8')!;
    const addedBytes = spread(int8.map((result) => result.secondSessionBytes)).median;
    const weightBytes = int8[0]!.weightBytes;
    return {
      base: base.id,
      forms: Object.fromEntries(FORMS.map((form) => [form, summary(results.get(form)!)])),
      firstStart: Object.fromEntries(QUANTIZED_FORMS.map((form) => [form, summary(results.get(`${form} (first start)`)!)])),
      llamaCpp: Object.fromEntries(LLAMA_FILES.map((type) => [type, summary(results.get(`llama.cpp ${type}`)!)])),
      secondSession: { addedBytes, weightBytes, addedOverWeights: addedBytes / weightBytes },
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
