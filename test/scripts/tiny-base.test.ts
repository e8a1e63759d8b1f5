import { readdir, readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { clean, type Document } from '../../scripts/tiny-base/corpus.js';
import { initialWeights, parameterCount, TINY_CONFIG } from '../../scripts/tiny-base/init.js';
import { HELD_OUT_EVERY, packCorpus } from '../../scripts/tiny-base/pack.js';
import { END_OF_TEXT_ID, SPECIAL_TOKENS } from '../../scripts/tiny-base/tokenizer-files.js';
import { openCheckpoint } from '../../src/models/checkpoint.js';

describe('clean', () => {
  test('typographic marks and white space become plain', () => {
    expect(clean('  “It’s”—he said…\r\n\r\n \t_Pequod_ sails ')).toBe('"It\'s" - he said...\nPequod sails');
  });
});

describe('packCorpus', () => {
  const documents: Document[] = Array.from({ length: 100 }, (_, i) => ({ source: 's', id: `${i}`, text: String.fromCharCode(1000 + i).repeat(7) }));
  const encode = (text: string): number[] => Array.from(text, (character) => character.codePointAt(0)!);
  const packed = packCorpus(documents, encode, 16, 1);

  test('every row feeds 16 tokens, and all but its first token count', () => {
    for (const { tokens, lossMask } of [...packed.train, ...packed.validation]) {
      expect(tokens).toHaveLength(17);
      expect(lossMask).toEqual([false, ...Array<boolean>(16).fill(true)]);
    }
  });

  test('rows overlap by one, so that each token is predicted once, and documents end with the end token', () => {
    const stream = packed.train.flatMap((row, i) => (i === 0 ? row.tokens : row.tokens.slice(1)));
    expect(stream).toHaveLength(16 * packed.train.length + 1);
    stream.forEach((token, i) => {
      if (token === END_OF_TEXT_ID) expect(i % 8).toBe(7);
    });
  });

  test('held-out documents are never trained on', () => {
    const heldOut = new Set(documents.filter((_, i) => i % HELD_OUT_EVERY === 0).map((document) => document.text.codePointAt(0)!));
    const trained = new Set(packed.train.flatMap((row) => row.tokens));
    expect([...heldOut].filter((token) => trained.has(token))).toEqual([]);
    expect(packed.trainTokens + packed.validationTokens).toBe(800);
  });

  test('the seed decides the order', () => {
    expect(packCorpus(documents, encode, 16, 1)).toEqual(packed);
    expect(packCorpus(documents, encode, 16, 2).train).not.toEqual(packed.train);
  });
});

describe('initialWeights', () => {
  const config = { ...TINY_CONFIG, vocabSize: 512, layers: 1 };
  const bytes = (seed: number): Buffer[] => [...initialWeights(config, seed).values()].map((values) => Buffer.from(values.buffer));

  test('gains are 1, the rest is N(0, 0.02²), and the seed decides', () => {
    const weights = initialWeights(config, 1);
    expect(weights.get('model.norm.weight')!.every((gain) => gain === 1)).toBe(true);
    const embedding = weights.get('model.embed_tokens.weight')!;
    const mean = embedding.reduce((sum, value) => sum + value, 0) / embedding.length;
    const deviation = Math.sqrt(embedding.reduce((sum, value) => sum + (value - mean) ** 2, 0) / embedding.length);
    expect(Math.abs(mean)).toBeLessThan(4e-4);
    expect(Math.abs(deviation - 0.02)).toBeLessThan(4e-4);
    expect(Buffer.concat(bytes(1)).equals(Buffer.concat(bytes(1)))).toBe(true);
    expect(Buffer.concat(bytes(2)).equals(Buffer.concat(bytes(1)))).toBe(false);
  });
});

describe('models/tiny', () => {
  const folder = resolve(import.meta.dirname, '../../models/tiny');

  test('is what the script makes, at most 4 MB, and says what it was trained on', async () => {
    const checkpoint = await openCheckpoint(folder);
    expect(checkpoint.config).toEqual(TINY_CONFIG);
    expect(SPECIAL_TOKENS.map((token) => checkpoint.tokenizer.encode(token))).toEqual([[0], [1], [2]]);
    expect(checkpoint.chatTemplate!.render([{ role: 'user', content: 'Hi' }], { addGenerationPrompt: true })).toBe('<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n');
    await checkpoint.close();
    const sizes = await Promise.all((await readdir(folder)).map(async (name) => (await stat(join(folder, name))).size));
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(4_000_000);
    const readme = await readFile(join(folder, 'README.md'), 'utf8');
    expect(readme).toContain(parameterCount(TINY_CONFIG).toLocaleString('en-US'));
    expect(readme).toMatch(/\| cosine \| [\d,]+ \| \d\.\d{3} \| \d\.\d{3} \|/);
  });
});
