import { expect, test } from '@jest/globals';
import { FileOffsets, MAX_CHUNK_BYTES } from '../../src/services/file-chunks.js';

test('chunks must follow each other and have a size', () => {
  const offsets = new FileOffsets('chunk');
  expect(offsets.accept({ offset: 0, data: Buffer.alloc(3) })).toHaveLength(3);
  expect(() => offsets.accept({ offset: 2, data: Buffer.alloc(1) })).toThrow(/chunk.offset: must be 3/);
  expect(() => offsets.accept({ offset: 3, data: Buffer.alloc(0) })).toThrow(/chunk.data/);
  expect(() => offsets.accept({ offset: 3, data: Buffer.alloc(MAX_CHUNK_BYTES + 1) })).toThrow(/chunk.data/);
  expect(offsets.accept({ offset: 3, data: Buffer.alloc(MAX_CHUNK_BYTES) })).toHaveLength(MAX_CHUNK_BYTES);
});
