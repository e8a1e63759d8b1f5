import { describe, expect, test } from '@jest/globals';
import { readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hostTensor, toFloat32, type HostTensor } from '../../src/tensor/host-tensor.js';
import {
  encodeSafetensors, MAX_HEADER_BYTES, parseSafetensors, readSafetensorsHeader, readTensor, writeSafetensors,
} from '../../src/tensor/safetensors.js';
import { writeAtomically } from '../../src/tensor/safetensors-write.js';
import { GOLDEN } from '../golden/smollm2.js';
import { temporaryFolder } from './temporary-folder.js';

const folder = temporaryFolder();

const TENSORS = new Map<string, HostTensor>([
  ['weight', hostTensor('float32', [2, 3], Float32Array.of(1, -2, 3.5, 0, 1e-20, 6))],
  ['half', hostTensor('float16', [4], Uint16Array.of(0x3c00, 0xc000, 1, 0))],
  ['brain', hostTensor('bfloat16', [1, 2], Uint16Array.of(0x3f80, 0x4000))],
  ['ids', hostTensor('int64', [2], BigInt64Array.of(-1n, 1n << 40n))],
  ['flags', hostTensor('bool', [3], Uint8Array.of(1, 0, 1))],
  ['empty', hostTensor('float32', [0, 5], new Float32Array(0))],
  ['scalar', hostTensor('float64', [], Float64Array.of(Math.PI))],
]);

/** A file from a header (JSON text or an object) and data bytes. */
function file(header: unknown, data: number | Uint8Array = 0, claimed?: bigint): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimed ?? BigInt(json.length));
  return Buffer.concat([length, json, typeof data === 'number' ? Buffer.alloc(data) : data]);
}

describe('safetensors', () => {
  test('every dtype and shape comes back from memory and from a file', async () => {
    const path = join(folder, 'all.safetensors');
    await writeSafetensors(path, TENSORS, { b: '2', a: '1' });
    const header = await readSafetensorsHeader(path);
    expect(header.metadata).toEqual({ a: '1', b: '2' });
    expect([...header.tensors.keys()].sort()).toEqual([...TENSORS.keys()].sort());
    const parsed = parseSafetensors(readFileSync(path));
    for (const [name, tensor] of TENSORS) {
      expect(parsed.get(name)).toEqual(tensor);
      expect(await readTensor(header, name)).toEqual(tensor);
    }
  });

  test('equal content gives equal bytes, whatever the order', () => {
    const forward = encodeSafetensors(TENSORS, { a: '1', b: '2' });
    const backward = encodeSafetensors(new Map([...TENSORS].reverse()), { b: '2', a: '1' });
    expect(Buffer.compare(forward, backward)).toBe(0);
  });

  test('reads what the reference implementation wrote, and float widening is right', async () => {
    const header = await readSafetensorsHeader(join(GOLDEN, 'tiny-llama-float16', 'model.safetensors'));
    expect(header.metadata).toEqual({ format: 'pt' });
    const tensor = await readTensor(header, 'model.layers.0.self_attn.q_proj.weight');
    expect(tensor.dtype).toBe('float16');
    expect(tensor.shape).toEqual([16, 16]);
    const values = toFloat32(tensor);
    expect(values.every((value) => Math.abs(value) < 1)).toBe(true);
    expect(new Set(values).size).toBeGreaterThan(100);
  });

  const f32 = (begin: number, end: number, shape: number[] = [(end - begin) / 4]): unknown => ({ dtype: 'F32', shape, data_offsets: [begin, end] });
  const damaged: [string, Uint8Array, RegExp][] = [
    ['an empty file', Buffer.alloc(0), /too short/],
    ['seven bytes', Buffer.alloc(7), /too short/],
    ['a header longer than the file', file({}, 0, 1000n), /truncated/],
    ['a header longer than allowed', file({}, 0, BigInt(MAX_HEADER_BYTES) + 1n), /more than/],
    ['a header length of 2^64-1', file({}, 0, 2n ** 64n - 1n), /more than/],
    ['a header that is not JSON', file('{"a":'), /not JSON/],
    ['a header that is not UTF-8', Buffer.concat([file('').subarray(0, 0), Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0x28])]), /not JSON/],
    ['a header that is a list', file([]), /not a JSON object/],
    ['an entry that is null', file({ a: null }), /"a": its entry/],
    ['an unknown dtype', file({ a: { dtype: 'F7', shape: [1], data_offsets: [0, 4] } }, 4), /unknown dtype "F7"/],
    ['a dtype from Object.prototype', file({ a: { dtype: 'constructor', shape: [1], data_offsets: [0, 4] } }, 4), /unknown dtype/],
    ['a negative size', file({ a: f32(0, 4, [-1]) }, 4), /list of sizes/],
    ['a fractional size', file({ a: f32(0, 4, [1.5]) }, 4), /list of sizes/],
    ['a shape that overflows', file({ a: f32(0, 4, [2 ** 40, 2 ** 40]) }, 4), /needs/],
    ['one offset only', file({ a: { dtype: 'F32', shape: [1], data_offsets: [0] } }, 4), /two offsets/],
    ['offsets in the wrong order', file({ a: { dtype: 'F32', shape: [1], data_offsets: [4, 0] } }, 4), /needs 4/],
    ['a span that disagrees with the shape', file({ a: f32(0, 8, [3]) }, 8), /span 8 bytes, F32 \[3\] needs 12/],
    ['overlapping tensors', file({ a: f32(0, 8), b: f32(4, 12) }, 12), /overlaps/],
    ['a hole between tensors', file({ a: f32(0, 4), b: f32(8, 12) }, 12), /belong to no tensor/],
    ['data shorter than the tensors', file({ a: f32(0, 16) }, 12), /truncated/],
    ['data longer than the tensors', file({ a: f32(0, 4) }, 5), /after the last tensor/],
    ['metadata that is not text', file({ __metadata__: { a: 1 } }), /map of strings/],
  ];
  test.each(damaged)('refuses %s, in memory and on disk', async (_name, bytes, why) => {
    const refusal = expect.objectContaining({ reason: 'CHECKPOINT_CORRUPT', message: expect.stringMatching(why) });
    expect(() => parseSafetensors(bytes)).toThrow(refusal);
    const path = join(folder, 'damaged.safetensors');
    writeFileSync(path, bytes);
    await expect(readSafetensorsHeader(path)).rejects.toThrow(refusal);
  });

  test('a missing file and a missing tensor are CHECKPOINT_MISSING', async () => {
    await expect(readSafetensorsHeader(join(folder, 'none'))).rejects.toMatchObject({ code: 'NOT_FOUND', reason: 'CHECKPOINT_MISSING' });
    const header = await readSafetensorsHeader(join(GOLDEN, 'tiny-llama', 'model.safetensors'));
    await expect(readTensor(header, 'nothing')).rejects.toMatchObject({ reason: 'CHECKPOINT_MISSING' });
  });

  test('a tensor whose array disagrees with its shape is not written', () => {
    expect(() => encodeSafetensors(new Map([['a', { dtype: 'float32', shape: [3], data: new Float32Array(2) }]]))).toThrow(/holds 8 bytes, its shape needs 12/);
    expect(() => hostTensor('float32', [2], new Float64Array(2))).toThrow(/Float32Array/);
  });

  test('a write that fails leaves the old file and nothing else', async () => {
    const path = join(folder, 'kept.bin');
    await writeAtomically(path, [Buffer.from('old')]);
    const filling = (function* () {
      yield Buffer.from('new');
      throw Object.assign(new Error('disk'), { code: 'ENOSPC' });
    })();
    await expect(writeAtomically(path, [Buffer.from('half'), filling as unknown as Uint8Array])).rejects.toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'STORAGE_FULL' });
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(folder).filter((name) => name.includes('kept'))).toEqual(['kept.bin']);
  });

  test('a folder that does not exist is STORAGE_FAILED', async () => {
    await expect(writeSafetensors(join(folder, 'no', 'where.safetensors'), TENSORS)).rejects.toMatchObject({ reason: 'STORAGE_FAILED' });
  });

  test('a link is read through', async () => {
    symlinkSync(join(GOLDEN, 'tiny-llama', 'model.safetensors'), join(folder, 'link.safetensors'));
    expect((await readSafetensorsHeader(join(folder, 'link.safetensors'))).tensors.size).toBe(20);
  });
});
