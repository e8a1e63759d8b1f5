import { describe, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { readGgufHeader } from '../../src/tensor/gguf.js';
import { readGgufFloat32 } from '../../src/tensor/gguf-dequantize.js';
import { readSafetensorsHeader, readTensor } from '../../src/tensor/safetensors.js';
import { GOLDEN } from '../golden/smollm2.js';
import { bytesOf, encodeGguf, text, type GgufContent } from './gguf-writer.js';
import { temporaryFolder } from './temporary-folder.js';

const folder = temporaryFolder();

function save(bytes: Uint8Array): string {
  const path = join(folder, 'file.gguf');
  writeFileSync(path, bytes);
  return path;
}

const tensor = { name: 'a', shape: [2, 4], data: bytesOf(Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8)) };
const good: GgufContent = {
  metadata: { 'general.architecture': { text: 'llama' }, 'some.texts': { texts: ['x', 'ÿ', ''] }, 'some.flag': { bool: true } },
  tensors: [tensor, { name: 'b', shape: [3], data: bytesOf(Float32Array.of(9, 10, 11)) }],
};

describe('GGUF', () => {
  test('every storage type is dequantized to the bit as the gguf package does', async () => {
    const path = join(GOLDEN, 'blocks.gguf');
    const gguf = await readGgufHeader(path);
    const expected = await readSafetensorsHeader(join(GOLDEN, 'blocks.safetensors'));
    expect([...gguf.tensors.values()].map((info) => info.type.name)).toEqual([
      'F32',
      'F16',
      'BF16',
      'Q8_0',
      'Q4_0',
      'Q4_1',
      'Q5_0',
      'Q5_1',
      'Q4_K',
      'Q5_K',
      'Q6_K',
    ]);
    const file = await open(path);
    try {
      for (const info of gguf.tensors.values()) {
        expect(info.shape).toEqual(info.type.blockElements === 256 ? [4, 256] : [5, 96]);
        const values = await readGgufFloat32(file, info, path);
        const wanted = (await readTensor(expected, info.name)).data;
        expect({ type: info.type.name, bits: Buffer.from(values.buffer).toString('hex') }).toEqual({
          type: info.type.name,
          bits: Buffer.from(wanted.buffer).toString('hex'),
        });
      }
    } finally {
      await file.close();
    }
  });

  test('metadata of the gguf package comes back, large integers whole', async () => {
    const { metadata, version } = await readGgufHeader(join(GOLDEN, 'blocks.gguf'));
    expect(version).toBe(3);
    expect(metadata.get('general.architecture')).toBe('llama');
    expect(metadata.get('test.text')).toBe('Grüße 🙂');
    expect(metadata.get('test.list')).toEqual([1, -2, 3]);
    expect(metadata.get('test.double')).toBe(0.1);
    expect(metadata.get('test.large')).toBe(2n ** 63n + 1n);
  });

  test('shapes are outermost first and tensors are read by range', async () => {
    const path = save(encodeGguf(good));
    const gguf = await readGgufHeader(path);
    expect(gguf.tensors.get('a')?.shape).toEqual([2, 4]);
    const file = await open(path);
    try {
      expect([...(await readGgufFloat32(file, gguf.tensors.get('b') as never, path))]).toEqual([9, 10, 11]);
    } finally {
      await file.close();
    }
  });

  test('a header longer than the first read is read on', async () => {
    const many = Array.from({ length: 250_000 }, (_, i) => `token number ${i}`);
    const gguf = await readGgufHeader(save(encodeGguf({ metadata: { tokens: { texts: many } }, tensors: [tensor] })));
    const tokens = gguf.metadata.get('tokens') as string[];
    expect(tokens.join() === many.join()).toBe(true);
    expect(gguf.tensors.get('a')?.shape).toEqual([2, 4]);
  });

  const u32 = (value: number): Buffer => Buffer.from(Uint32Array.of(value).buffer);
  const u64 = (value: bigint): Buffer => Buffer.from(BigUint64Array.of(value).buffer);
  const nested = (depth: number): Buffer =>
    Buffer.concat([u32(9), ...Array.from({ length: depth }, () => Buffer.concat([u32(9), u64(1n)])), u32(4), u64(0n)]);
  const whole = encodeGguf(good);
  const damaged: [string, Uint8Array, RegExp][] = [
    ['an empty file', Buffer.alloc(0), /truncated/],
    ['another magic', encodeGguf({ ...good, magic: 'GGML' }), /does not begin with/],
    ['version 1', encodeGguf({ ...good, version: 1 }), /version 1/],
    ['a big-endian file', encodeGguf({ ...good, version: 0x03000000 }), /big-endian/],
    ['more tensors than there are', encodeGguf({ ...good, tensorCount: 50n }), /truncated|dimensions|occurs twice|type/],
    ['2^63 tensors', encodeGguf({ ...good, tensorCount: 2n ** 63n }), /number of tensors/],
    ['2^63 keys', encodeGguf({ ...good, keyCount: 2n ** 63n }), /number of metadata keys/],
    ['a text of 2^60 bytes', encodeGguf({ metadata: { k: { raw: Buffer.concat([u32(8), u64(2n ** 60n)]) } } }), /length of metadata "k"/],
    ['a text beyond the end', encodeGguf({ metadata: { k: { raw: Buffer.concat([u32(8), u64(100_000n)]) } } }), /truncated/],
    ['a list beyond the end', encodeGguf({ metadata: { k: { raw: Buffer.concat([u32(9), u32(4), u64(1_000_000n)]) } } }), /truncated/],
    ['lists nested without end', encodeGguf({ metadata: { k: { raw: nested(40) } } }), /nests/],
    ['an unknown value type', encodeGguf({ metadata: { k: { raw: u32(77) } } }), /value type 77/],
    [
      'a key twice',
      encodeGguf({ keyCount: 2n, metadata: { k: { raw: Buffer.concat([u32(4), u32(1), text('k'), u32(4), u32(2)]) } } }),
      /"k" occurs twice/,
    ],
    ['an alignment of 3', encodeGguf({ ...good, metadata: { 'general.alignment': { u32: 3 } } }), /alignment 3/],
    ['a tensor twice', encodeGguf({ tensors: [tensor, tensor] }), /"a" occurs twice/],
    ['five dimensions', encodeGguf({ tensors: [{ ...tensor, shape: [1, 1, 1, 2, 4] }] }), /5 dimensions/],
    ['a dimension of 2^62', encodeGguf({ tensors: [{ ...tensor, shape: [2 ** 62, 4] }] }), /a dimension of tensor "a"/],
    ['dimensions that overflow', encodeGguf({ tensors: [{ ...tensor, shape: [2 ** 39, 2 ** 39, 2 ** 39] }] }), /truncated/],
    ['an offset beyond the end', encodeGguf({ tensors: [{ ...tensor, offset: 4096 }] }), /truncated: tensor "a"/],
    ['an offset that is not aligned', encodeGguf({ tensors: [{ ...tensor, offset: 4 }] }), /not aligned/],
    ['overlapping tensors', encodeGguf({ tensors: [tensor, { ...tensor, name: 'b', offset: 0 }] }), /overlaps/],
    ['rows that are no whole blocks', encodeGguf({ tensors: [{ ...tensor, type: 8 }] }), /no whole Q8_0 blocks/],
  ];
  test.each(damaged)('refuses %s', async (_name, bytes, why) => {
    await expect(readGgufHeader(save(bytes))).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT', message: expect.stringMatching(why) });
  });

  test('is refused when cut anywhere', async () => {
    for (let length = 0; length < whole.length - 20; length += 7) {
      await expect(readGgufHeader(save(whole.subarray(0, length)))).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT' });
    }
  });

  test('a storage type that is not read is named with those that are', async () => {
    const error = expect.objectContaining({ reason: 'MODEL_UNSUPPORTED', hint: expect.stringContaining('Q8_0') });
    await expect(readGgufHeader(save(encodeGguf({ tensors: [{ ...tensor, type: 10 }] })))).rejects.toThrow(error);
  });

  test('a file cut while it is open is CHECKPOINT_CORRUPT, not zeros', async () => {
    const path = save(whole);
    const gguf = await readGgufHeader(path);
    writeFileSync(path, whole.subarray(0, whole.length - 40));
    const file = await open(path);
    try {
      await expect(readGgufFloat32(file, gguf.tensors.get('b') as never, path)).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT' });
    } finally {
      await file.close();
    }
  });
});
