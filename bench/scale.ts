/**
 * How training's speed and memory grow with rows, length, rank and layers, and where a step's time goes. Every point is a process of its own,
 * whose peak memory is the highest resident set; it takes one step that is not counted and then some that are.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { openCheckpoint } from '../src/models/checkpoint.js';
import { Runtime } from '../src/runtime/index.js';
import { chooseBase, PREFERRED_MODEL } from '../src/cli/quickstart/model.js';
import { TrainingHost } from '../src/tuning/index.js';
import { localRun, texts } from './local-run.js';
import { operatorShares, type OperatorShare } from './operator-profile.js';
import { median } from './statistics.js';

export interface ScalePoint {
  readonly model: string;
  readonly rows: number;
  readonly length: number;
  readonly rank: number;
  /** The highest so many layers carry LoRA; below them nothing is differentiated. */
  readonly layers: number;
  readonly steps: number;
  readonly profile: boolean;
}

export interface ScaleFigures {
  readonly tokensPerSecond: number;
  readonly processorSecondsPerStep: number;
  readonly peakMemoryBytes: number;
  readonly operators?: readonly OperatorShare[];
}

export interface ScaleStudy {
  readonly base: string;
  readonly points: readonly (Omit<ScalePoint, 'model' | 'profile' | 'steps'> & { readonly varied: string } & ScaleFigures)[];
  /** Of the first point. */
  readonly operators: readonly OperatorShare[];
}

const ALL_LAYERS = 30;
const USUAL = { rows: 4, length: 256, rank: 16, layers: ALL_LAYERS };
const VARIED: readonly (readonly [keyof typeof USUAL, readonly number[]])[] = [
  ['rows', [1, 2, 8]],
  ['length', [64, 128, 512, 1024]],
  ['rank', [4, 64, 128]],
  ['layers', [1, 8, 16]],
];

export async function scale(options: { readonly model?: string; readonly steps: number; readonly log: (text: string) => void }): Promise<ScaleStudy> {
  const base = await chooseBase(options.model ?? PREFERRED_MODEL, { signal: new AbortController().signal, onProgress: () => undefined });
  const measure = async (point: typeof USUAL, profile = false): Promise<ScaleFigures> => inProcess({ ...point, model: base.path, steps: options.steps, profile });
  const points: ScaleStudy['points'][number][] = [];
  const add = async (varied: string, point: typeof USUAL): Promise<void> => {
    const figures = await measure(point);
    points.push({ varied, ...point, ...figures });
    options.log(`${varied}: ${JSON.stringify(point)} ${figures.tokensPerSecond.toFixed(0)} tokens/s, ${(figures.peakMemoryBytes / 1e6).toFixed(0)} MB`);
  };
  await add('none', USUAL);
  for (const [name, values] of VARIED) for (const value of values) await add(name, { ...USUAL, [name]: value });
  return { base: base.id, points, operators: (await measure(USUAL, true)).operators ?? [] };
}

async function inProcess(point: ScalePoint): Promise<ScaleFigures> {
  const { stdout } = await promisify(execFile)(process.execPath, [fileURLToPath(new URL('./main.js', import.meta.url)), 'scale-point', JSON.stringify(point)]);
  return JSON.parse(stdout) as ScaleFigures;
}

/** Measures one point in this process. */
export async function scalePoint({ model, rows, length, rank, layers, steps, profile }: ScalePoint): Promise<ScaleFigures> {
  const folder = await mkdtemp(join(tmpdir(), 'lorica-bench-'));
  const checkpoint = await openCheckpoint(model);
  const runtime = Runtime.open();
  const top = checkpoint.config.layers;
  let taken: Awaited<ReturnType<typeof localRun>>;
  try {
    taken = await localRun({
      checkpoint,
      host: new TrainingHost(runtime, profile ? { profilePrefix: join(folder, 'profile-') } : {}),
      examples: await texts('reviews', 8 * length),
      stage: {
        trainable: { kind: 'lora', rank, layers: [{ first: Math.max(0, top - layers), last: top - 1 }] },
        steps: steps + 1, batchSize: rows, maxLengthTokens: length + 1,
      },
    });
  } finally {
    await checkpoint.close();
    await runtime.close();
  }
  const counted = taken.slice(1);
  const status = await readFile('/proc/self/status', 'utf8');
  const figures = {
    tokensPerSecond: median(counted.map(({ tokens, seconds }) => tokens / seconds)),
    processorSecondsPerStep: median(counted.map(({ processorSeconds }) => processorSeconds)),
    peakMemoryBytes: 1024 * Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]),
  };
  const operators = profile ? await operatorShares(folder, rank, taken.length) : undefined;
  await rm(folder, { recursive: true });
  return operators === undefined ? figures : { ...figures, operators };
}
