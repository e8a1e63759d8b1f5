/** Logits against transformers, live: SmolLM2 dequantized to float32, and every tiny checkpoint under test/golden. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../../src/common/errors.js';
import { exportCheckpoint, openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { Runtime } from '../../src/runtime/index.js';
import { largestDifference, withForm } from './parity-models.js';

const GOLDEN = join('test', 'golden');
const POSITIONS = 200;
/** A step through the vocabulary that shares no factor with usual sizes. */
const STRIDE = 7919;

export interface TransformersFigures {
  readonly smollm2: { readonly largestDifference: number; readonly positions: number };
  readonly tiny: {
    readonly largestDifference: number;
    readonly checkpoints: Readonly<Record<string, number>>;
    readonly count: number;
    /** Folders that serving refuses, with what it says. */
    readonly refused: Readonly<Record<string, string>>;
  };
}

interface Job {
  readonly name: string;
  readonly path: string;
  readonly tokens: readonly number[];
  readonly out: string;
  readonly ours: Float32Array;
}

/** Writes into `folder`, which the caller removes. */
export async function compareWithTransformers(runtime: Runtime, smollm2: Checkpoint, text: readonly number[], python: string, folder: string): Promise<TransformersFigures> {
  const jobs: Job[] = [];
  const refused: Record<string, string> = {};
  const exported = join(folder, 'smollm2');
  await exportCheckpoint(smollm2, exported, { kind: 'huggingFace', dtype: 'float32' });
  jobs.push(await job(runtime, 'smollm2', exported, smollm2, text.slice(0, POSITIONS), folder));
  for (const name of tinyCheckpoints()) {
    const path = join(GOLDEN, name);
    const checkpoint = await openCheckpoint(path);
    try {
      const { vocabSize, maxPositionTokens } = checkpoint.config;
      const tokens = Array.from({ length: Math.min(POSITIONS, maxPositionTokens) }, (_, i) => (i * STRIDE + 1) % vocabSize);
      jobs.push(await job(runtime, name, path, checkpoint, tokens, folder));
    } catch (error) {
      if (!(error instanceof LoricaError) || error.reason !== 'MODEL_UNSUPPORTED') throw error;
      refused[name] = error.message;
    } finally {
      await checkpoint.close();
    }
  }
  const list = join(folder, 'jobs.json');
  await writeFile(list, JSON.stringify({ models: jobs.map(({ path, tokens, out }) => ({ path, tokens, out })) }));
  execFileSync(python, ['scripts/check/parity_logits.py', list], { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, TQDM_DISABLE: '1', HF_HUB_OFFLINE: '1' } });
  const differences: Record<string, number> = {};
  for (const { name, ours, out } of jobs) {
    const bytes = await readFile(out);
    differences[name] = largestDifference(ours, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  }
  const { smollm2: real = Number.NaN, ...checkpoints } = differences;
  const tiny = Object.values(checkpoints);
  return {
    smollm2: { largestDifference: real, positions: jobs[0]!.tokens.length },
    tiny: { largestDifference: Math.max(...tiny), checkpoints, count: tiny.length, refused },
  };
}

function tinyCheckpoints(): string[] {
  const folders = readdirSync(GOLDEN, { withFileTypes: true, recursive: true }).filter((entry) => entry.isDirectory());
  const paths = folders.map((entry) => join(entry.parentPath, entry.name));
  const whole = paths.filter((path) => existsSync(join(path, 'config.json')) && existsSync(join(path, 'tokenizer.json')));
  return whole.map((path) => path.slice(GOLDEN.length + 1)).sort();
}

async function job(runtime: Runtime, name: string, path: string, checkpoint: Checkpoint, tokens: readonly number[], folder: string): Promise<Job> {
  const { result: ours } = await withForm(runtime, checkpoint, 'float32', tokens.length, (score) => score(tokens));
  return { name, path, tokens, out: join(folder, `${name.replaceAll('/', '-')}.f32`), ours };
}
