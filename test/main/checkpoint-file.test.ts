import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { checkpointPieces, openCheckpointFile } from '../../src/main/checkpoint-file.js';
import { writeAtomically, writeSafetensors } from '../../src/tensor/safetensors-write.js';
import { CHECKPOINT_FORMAT, type CheckpointState } from '../../src/tuning/index.js';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lorica-checkpoint-'));
});

afterAll(() => rm(folder, { recursive: true }));

const STATE: CheckpointState = {
  format: CHECKPOINT_FORMAT,
  identity: { base: 'sha256:1', specification: 'sha256:2', start: 'sha256:4', rows: 'sha256:3' },
  stage: 1,
  step: 17,
  memory: [{ savedActivations: 'linear', microBatchTokens: 512 }],
  finished: [{ steps: 4, finalLoss: 1.25, tokens: 99, elapsedMs: 12.5, peakMemoryBytes: 1e9 }],
  current: { steps: 17, finalLoss: 0.1 + 0.2, tokens: 7, elapsedMs: 3, peakMemoryBytes: 2e9 },
  skippedRows: 1,
  lora: [{ module: 'model.layers.0.mlp.up_proj', rank: 2, scaling: 4, dora: false }],
};

test('a checkpoint comes back as it went: its state, its shapes and every bit of its tensors', async () => {
  const tensors = new Map([
    ['model/b', { shape: [2, 3], data: Float32Array.from([1, -0, 1e-45, 3.4e38, 0.1, -2]) }],
    ['adamw/first/b', { shape: [1], data: Float32Array.of(7) }],
  ]);
  const path = join(folder, 'whole');
  await writeAtomically(path, checkpointPieces({ state: STATE, tensors }));
  const stored = await openCheckpointFile('the-name', path);
  expect(stored).toMatchObject({ name: 'the-name', state: STATE });
  expect(new Map(stored.shapes)).toEqual(new Map([...tensors].map(([name, { shape }]) => [name, shape])));
  for (const [name, { data }] of tensors) expect(Buffer.from((await stored.read(name)).buffer)).toEqual(Buffer.from(data.buffer));
  await expect(stored.read('model/c')).rejects.toMatchObject({ reason: 'CHECKPOINT_MISSING' });
});

test('a file of another format opens with its format, whatever else its state has: the job decides', async () => {
  const path = join(folder, 'other');
  await writeSafetensors(path, new Map(), { 'lorica.training': JSON.stringify({ format: 99 }) });
  expect(await openCheckpointFile('the-name', path)).toMatchObject({ name: 'the-name', state: { format: 99 } });
});

test.each([['no state', {}], ['a state without a format', { 'lorica.training': '{"stage":1}' }], ['a state that is no JSON', { 'lorica.training': '{' }], ['null', { 'lorica.training': 'null' }]])(
  'a file with %s is refused by name', async (_what, metadata) => {
    const path = join(folder, 'stateless');
    await writeSafetensors(path, new Map(), metadata);
    await expect(openCheckpointFile('the-name', path)).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT', message: 'the-name has no training state' });
  },
);
