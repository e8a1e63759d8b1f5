import { describe, expect, test } from '@jest/globals';
import { Readable } from 'node:stream';
import { gloveLines } from '../../data/wink-embeddings.js';

const WORDS: Record<string, number[]> = {
  the: [-0.5, 1e-7, 3],
  ',': [1, 2, 3],
  '"': [1, 2, 3],
  ']': [4, 5, 6],
  '\\': [7, 8, 9],
  é: [0, 0, 1],
};

function json(size = Object.keys(WORDS).length): string {
  const vectors = Object.fromEntries(Object.entries(WORDS).map(([word, values], i) => [word, [...values, 3.7, i]]));
  return JSON.stringify({
    precision: 8,
    l2NormIndex: 3,
    wordIndex: 4,
    size,
    dimensions: 3,
    words: Object.keys(WORDS),
    vectors,
    unkVector: [0, 0, 0, 0, -1],
  });
}

async function lines(text: string, size: number): Promise<string[]> {
  const chunks = Array.from({ length: Math.ceil(text.length / size) }, (_, i) => text.slice(i * size, (i + 1) * size));
  const out: string[] = [];
  for await (const line of gloveLines(Readable.from(chunks))) out.push(line);
  return out;
}

describe('gloveLines', () => {
  test('the first numbers of every word, however the stream is cut', async () => {
    const expected = ['the -0.5 1e-7 3\n', ', 1 2 3\n', '" 1 2 3\n', '] 4 5 6\n', '\\ 7 8 9\n', 'é 0 0 1\n'];
    for (const size of [1, 2, 7, 50, 10_000]) expect(await lines(json(), size)).toEqual(expected);
  });

  test.each<[string, string, RegExp]>([
    ['a stream that is cut', json().slice(0, -60), /the vectors end after word \d/],
    ['a word too few', json(7), /6 vectors instead of 7/],
    ['numbers too few', json().replace('[1,2,3,3.7,1]', '[1,2]'), /word 2, ",": 2 numbers of 3/],
    ['another document', '{"words":[]}', /the vectors end after word 0/],
    ['no count', json().replace('"size"', '"length"'), /no "size"/],
  ])('refuses %s', async (_name, text, why) => {
    await expect(lines(text, 64)).rejects.toThrow(why);
  });
});
