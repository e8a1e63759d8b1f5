import { describe, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LoricaError } from '../../src/common/errors.js';
import { BinaryReader } from '../../src/models/pretrained-embeddings-binary.js';
import { readWordVectors, type ReadWordVectorsOptions } from '../../src/models/pretrained-embeddings-read.js';
import type { WordVectorParser, WordVectors } from '../../src/models/pretrained-embeddings-table.js';
import { parseNumber, TextReader } from '../../src/models/pretrained-embeddings-text.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const folder = temporaryFolder();

function read(content: string | Buffer, options?: ReadWordVectorsOptions): Promise<WordVectors> {
  const path = join(folder, 'vectors');
  writeFileSync(path, content);
  return readWordVectors(path, options);
}

/** Rows by word. */
function rows({ words, vectors, dimension }: WordVectors): Record<string, number[]> {
  return Object.fromEntries([...words].map(([word, row]) => [word, [...vectors.subarray(row * dimension, (row + 1) * dimension)]]));
}

function binary(words: readonly [string | Buffer, ...number[]][], options: { header?: string; lineFeed?: boolean } = {}): Buffer {
  const parts = words.map(([word, ...values]) => {
    const floats = Buffer.alloc(4 * values.length + (options.lineFeed === true ? 1 : 0), '\n');
    values.forEach((value, i) => floats.writeFloatLE(value, 4 * i));
    return Buffer.concat([Buffer.from(word as string), Buffer.from(' '), floats]);
  });
  return Buffer.concat([Buffer.from(options.header ?? `${words.length} ${words[0]!.length - 1}\n`), ...parts]);
}

describe('GloVe text', () => {
  test('words and values, with and without the last line feed, Windows line ends and a byte order mark', async () => {
    const expected = { the: [0.5, -1.25, 1e-3], Grüße: [1, 2, 3], '🙂': [0, -0, 1e5] };
    const text = 'the 0.5 -1.25 .001\nGrüße 1 2. +3\n🙂 0 -0 1E5';
    for (const variant of [text, `${text}\n`, text.replaceAll('\n', '\r\n'), `\ufeff${text}`]) {
      const vectors = await read(variant);
      expect(vectors).toMatchObject({ format: 'glove', dimension: 3, duplicates: 0 });
      expect(rows(vectors)).toEqual(Object.fromEntries(Object.entries(expected).map(([word, row]) => [word, row.map(Math.fround)])));
    }
  });

  test('a word may hold spaces; the first of equal words counts', async () => {
    const vectors = await read('a 1 2\n. . . 3 4\nat name@host 5 6\na 7 8\n');
    expect(rows(vectors)).toEqual({ a: [1, 2], '. . .': [3, 4], 'at name@host': [5, 6] });
    expect(vectors.duplicates).toBe(1);
  });

  test('maxWords stops reading: damage behind it is not seen', async () => {
    expect(rows(await read('a 1 2\nb 3 4\nc oops 5\n', { maxWords: 2 }))).toEqual({ a: [1, 2], b: [3, 4] });
  });

  test.each<[string, string | Buffer, string[], RegExp]>([
    ['a missing number', 'a 1 2 3\nb 1 2\nc 1 2 3', ['line 2'], /has 2 numbers instead of 3/],
    ['a word alone', 'a 1 2 3\nb\n', ['line 2'], /has 0 numbers/],
    ['an empty line', 'a 1\n\nb 2\n', ['line 2'], /is empty/],
    ['text for a number', 'a 1 2\nb 1 x2\nc 0x1 2\nd nan 1\n', ['line 2', 'line 3', 'line 4'], /'x2' is not a finite number.*'0x1'.*'nan'/],
    ['a number beyond float32', 'a 1 1e39\n', ['line 1'], /'1e39'/],
    ['bytes that are no UTF-8', Buffer.concat([Buffer.from('a 1 2\nb'), Buffer.from([0xff]), Buffer.from(' 1 2\n')]), ['line 2'], /UTF-8/],
    ['a first line that is cut', `a 1\nb ${'2 '.repeat(20)}\n`, ['line 2'], /has 20 numbers instead of 1/],
    ['an empty file', '', ['line 1'], /no vectors/],
  ])('refuses %s by its line', async (_name, content, lines, why) => {
    const error = await read(content).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'CHECKPOINT_CORRUPT', message: expect.stringMatching(why) });
    expect((error as { violations: { field: string }[] }).violations.map(({ field }) => field)).toEqual(lines);
  });

  test('lists twenty damaged lines and counts the others', async () => {
    const error = await read(`a 1 2\n${'b 1\n'.repeat(30)}`).catch((thrown: unknown) => thrown as LoricaError);
    expect((error as LoricaError).message).toMatch(/line 21: [^;]*; and 10 more$/);
    expect((error as LoricaError).violations).toHaveLength(20);
  });

  test('a missing file and an aborted signal say so', async () => {
    await expect(readWordVectors(join(folder, 'none'))).rejects.toMatchObject({ reason: 'CHECKPOINT_MISSING' });
    await expect(read('a 1\n', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('word2vec', () => {
  const words: [string, ...number[]][] = [
    ['</s>', 0.1, -2],
    ['中文', 3, 4],
    ['last', 1e-30, 5],
  ];
  const expected = Object.fromEntries(words.map(([word, ...values]) => [word, values.map(Math.fround)]));

  test('text and binary are told apart and hold the same', async () => {
    const text = await read(`3 2\n${words.map((word) => `${word.join(' ')} \n`).join('')}`);
    expect(text).toMatchObject({ format: 'word2vec', dimension: 2 });
    expect(rows(text)).toEqual(expected);
    for (const lineFeed of [false, true]) {
      const vectors = await read(binary(words, { lineFeed }));
      expect(vectors).toMatchObject({ format: 'word2vec-binary', dimension: 2 });
      expect(rows(vectors)).toEqual(expected);
    }
  });

  test('text: the header must count the words', async () => {
    await expect(read('3 2\na 1 2\nb 3 4\n')).rejects.toThrow(/line 1: says 3 words, the file has 2/);
    await expect(read('3\na 1 2\n', { format: 'word2vec' })).rejects.toThrow(/line 1: is not the two numbers/);
  });

  test.each<[string, Buffer, RegExp]>([
    ['is cut inside a vector', binary(words).subarray(0, -1), /word 3: the file ends here; its header says 3 words/],
    ['claims more words', binary(words, { header: '4 2\n' }), /word 4: the file ends here/],
    ['claims a huge number of words', binary(words, { header: '999999999999 2\n' }), /word 4/],
    ['has no header', binary(words, { header: '' }), /line 1: is not the two numbers/],
    ['has a value that is not finite', binary([['a', 1, NaN], ['b', 1, 2]]), /word 1: value 2 is not a finite number/],
    ['has a word that is no UTF-8', binary([[Buffer.from([0xc3, 0x28]), 1, 2], ['b', 1, 2]]), /word 1: is not valid UTF-8/],
  ])('binary: refuses a file that %s', async (_name, content, why) => {
    await expect(read(content, { format: 'word2vec-binary' })).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT', message: expect.stringMatching(why) });
  });

  test('pieces of any size give the same', () => {
    const feed = (parser: WordVectorParser, bytes: Buffer, size: number): WordVectors => {
      for (let at = 0; at < bytes.length && !parser.push(bytes.subarray(at, at + size)); at += size);
      return parser.finish();
    };
    const text = Buffer.from(`${words.map((word) => word.join(' ')).join('\n')}\n`);
    const packed = binary(words);
    const [header, body] = [packed.subarray(0, 4), packed.subarray(4)];
    for (let size = 1; size < 40; size++) {
      expect(rows(feed(new TextReader('text', 'glove', Infinity), text, size))).toEqual(expected);
      const reader = new BinaryReader('binary', Infinity);
      reader.push(header);
      expect(rows(feed(reader, body, size))).toEqual(expected);
    }
  });
});

test('parseNumber is Number, and NaN for what is no decimal number', () => {
  const parse = (text: string): number => parseNumber(Buffer.from(`;${text};`), 1, 1 + text.length);
  const texts = ['0', '-0', '5', '-.5', '5.', '0.1', '123456789012345', '1234567890123456789', '0.000000000000000000000000123', '-0.33842', '9007199254740993'];
  for (const text of [...texts, '1e5', '-1.5E-7', '+2e+3', '1e400', '0.12345678901234567890']) expect(parse(text)).toBe(Number(text));
  for (let i = 1; i <= 2000; i++) {
    const value = Math.sin(i) * 10 ** ((i % 12) - 6);
    for (const text of [String(value), value.toFixed(i % 15), value.toPrecision(1 + (i % 20))]) expect(parse(text)).toBe(Number(text));
  }
  for (const text of ['', '-', '.', 'e5', '1e', '1.2.3', '--1', '1,5', 'Infinity', 'NaN', '0x10', '1_0']) expect(parse(text)).toBeNaN();
});
