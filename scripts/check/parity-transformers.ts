/**
 * Logits against transformers, live: SmolLM2 dequantized to float32, and every tiny checkpoint under test/golden: each family with each variant of
 * rope, window and multiplier that FAMILY.json holds a config for, and the others as they are.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../../src/common/errors.js';
import { exportCheckpoint, openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { Runtime } from '../../src/runtime/index.js';
import { largestDifference, withForm } from './parity-models.js';

const GOLDEN = join('test', 'golden');
const FAMILIES = 'families';
const POSITIONS = 200;
/** A step through the vocabulary that shares no factor with usual sizes. */
const STRIDE = 7919;

export interface TransformersFigures {
  readonly smollm2: { readonly largestDifference: number; readonly positions: number };
  readonly tiny: {
    readonly largestDifference: number;
    readonly checkpoints: Readonly<Record<string, number>>;
    readonly count: number;
    /** Of these, variants of families. */
    readonly familyVariants: number;
    /** Folders that serving refuses, with what it says. */
    readonly refused: Readonly<Record<string, string>>;
  };
}

interface Job {
  readonly name: string;
  readonly path: string;
  readonly tokens: readonly number[];
  readonly out: string;
  readonly variant: Variant | undefined;
  readonly ours: Float32Array;
}

/** A config of a family's golden file. */
interface Variant {
  readonly file: string;
  readonly name: string;
}

/** Writes into `folder`, which the caller removes. */
export async function compareWithTransformers(runtime: Runtime, smollm2: Checkpoint, text: readonly number[], python: string, folder: string): Promise<TransformersFigures> {
  const jobs: Job[] = [];
  const refused: Record<string, string> = {};
  const exported = join(folder, 'smollm2');
  await exportCheckpoint(smollm2, exported, { kind: 'huggingFace', dtype: 'float32' });
  jobs.push(await job(runtime, { name: 'smollm2', path: exported }, smollm2, text.slice(0, POSITIONS), folder));
  for (const tiny of [...tinyCheckpoints(), ...(await familyVariants(folder))]) {
    const checkpoint = await openCheckpoint(tiny.path);
    try {
      const { vocabSize, maxPositionTokens } = checkpoint.config;
      const tokens = Array.from({ length: Math.min(POSITIONS, maxPositionTokens) }, (_, i) => (i * STRIDE + 1) % vocabSize);
      jobs.push(await job(runtime, tiny, checkpoint, tokens, folder));
    } catch (error) {
      if (!(error instanceof LoricaError) || error.reason !== 'MODEL_UNSUPPORTED') throw error;
      refused[tiny.name] = error.message;
    } finally {
      await checkpoint.close();
    }
  }
  const list = join(folder, 'jobs.json');
  await writeFile(list, JSON.stringify({ models: jobs.map(({ path, tokens, out, variant }) => ({ path, tokens, out, variant })) }));
  execFileSync(python, ['scripts/check/parity_logits.py', list], { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, TQDM_DISABLE: '1', HF_HUB_OFFLINE: '1' } });
  const differences: Record<string, number> = {};
  for (const { name, ours, out } of jobs) {
    const bytes = await readFile(out);
    differences[name] = largestDifference(ours, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  }
  const { smollm2: real = Number.NaN, ...checkpoints } = differences;
  const all = Object.values(checkpoints);
  return {
    smollm2: { largestDifference: real, positions: jobs[0]!.tokens.length },
    tiny: {
      largestDifference: Math.max(...all), checkpoints, count: all.length, refused,
      familyVariants: Object.keys(checkpoints).filter((name) => name.startsWith(`${FAMILIES}/`)).length,
    },
  };
}

interface Tiny {
  readonly name: string;
  readonly path: string;
  readonly variant?: Variant;
}

function tinyCheckpoints(): Tiny[] {
  const folders = readdirSync(GOLDEN, { withFileTypes: true, recursive: true }).filter((entry) => entry.isDirectory());
  const paths = folders.map((entry) => join(entry.parentPath, entry.name)).filter((path) => !path.startsWith(join(GOLDEN, FAMILIES)));
  const whole = paths.filter((path) => existsSync(join(path, 'config.json')) && existsSync(join(path, 'tokenizer.json')));
  return whole.map((path) => ({ name: path.slice(GOLDEN.length + 1), path })).sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Copies of the families' checkpoints, one for each config, below `folder`. */
async function familyVariants(folder: string): Promise<Tiny[]> {
  const variants: Tiny[] = [];
  for (const file of readdirSync(join(GOLDEN, FAMILIES)).filter((name) => name.endsWith('.json'))) {
    const family = file.slice(0, -'.json'.length);
    const golden = join(GOLDEN, FAMILIES, file);
    const { configs } = JSON.parse(await readFile(golden, 'utf8')) as { configs: Record<string, unknown> };
    for (const [name, config] of Object.entries(configs)) {
      const path = join(folder, FAMILIES, `${family}-${name}`);
      await cp(join(GOLDEN, FAMILIES, family), path, { recursive: true });
      await writeFile(join(path, 'config.json'), JSON.stringify(config));
      variants.push({ name: `${FAMILIES}/${family}-${name}`, path, variant: { file: golden, name } });
    }
  }
  return variants;
}

async function job(runtime: Runtime, { name, path, variant }: Tiny, checkpoint: Checkpoint, tokens: readonly number[], folder: string): Promise<Job> {
  const { result: ours } = await withForm(runtime, checkpoint, 'float32', tokens.length, (score) => score(tokens));
  return { name, path, tokens, out: join(folder, `${name.replaceAll('/', '-')}.f32`), variant, ours };
}
