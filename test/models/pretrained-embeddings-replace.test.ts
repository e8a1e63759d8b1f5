import { describe, expect, test } from '@jest/globals';
import { Xoshiro128 } from '../../src/common/random.js';
import { gaussian } from '../../src/common/random-streams.js';
import type { DecoderConfig } from '../../src/models/config.js';
import { replaceEmbeddings, withEmbeddings, type ReplaceEmbeddingsInput, type WordVectors } from '../../src/models/pretrained-embeddings.js';
import { orthogonalMap } from '../../src/models/pretrained-embeddings-replace.js';

const [D, C, WORDS] = [6, 10, 600];
const normal = gaussian(new Xoshiro128(5));
const random = (length: number): Float32Array => Float32Array.from({ length }, normal);

/** Words w0 … as word-initial, bare and capital tokens, then ten tokens that match nothing and one beginning of words. */
const texts = Array.from({ length: WORDS }, (_, i) => (i % 3 === 0 ? ` w${i}x` : i % 3 === 1 ? `w${i}x` : ` W${i}x`)).concat(
  Array.from({ length: 10 }, (_, i) => `?${i}`),
  ' w1x', ' word',
);
const V = texts.length;
const source: WordVectors = {
  format: 'glove', dimension: D, duplicates: 0, continuations: new Map(),
  words: new Map([...Array.from({ length: WORDS }, (_, i) => [`w${i}x`, i] as const), ['wordy', WORDS], ['words', WORDS + 1]]),
  vectors: random((WORDS + 2) * D),
};

/** Rows that are a linear map of the vectors plus an offset by spelling, plus noise. */
function planted(noise: number): Float32Array {
  const map = random(D * C);
  const offsets = [random(C), random(C), random(C)] as const;
  const rows = random(V * C);
  for (let token = 0; token < WORDS; token++) {
    for (let c = 0; c < C; c++) {
      let value = 2 + offsets[token % 3]![c]! + noise * normal();
      for (let i = 0; i < D; i++) value += source.vectors[token * D + i]! * map[i * C + c]!;
      rows[token * C + c] = value;
    }
  }
  return rows;
}

const input = (original: Float32Array, more: Partial<ReplaceEmbeddingsInput> = {}): ReplaceEmbeddingsInput => ({ source, texts, original, hiddenSize: C, seed: 1, ...more });
const row = (rows: Float32Array, token: number): Float32Array => rows.subarray(token * C, (token + 1) * C);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => Array.from(a).reduce((sum, value, i) => sum + value * b[i]!, 0);
const norm = (a: ArrayLike<number>): number => Math.sqrt(dot(a, a));

describe('replaceEmbeddings', () => {
  test('recovers a planted map: rows, coverage and what it is worth on held-out tokens', async () => {
    const original = planted(0.01);
    const before = original.slice();
    const { embeddings, report } = await replaceEmbeddings(input(original));
    expect(original).toEqual(before);
    expect(report.projection).toBe('ridge');
    expect(report.tokens).toEqual({ exact: 401, lowerCase: 200, prefix: 0, kept: 11 });
    expect(report.source).toEqual({ format: 'glove', words: 602, continuations: 0, dimension: 6, duplicates: 0 });
    expect(report.heldOut).toMatchObject({ useful: true });
    expect(report.heldOut!.cosine).toBeGreaterThan(0.999);
    expect(report.heldOut!.centredCosine).toBeGreaterThan(0.999);
    expect(report.heldOut!.meanRowCosine).toBeLessThan(0.9);
    for (let token = 0; token < WORDS; token++) {
      const [made, old] = [row(embeddings, token), row(original, token)];
      expect(dot(made, old) / norm(made) / norm(old)).toBeGreaterThan(0.998);
      expect(norm(made)).toBeCloseTo(norm(old), 4);
    }
    for (let token = WORDS; token < WORDS + 10; token++) expect(row(embeddings, token)).toEqual(row(original, token));
  });

  test('new rows spread as far around their offsets as old ones, which least squares alone would not', async () => {
    const original = planted(6);
    const { embeddings, report } = await replaceEmbeddings(input(original, { norm: 'none' }));
    expect(report.projection).toBe('ridge');
    const spread = (rows: Float32Array): number => {
      const [mean, count] = [new Float64Array(C), WORDS / 3];
      for (let token = 0; token < WORDS; token += 3) for (let c = 0; c < C; c++) mean[c]! += rows[token * C + c]! / count;
      let sum = 0;
      for (let token = 0; token < WORDS; token += 3) for (let c = 0; c < C; c++) sum += (rows[token * C + c]! - mean[c]!) ** 2;
      return Math.sqrt(sum / count);
    };
    expect(spread(embeddings) / spread(original)).toBeGreaterThan(0.85);
    expect(spread(embeddings) / spread(original)).toBeLessThan(1.15);
  });

  test('a base whose rows mean nothing gets a random map that keeps angles, and beginnings of words', async () => {
    const original = random(V * C);
    const { embeddings, report } = await replaceEmbeddings(input(original));
    expect(report.heldOut).toMatchObject({ useful: false });
    expect(report.projection).toBe('orthogonal');
    expect(report.tokens).toEqual({ exact: 401, lowerCase: 200, prefix: 1, kept: 10 });
    const vector = (token: number): Float32Array => source.vectors.subarray(token * D, (token + 1) * D);
    for (const [a, b] of [[0, 1], [7, 300], [598, 599]] as const) {
      const made = dot(row(embeddings, a), row(embeddings, b)) / norm(row(embeddings, a)) / norm(row(embeddings, b));
      expect(made).toBeCloseTo(dot(vector(a), vector(b)) / norm(vector(a)) / norm(vector(b)), 5);
    }
    const mean = Array.from(vector(WORDS), (value, i) => (value + vector(WORDS + 1)[i]!) / 2);
    const made = row(embeddings, V - 1);
    expect(dot(made, row(embeddings, 0)) / norm(made) / norm(row(embeddings, 0))).toBeCloseTo(dot(mean, vector(0)) / norm(mean) / norm(vector(0)), 5);
  });

  test('the seed decides: equal bytes for equal seeds', async () => {
    const original = random(V * C);
    const [a, b, c] = await Promise.all([1, 1, 2].map((seed) => replaceEmbeddings(input(original, { seed, projection: 'orthogonal' }))));
    expect(a!.embeddings).toEqual(b!.embeddings);
    expect(a!.embeddings).not.toEqual(c!.embeddings);
  });

  test('norms: the mean of the replaced rows, or as they come', async () => {
    const original = planted(0.1);
    const { embeddings: mean } = await replaceEmbeddings(input(original, { norm: 'mean' }));
    const replaced = Array.from({ length: WORDS }, (_, token) => token).concat(WORDS + 10);
    const expected = replaced.reduce((sum, token) => sum + norm(row(original, token)), 0) / replaced.length;
    for (const token of replaced) expect(norm(row(mean, token))).toBeCloseTo(expected, 3);
    const wide = { ...source, dimension: C, vectors: random((WORDS + 2) * C) };
    const { embeddings, report } = await replaceEmbeddings(input(original, { source: wide, projection: 'identity', norm: 'none', prefixes: false }));
    expect(row(embeddings, 5)).toEqual(wide.vectors.slice(5 * C, 6 * C));
    expect(report).not.toHaveProperty('heldOut');
  });

  test('a row of zeros gets the mean length', async () => {
    const original = planted(0.1).fill(0, 0, C);
    const { embeddings } = await replaceEmbeddings(input(original));
    expect(norm(row(embeddings, 0))).toBeGreaterThan(1);
  });

  test('shares weighted by how often tokens occur', async () => {
    const counts = new Uint32Array(V);
    counts.set([6, 3, 0, 3]); // exact, exact, lower case, exact
    counts[2] = 4;
    counts[WORDS] = 4;
    const { report } = await replaceEmbeddings(input(planted(0.1), { counts }));
    expect(report.dataShares!.exact).toBeCloseTo(12 / 20, 12);
    expect(report.dataShares!.lowerCase).toBeCloseTo(4 / 20, 12);
    expect(report.dataShares!.kept).toBeCloseTo(4 / 20, 12);
  });

  test.each<[string, Partial<ReplaceEmbeddingsInput>, RegExp]>([
    ['vectors of another width for identity', { projection: 'identity' }, /embeddings.projection: identity needs vectors of the model's width 10, these have 6/],
    ['a source without any of the tokens', { source: { ...source, words: new Map([['x', 0]]) } }, /embeddings.source: none of the model's 612 tokens/],
    ['a fit on too few tokens', { source: { ...source, words: new Map([['w0x', 0]]) }, projection: 'ridge' }, /embeddings.projection: a ridge fit needs 64 .* there are 1/],
    ['a seed that is no integer', { seed: 0.5 }, /embeddings.seed/],
  ])('refuses %s', async (_name, more, why) => {
    await expect(replaceEmbeddings(input(planted(1), more))).rejects.toMatchObject({ reason: 'INVALID_FIELD', message: expect.stringMatching(why) });
  });

  test('stops when aborted', async () => {
    const wide = { ...source, dimension: 200, vectors: random((WORDS + 2) * 200) };
    await expect(replaceEmbeddings(input(planted(1), { source: wide, signal: AbortSignal.abort() }))).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

test.each([[4, 9], [9, 4], [5, 5]])('orthogonalMap [%d,%d] has orthonormal rows or columns', (d, c) => {
  const map = orthogonalMap(d, c, 3);
  const line = (i: number): number[] => (d <= c ? Array.from({ length: c }, (_, j) => map[i * c + j]!) : Array.from({ length: d }, (_, j) => map[j * c + i]!));
  for (let i = 0; i < Math.min(d, c); i++) for (let j = 0; j <= i; j++) expect(dot(line(i), line(j))).toBeCloseTo(i === j ? 1 : 0, 12);
});

describe('withEmbeddings', () => {
  const config = { family: 'llama', vocabSize: 4, hiddenSize: 2, tieWordEmbeddings: true } as DecoderConfig;
  const [original, embeddings] = [new Float32Array(8).fill(1), new Float32Array(8).fill(2)];

  test('a tied head is untied and keeps its old rows, or follows', () => {
    const untied = withEmbeddings({ config, original, embeddings });
    expect(untied.config).toEqual({ ...config, tieWordEmbeddings: false });
    expect([...untied.tensors].map(([name, { shape, data }]) => [name, shape, data[0]])).toEqual([['model.embed_tokens.weight', [4, 2], 2], ['lm_head.weight', [4, 2], 1]]);
    const tied = withEmbeddings({ config, original, embeddings, head: 'embeddings' });
    expect(tied.config).toBe(config);
    expect([...tied.tensors.keys()]).toEqual(['model.embed_tokens.weight']);
  });

  test('an untied head stays', () => {
    const base = { ...config, tieWordEmbeddings: false };
    expect([...withEmbeddings({ config: base, original, embeddings }).tensors.keys()]).toEqual(['model.embed_tokens.weight']);
    expect(() => withEmbeddings({ config: base, original, embeddings, head: 'embeddings' })).toThrow(/embeddings.head/);
  });
});
