// A job that is interrupted anywhere and goes on from its checkpoint ends with the bytes of one that was not: weights and moments.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { LoraInput, VariantInput } from '../../src/adapters/adapter.js';
import { LoricaError } from '../../src/common/errors.js';
import { createLogger } from '../../src/common/logger.js';
import { checkpointPieces, openCheckpointFile } from '../../src/main/checkpoint-file.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { PromptExample } from '../../src/models/prompt.js';
import { Runtime } from '../../src/runtime/index.js';
import { writeAtomically, writeSafetensors } from '../../src/tensor/safetensors-write.js';
import {
  CHECKPOINT_FORMAT, runTuning, TrainingHost, type CheckpointEvent, type Checkpoints, type StageSpecification, type StepEvent, type StoredCheckpoint, type TuningInput, type TuningResult, type TuningSpecification,
} from '../../src/tuning/index.js';

let runtime: Runtime;
let checkpoint: Checkpoint;
let folder: string;

beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openCheckpoint('test/golden/tiny-llama');
  folder = await mkdtemp(join(tmpdir(), 'lorica-checkpoints-'));
});

afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
  await rm(folder, { recursive: true });
});

/** Checkpoints as files; the newest is the last one saved. */
class Folder implements Checkpoints {
  readonly names: string[] = [];
  private static count = 0;

  async save(saved: Parameters<Checkpoints['save']>[0]): Promise<string> {
    const name = `checkpoint-${Folder.count++}`;
    await writeAtomically(join(folder, name), checkpointPieces(saved));
    this.names.push(name);
    return name;
  }

  async load(): Promise<StoredCheckpoint | undefined> {
    const name = this.names.at(-1);
    return name === undefined ? undefined : openCheckpointFile(name, join(folder, name));
  }
}

const WORDS = ['good', 'bad', 'price', 'battery', 'delivery', 'recommend', 'lazy dog', 'quick fox', 'an hour'];
const EXAMPLES: PromptExample[] = Array.from({ length: 11 }, (_, i) => ({ kind: 'completion', prompt: `The ${WORDS[i % 9]!} was ${'so '.repeat(i % 4)}`, completion: WORDS[(i * 5) % 9]! }));

const STAGE = { dataset: 'd', batchSize: 2, accumulationSteps: 2, learningRate: 5e-3, steps: 7 } as const;
const lora = (more: object = {}): StageSpecification => ({ ...STAGE, trainable: { kind: 'lora', rank: 2, targetModules: ['q_proj', 'down_proj'], ...more } });
const full: StageSpecification = { ...STAGE, trainable: { kind: 'full' } };
const CASES: Readonly<Record<string, readonly StageSpecification[]>> = {
  full: [full],
  'lora with dropout': [lora({ dropout: 0.3 })],
  dora: [lora({ dora: true })],
  staged: [{ ...lora(), steps: 3 }, { ...STAGE, trainable: { kind: 'lastLayers', layers: 1 }, steps: 2 }, { ...lora({ dora: true }), steps: 2 }],
  'the same LoRA in two stages': [{ ...lora(), steps: 3 }, { ...lora(), steps: 4 }],
  packing: [{ ...lora(), packing: true }],
  'adafactor, full': [{ ...full, adafactor: {} }],
  'adafactor, lora': [{ ...lora(), adafactor: {} }],
  'a layer inserted, with dropout': [{ ...full, architecture: { insert: [{ at: 1 }], dropout: { attention: 0.2, residual: 0.1, embedding: 0.1 } } }],
  classification: [{ ...STAGE, dataset: 'labels', trainable: { kind: 'lora', rank: 2 }, objective: { kind: 'classification', template: '{text}' } }, { ...full, steps: 2 }],
  'evaluated, the best kept, stopped early': [
    { ...lora(), steps: 6, evaluation: { dataset: 'held', everySteps: 1, earlyStopping: { metric: 'loss', patience: 2 }, keepBest: 'loss' }, learningRate: 0.05 },
    { ...lora(), steps: 2 },
  ],
  'preferences evaluated, the best kept, stopped early': [
    { ...lora(), steps: 2 },
    {
      ...lora(), dataset: 'pairs', objective: { kind: 'preference' }, steps: 7, learningRate: 0.05,
      evaluation: { dataset: 'heldPairs', everySteps: 1, metrics: ['loss', 'rewardAccuracy'], earlyStopping: { metric: 'rewardMargin', patience: 2 }, keepBest: 'rewardMargin' },
    },
  ],
  preference: [{ ...lora(), steps: 2 }, { ...lora(), dataset: 'pairs', objective: { kind: 'preference' }, steps: 5 }],
};

const ROWS: Readonly<Record<string, readonly PromptExample[]>> = {
  d: EXAMPLES,
  held: EXAMPLES.map((example, i) => ({ ...example, completion: WORDS[(i * 7 + 1) % 9]! })),
  labels: WORDS.map((word, i) => ({ kind: 'label', text: `The ${word} was fine`, label: i % 2 === 0 ? 'even' : 'odd' })),
  pairs: WORDS.map((word, i) => ({ kind: 'preference', prompt: `The ${word} was`, chosen: WORDS[(i + 1) % 9]!, rejected: WORDS[(i + 4) % 9]! })),
  heldPairs: WORDS.map((word, i) => ({ kind: 'preference', prompt: `The ${word} was so`, chosen: WORDS[(i + 1) % 9]!, rejected: WORDS[(i + 5) % 9]! })),
};

const specification = (stages: readonly StageSpecification[]): TuningSpecification => ({ baseModel: 'models/tiny', stages, seed: 3, checkpoints: { everySteps: 1000 } });

interface Outcome {
  readonly result?: TuningResult;
  readonly error?: unknown;
  readonly steps: readonly StepEvent[];
  readonly kept: readonly CheckpointEvent[];
}

async function run(spec: TuningSpecification, more: Partial<TuningInput> = {}): Promise<Outcome> {
  const steps: StepEvent[] = [];
  const kept: CheckpointEvent[] = [];
  const job = runTuning({
    checkpoint, host: new TrainingHost(runtime), specification: spec, examples: (dataset) => ROWS[dataset]!,
    emit: (event) => { steps.push(event); }, report: (event) => { if (event.kind === 'checkpoint') kept.push(event); }, ...more,
  });
  return job.then((result) => ({ result, steps, kept }), (error: unknown) => ({ error, steps, kept }));
}

const text = (data: ArrayBufferView): string => Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64');

function bytes(content: LoraInput | VariantInput): readonly string[] {
  if (content.kind === 'lora') return [...content.modules.values()].map(({ module, rank, scaling, a, b }) => `${module} ${rank} ${scaling} ${text(a)} ${text(b)}`).sort();
  return [...content.tensors].map(([name, { data }]) => `${name} ${text(data)}`).sort();
}

/** Every tensor of the newest checkpoint. */
async function state(checkpoints: Checkpoints): Promise<readonly string[]> {
  const stored = (await checkpoints.load())!;
  const tensors: string[] = [`stage ${stored.state.stage} step ${stored.state.step}`];
  for (const name of [...stored.shapes.keys()].sort()) tensors.push(`${name} ${text(await stored.read(name))}`);
  return tensors;
}

const stopping = (): LoricaError => new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the server is stopping');

/** Stops the job again and again, each time after so many native runs, until it is done. */
async function interrupted(spec: TuningSpecification, checkpoints: Checkpoints, runs: number): Promise<Outcome & { readonly attempts: number }> {
  const steps: StepEvent[] = [];
  const kept: CheckpointEvent[] = [];
  for (let attempts = 1; ; attempts++) {
    const stop = new AbortController();
    // Later attempts get further, so that a job with long steps comes to its end.
    let left = runs * attempts;
    const unsubscribe = runtime.onRun(({ lane }) => {
      // In the next turn: most often the next run has begun then.
      if (lane === 'training' && --left === 0) setImmediate(() => stop.abort(stopping()));
    });
    const attempt = await run(spec, { checkpoints, signal: stop.signal });
    unsubscribe();
    steps.push(...attempt.steps);
    kept.push(...attempt.kept);
    if (attempt.result !== undefined) return { result: attempt.result, steps, kept, attempts };
    expect(attempt.error).toMatchObject({ reason: 'CANCELLED' });
  }
}

describe.each(Object.keys(CASES))('%s', (label) => {
  const spec = specification(CASES[label]!);

  test('stopped at any native run and resumed, it ends with the same bytes and reports every step once', async () => {
    const lastStep = { ...spec, checkpoints: { everySteps: CASES[label]!.at(-1)!.steps! } };
    const straight = new Folder();
    const whole = await run(lastStep, { checkpoints: straight });
    for (const runs of [17, 41, 83]) {
      const kept = new Folder();
      const cut = await interrupted(lastStep, kept, runs);
      expect(cut.attempts).toBeGreaterThan(1);
      expect(bytes(cut.result!.content)).toEqual(bytes(whole.result!.content));
      expect(await state(kept)).toEqual(await state(straight));
      expect(cut.steps.map(({ stage, step, loss, gradientNorm, learningRate, epoch }) => ({ stage, step, loss, gradientNorm, learningRate, epoch })))
        .toEqual(whole.steps.map(({ stage, step, loss, gradientNorm, learningRate, epoch }) => ({ stage, step, loss, gradientNorm, learningRate, epoch })));
      expect(cut.result).toMatchObject({ steps: whole.result!.steps, tokens: whole.result!.tokens, finalLoss: whole.result!.finalLoss });
      expect(cut.result!.evaluation).toEqual(whole.result!.evaluation);
    }
  });
});

test('a job that dies without warning goes on from its last checkpoint and makes the steps since then again, with the same losses', async () => {
  const spec = { ...specification(CASES.staged!), checkpoints: { everySteps: 2 } };
  const whole = await run(spec);
  const checkpoints = new Folder();
  const died = await run(spec, { checkpoints, emit: ({ stage, step }) => { if (stage === 0 && step === 3) throw new Error('killed'); } });
  expect(died.error).toMatchObject({ message: 'killed' });
  expect(died.kept).toEqual([{ kind: 'checkpoint', stage: 0, step: 2, name: checkpoints.names[0], bytes: expect.any(Number) as unknown as number }]);
  const resumed = await run(spec, { checkpoints });
  expect(resumed.steps.map(({ stage, step, loss }) => [stage, step, loss])).toEqual(whole.steps.slice(2).map(({ stage, step, loss }) => [stage, step, loss]));
  expect(bytes(resumed.result!.content)).toEqual(bytes(whole.result!.content));
  expect(resumed.kept.map(({ stage, step }) => [stage, step])).toEqual([[1, 2], [2, 2]]);
});

describe('memory', () => {
  const stages = [lora(), { ...STAGE, trainable: { kind: 'full' } as const, steps: 4 }];
  const spec = { ...specification(stages), checkpoints: { everySteps: 2 } };
  /** The least that each of the stages, or both, could take. */
  const least = async (): Promise<number> => Number(((await run(spec, { memoryLimitBytes: 1 })).error as LoricaError).metadata['leastBytes']);
  const kinds = async (checkpoints: Checkpoints): Promise<readonly string[]> => (await checkpoints.load())!.state.memory.map(({ savedActivations }) => savedActivations);

  test('what was chosen where the job began stays chosen under another limit: the same bytes, in both directions', async () => {
    const tight = await least();
    const bytesOf: (readonly string[])[] = [];
    for (const [first, second, stage] of [[tight, Infinity, 0], [Infinity, tight, 1]] as const) {
      const whole = new Folder();
      const straight = await run(spec, { checkpoints: whole, memoryLimitBytes: first });
      const kept = new Folder();
      const died = await run(spec, { checkpoints: kept, memoryLimitBytes: first, emit: (event) => { if (event.stage === stage && event.step === 3) throw new Error('killed'); } });
      expect(died.error).toMatchObject({ message: 'killed' });
      const resumed = await run(spec, { checkpoints: kept, memoryLimitBytes: second });
      expect(resumed.steps[0]).toMatchObject({ stage, step: 3 });
      expect(bytes(resumed.result!.content)).toEqual(bytes(straight.result!.content));
      expect(await state(kept)).toEqual(await state(whole));
      expect(await kinds(kept)).toEqual(await kinds(whole));
      bytesOf.push(bytes(straight.result!.content));
    }
    // Otherwise the limit would have changed nothing to begin with.
    expect(bytesOf[0]).not.toEqual(bytesOf[1]);
  });

  test('a job that fits in no way is refused before its first step, whatever stage does not, and fits with the least that the refusal names', async () => {
    const needed = await least();
    const refused = await run({ ...spec, memoryLimitBytes: needed - 1 });
    expect(refused).toMatchObject({ error: { code: 'RESOURCE_EXHAUSTED', reason: 'MEMORY_INSUFFICIENT', metadata: { stage: '1', leastBytes: String(needed) } }, steps: [] });
    const checkpoints = new Folder();
    const { result } = await run({ ...spec, memoryLimitBytes: needed }, { checkpoints });
    expect(result).toMatchObject({ steps: 11 });
    expect(await kinds(checkpoints)).toEqual(['linear', 'layer']);
  });

  test('a job whose limit was changed goes on', async () => {
    const checkpoints = new Folder();
    await run(spec, { checkpoints, emit: ({ step }) => { if (step === 3) throw new Error('killed'); } });
    const { steps } = await run({ ...spec, memoryLimitBytes: 2 ** 40 }, { checkpoints });
    expect(steps[0]).toMatchObject({ stage: 0, step: 3 });
  });
});

describe('which checkpoint a job goes on from', () => {
  const spec = { ...specification([full]), checkpoints: { everySteps: 2 } };
  const keeping = async (): Promise<Folder> => {
    const checkpoints = new Folder();
    await run(spec, { checkpoints, emit: ({ step }) => { if (step === 3) throw new Error('killed'); } });
    return checkpoints;
  };
  const logged = (lines: string[]) => createLogger('info', (line) => lines.push(line));

  test.each<[string, Partial<TuningInput>]>([
    ['the specification', { specification: { ...spec, seed: 4 } }],
    ['the specification', { specification: { ...spec, stages: [{ ...full, learningRate: 4e-3 }] } }],
    ['the rows of the data set', { examples: () => EXAMPLES.slice(1) }],
  ])('not one whose job had another thing: %s', async (differs, more) => {
    const lines: string[] = [];
    const { steps } = await run(more.specification ?? spec, { checkpoints: await keeping(), logger: logged(lines), ...more });
    expect(steps[0]!.step).toBe(1);
    expect(JSON.parse(lines[0]!)).toMatchObject({ level: 'warn', message: 'a checkpoint does not fit its job, which begins anew', differs });
  });

  test('not one of another format, as an upgrade leaves it behind: the job begins anew', async () => {
    const checkpoints = await keeping();
    await writeSafetensors(join(folder, checkpoints.names.at(-1)!), new Map(), { 'lorica.training': JSON.stringify({ format: CHECKPOINT_FORMAT - 1, stage: 0, step: 2 }) });
    const lines: string[] = [];
    const { steps, result } = await run(spec, { checkpoints, logger: logged(lines) });
    expect(JSON.parse(lines[0]!)).toMatchObject({ level: 'warn', message: 'a checkpoint does not fit its job, which begins anew', differs: 'the format' });
    expect(steps[0]!.step).toBe(1);
    expect(bytes(result!.content)).toEqual(bytes((await run(spec)).result!.content));
  });

  test('one whose job had another number of checkpoints to keep', async () => {
    const lines: string[] = [];
    const { steps } = await run({ ...spec, checkpoints: { everySteps: 3, keep: 1 } }, { checkpoints: await keeping(), logger: logged(lines) });
    expect(steps[0]!.step).toBe(3);
    expect(JSON.parse(lines[0]!)).toMatchObject({ message: 'tuning goes on from a checkpoint', stage: 0, step: 2 });
  });
});

describe('what ends without a checkpoint', () => {
  test.each(['CANCELLED', 'JOB_LOST'] as const)('a job that is aborted with %s', async (reason) => {
    const stop = new AbortController();
    const checkpoints = new Folder();
    const { error } = await run(specification([full]), { checkpoints, signal: stop.signal, emit: ({ step }) => { if (step === 2) stop.abort(new LoricaError('ABORTED', reason, 'ended')); } });
    expect(error).toMatchObject({ reason: 'CANCELLED' });
    expect(checkpoints.names).toEqual([]);
  });

  test('a store that is full costs the checkpoint, not the job', async () => {
    const lines: string[] = [];
    const checkpoints: Checkpoints = { save: () => Promise.reject(new LoricaError('RESOURCE_EXHAUSTED', 'STORAGE_FULL', 'no space')), load: () => Promise.resolve(undefined) };
    const { result, kept } = await run({ ...specification([full]), checkpoints: { everySteps: 3 } }, { checkpoints, logger: createLogger('error', (line) => lines.push(line)) });
    expect(result).toMatchObject({ steps: 7 });
    expect(kept).toEqual([]);
    expect(lines.map((line) => (JSON.parse(line) as { message: string }).message)).toEqual(Array(2).fill('a checkpoint of a tuning job cannot be stored'));
  });
});

test('a job that diverges keeps its last good weights and says where', async () => {
  const checkpoints = new Folder();
  const spec = specification([{ ...full, learningRate: 1, maxGradientNorm: 0, schedule: { kind: 'constant' }, steps: 200, weightDecay: 10, betas: [0, 0] }]);
  const { error, steps, kept } = await run(spec, { checkpoints });
  expect(error).toMatchObject({ reason: 'TRAINING_DIVERGED', metadata: { checkpoint: checkpoints.names[0] } });
  expect((error as LoricaError).hint).toContain(checkpoints.names[0]!);
  expect(kept).toMatchObject([{ step: steps.length }]);
  expect(steps.every(({ loss }) => Number.isFinite(loss))).toBe(true);
});
