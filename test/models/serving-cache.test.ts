import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ServingWeights } from '../../src/engine/serving-weights.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { ServingCache, type MapFile } from '../../src/models/serving-cache.js';
import { mapFile, Runtime } from '../../src/runtime/index.js';
import { openTiny } from '../engine/support.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const root = temporaryFolder();
let runtime: Runtime;
let checkpoint: Checkpoint;
let folder: string;
let reads: string[];
beforeAll(async () => {
  runtime = Runtime.open();
  const opened = await openTiny();
  const { weights } = opened;
  checkpoint = {
    ...opened,
    weights: {
      ...weights,
      float32(name) {
        reads.push(name);
        return weights.float32(name);
      },
    },
  };
});
afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
});
beforeEach(() => {
  folder = mkdtempSync(join(root, 'serving-'));
  reads = [];
});

async function load(form: 'int4' | 'int8' | 'float32', contextTokens = 32, map?: MapFile): Promise<{ kept: boolean; values: Map<string, unknown>; shared: boolean }> {
  const weights = await ServingWeights.load(runtime, checkpoint, form, contextTokens, undefined, new ServingCache(folder, map));
  const kept = await weights.kept;
  const values = new Map([...weights.tensors].map(([name, tensor]) => [name, { shape: tensor.shape, data: tensor.data.slice() }]));
  const [head, table] = ['head.values', 'embedding.values'].map((name) => weights.tensors.get(name)?.address);
  weights.dispose();
  return { kept, values, shared: head !== undefined && head === table };
}

describe('weights kept in their serving form', () => {
  test.each([
    ['int4', 'mapped', mapFile], ['int4', 'read', undefined], ['int8', 'mapped', mapFile], ['int8', 'read', undefined],
  ] as const)('%s, %s: the next start has the very same bytes without the checkpoint, tied tables once', async (form, _how, map) => {
    const first = await load(form);
    expect(first.kept).toBe(true);
    expect(reads.length).toBeGreaterThan(10);
    reads = [];
    const second = await load(form, 32, map);
    expect(reads).toEqual([]);
    expect(second.values).toEqual(first.values);
    expect([first.shared, second.shared]).toEqual([true, true]);
    expect(readdirSync(folder)).toEqual([`${checkpoint.digest.slice(7)}.${form}.2.safetensors`]);
  });

  test('mapped weights are views of one mapping, and serve on when the file is deleted', async () => {
    const made = (await load('int8')).values;
    const mapped: ArrayBuffer[] = [];
    const map: MapFile = (path) => {
      // Where the system maps nothing, memory of its own stands for the mapping.
      const bytes = mapFile(path) ?? new Uint8Array(readFileSync(path)).buffer;
      mapped.push(bytes);
      return bytes;
    };
    const weights = await ServingWeights.load(runtime, checkpoint, 'int8', 32, undefined, new ServingCache(folder, map));
    expect(mapped).toHaveLength(1);
    const inMapping = [...weights.tensors].filter(([, { data }]) => data.buffer === mapped[0]).map(([name]) => name);
    expect(inMapping).toEqual(expect.arrayContaining(['head.values', 'model.layers.0.mlp.down.values']));
    rmSync(join(folder, readdirSync(folder)[0]!));
    expect(new Map([...weights.tensors].map(([name, tensor]) => [name, { shape: tensor.shape, data: tensor.data.slice() }]))).toEqual(made);
    weights.dispose();
  });

  test('a write leaves the eight files used last, and none that other rules made', async () => {
    const kept = Array.from({ length: 9 }, (_, i) => `${String(i).repeat(64)}.int8.2.safetensors`);
    for (const [i, name] of kept.entries()) {
      writeFileSync(join(folder, name), '');
      utimesSync(join(folder, name), 1_000 - i, 1_000 - i);
    }
    writeFileSync(join(folder, `${'a'.repeat(64)}.int8.1.safetensors`), '');
    await load('int4');
    const own = `${checkpoint.digest.slice(7)}.int4.2.safetensors`;
    expect(readdirSync(folder).sort()).toEqual([...kept.slice(0, 7), own].sort());
    // Reading counts as use: as the oldest but for that, it stays.
    utimesSync(join(folder, own), 1, 1);
    await load('int4');
    await load('int8');
    expect(readdirSync(folder)).toContain(own);
  });

  test('another length of the context changes only the rotary tables', async () => {
    await load('int8', 32);
    reads = [];
    const longer = await load('int8', 64);
    expect(reads).toEqual([]);
    expect(longer.values.get('rope.global.cos')).toMatchObject({ shape: [64, 8] });
  });

  test('float32 weights are not kept', async () => {
    expect((await load('float32')).kept).toBe(false);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('a file that was cut, or holds a tensor of another shape, is not used and made anew; leftovers of a broken write go', async () => {
    const first = await load('int8');
    const path = join(folder, readdirSync(folder)[0]!);
    const whole = readFileSync(path);
    truncateSync(path, whole.length - 100);
    writeFileSync(join(folder, 'x.tmp'), 'left over');
    reads = [];
    expect((await load('int8')).values).toEqual(first.values);
    expect(reads.length).toBeGreaterThan(10);
    expect(readdirSync(folder)).toHaveLength(1);
    writeFileSync(path, Buffer.from(whole.toString('latin1').replace('[64]', '[ 8]'), 'latin1'));
    reads = [];
    expect((await load('int8')).values).toEqual(first.values);
    expect(reads.length).toBeGreaterThan(10);
  });

  test('a folder that cannot be written costs only the keeping', async () => {
    writeFileSync(join(folder, 'file'), '');
    folder = join(folder, 'file', 'below');
    const { kept, values } = await load('int8');
    expect(kept).toBe(false);
    expect(values.size).toBeGreaterThan(10);
  });
});
