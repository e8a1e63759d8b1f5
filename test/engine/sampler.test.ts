import { describe, expect, test } from '@jest/globals';
import { Xoshiro128 } from '../../src/common/random.js';
import { argMax, expNegative, Sampler, type SamplerSettings } from '../../src/engine/sampler.js';

const settings = (over: Partial<SamplerSettings> = {}): SamplerSettings => ({ temperature: 1, topP: 1, topK: 0, seed: 1n, ...over });
const LOGITS = Float32Array.from([1, 3, 2, 0, 3, -1, -Infinity, 2.5]);

/** Probabilities by the definition: sort, cut, normalize. Ties keep the lower id. */
function reference(logits: Float32Array, s: SamplerSettings): number[] {
  const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
  const kept = s.topK > 0 ? order.slice(0, s.topK) : order;
  const weights = kept.map((i) => Math.exp((logits[i]! - logits[order[0]!]!) / s.temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  const out = new Array<number>(logits.length).fill(0);
  let sum = 0;
  for (let i = 0; i < kept.length && sum < s.topP * total; i++) {
    out[kept[i]!] = weights[i]!;
    sum += weights[i]!;
  }
  return out.map((w) => w / sum);
}

function frequencies(logits: Float32Array, s: SamplerSettings, draws: number): number[] {
  const sampler = new Sampler(logits.length);
  const counts = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < draws; i++) counts[sampler.sample(logits, s, i)]!++;
  return counts.map((c) => c / draws);
}

describe('Sampler', () => {
  test('greedy takes the largest, the lowest id on ties', () => {
    expect(new Sampler(8).sample(LOGITS, settings({ temperature: 0 }), 0)).toBe(1);
    expect(new Sampler(8).sample(LOGITS, settings({ topK: 1, temperature: 5 }), 3)).toBe(1);
  });

  test.each([
    settings(), settings({ temperature: 0.5 }), settings({ temperature: 2 }), settings({ topK: 3 }), settings({ topK: 2, temperature: 3 }),
    settings({ topP: 0.5 }), settings({ topP: 0.9 }), settings({ topK: 4, topP: 0.8, temperature: 1.5 }), settings({ topP: 1e-6 }), settings({ topK: 100 }),
  ])('draws follow the definition: %o', (s) => {
    const draws = 20_000;
    const expected = reference(LOGITS, s);
    const actual = frequencies(LOGITS, s, draws);
    for (let i = 0; i < expected.length; i++) {
      if (expected[i] === 0) expect(actual[i]).toBe(0);
      else expect(Math.abs(actual[i]! - expected[i]!)).toBeLessThan(5 * Math.sqrt((expected[i]! * (1 - expected[i]!)) / draws) + 1e-12);
    }
  });

  test.each([0.2, 0.5, 0.9, 0.999])('the nucleus of %d of many close and equal logits is the definition\'s', (topP) => {
    const random = new Xoshiro128(3);
    const logits = Float32Array.from({ length: 60 }, (_, i) => (i % 5 === 0 ? 1 : (random.nextUint32() / 2 ** 32) * 2));
    const draws = 20_000;
    const expected = reference(logits, settings({ topP }));
    const actual = frequencies(logits, settings({ topP }), draws);
    expected.forEach((p, i) => {
      if (p === 0) expect(actual[i]).toBe(0);
      else expect(Math.abs(actual[i]! - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / draws));
    });
  });

  test('the nucleus on a large vocabulary is the definition\'s', () => {
    const random = new Xoshiro128(9);
    const logits = Float32Array.from({ length: 5000 }, () => (random.nextUint32() / 2 ** 32) * 8);
    const s = settings({ topP: 0.3 });
    const allowed = reference(logits, s);
    const sampler = new Sampler(logits.length);
    const drawn = Array.from({ length: 2000 }, (_, i) => sampler.sample(logits, s, i));
    expect(drawn.filter((id) => allowed[id] === 0)).toEqual([]);
  });

  test('a seed and a token number fix the draw', () => {
    const sampler = new Sampler(8);
    const once = Array.from({ length: 50 }, (_, i) => sampler.sample(LOGITS, settings({ seed: 99n }), i));
    const backwards = Array.from({ length: 50 }, (_, i) => new Sampler(8).sample(LOGITS, settings({ seed: 99n }), 49 - i)).reverse();
    expect(backwards).toEqual(once);
    expect(Array.from({ length: 50 }, (_, i) => sampler.sample(LOGITS, settings({ seed: 100n }), i))).not.toEqual(once);
  });

  test('logits without one finite value are an error, a single NaN is passed over', () => {
    expect(() => argMax(new Float32Array(4).fill(NaN))).toThrow('not finite');
    expect(() => argMax(Float32Array.of(1, Infinity))).toThrow('not finite');
    expect(argMax(Float32Array.of(NaN, 1, 2))).toBe(2);
  });
});

describe('the exponential', () => {
  test('expNegative is within 1e-10 of Math.exp, relative', () => {
    let worst = 0;
    for (let i = 0; i <= 64_000; i++) worst = Math.max(worst, Math.abs(expNegative(-i / 1000) / Math.exp(-i / 1000) - 1));
    expect(worst).toBeLessThan(1e-10);
  });

  test('log-probabilities are those of the softmax in float64', () => {
    const random = new Xoshiro128(2);
    const logits = Float32Array.from({ length: 3000 }, () => (random.nextUint32() / 2 ** 32) * 30 - 90);
    const normalizer = Math.log(logits.reduce((sum, l) => sum + Math.exp(l + 75), 0)) - 75;
    const sampler = new Sampler(3000);
    for (const id of [0, 1, 2999]) expect(sampler.logProbability(logits, id)).toBeCloseTo(logits[id]! - normalizer, 9);
  });
});
