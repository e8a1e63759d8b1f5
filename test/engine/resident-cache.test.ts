import { describe, expect, test } from '@jest/globals';
import { ResidentCache, type Resident } from '../../src/engine/resident-cache.js';

class Fake implements Resident {
  readonly name = 'tenants/t/adapters/a';
  users = 0;
  lastUsedMs = 0;
  disposed = false;

  constructor(readonly digest: string, readonly kind: 'lora' | 'variant', readonly bytes: number) {}

  dispose(): void {
    this.disposed = true;
  }
}

const later = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 2));

describe('ResidentCache', () => {
  test('one load for many, and another after a failure', async () => {
    const cache = new ResidentCache<Fake>({ loraBytes: 100, variants: 1 });
    let loads = 0;
    const failing = (): Promise<Fake> => Promise.reject(new Error(`load ${++loads}`));
    await Promise.allSettled([cache.acquire('k', failing), cache.acquire('k', failing)]);
    expect(loads).toBe(1);
    await expect(cache.acquire('k', failing)).rejects.toThrow('load 2');
    const good = await Promise.all([1, 2, 3].map(() => cache.acquire('k', () => Promise.resolve(new Fake(`d${++loads}`, 'lora', 1)))));
    expect(new Set(good).size).toBe(1);
    expect(good[0]!.users).toBe(3);
  });

  test('the least recently used idle one goes when bytes or variants are too many; what is in use stays', async () => {
    const sizes: number[] = [];
    const cache = new ResidentCache<Fake>({ loraBytes: 10, variants: 1 }, (size) => sizes.push(size));
    const get = (digest: string, kind: 'lora' | 'variant', bytes: number): Promise<Fake> => cache.acquire(digest, () => Promise.resolve(new Fake(digest, kind, bytes)));
    const a = await get('a', 'lora', 6);
    await later();
    const b = await get('b', 'lora', 6);
    expect([a.disposed, b.disposed]).toEqual([false, false]);
    cache.release(a);
    expect([a.disposed, b.disposed]).toEqual([true, false]);
    const v = await get('v', 'variant', 1000);
    await later();
    const w = await get('w', 'variant', 1000);
    cache.release(w);
    expect([v.disposed, w.disposed]).toEqual([false, true]);
    cache.release(v);
    cache.release(b);
    expect(cache.list().map((r) => r.digest)).toEqual(['b', 'v']);
    expect(cache.drop('b')).toBe(true);
    expect(cache.drop('b')).toBe(false);
    cache.close();
    expect(v.disposed).toBe(true);
    expect(sizes.at(-1)).toBe(0);
  });

  test('what somebody still waits for is not dropped, whenever another one is released', async () => {
    for (let turns = 0; turns < 12; turns++) {
      const cache = new ResidentCache<Fake>({ loraBytes: 10, variants: 1 });
      const a = await cache.acquire('a', () => Promise.resolve(new Fake('a', 'lora', 6)));
      await cache.acquire('a', () => Promise.reject(new Error('is there')));
      const acquired = cache.acquire('b', () => Promise.resolve(new Fake('b', 'lora', 6)));
      for (let turn = 0; turn < turns; turn++) await Promise.resolve();
      cache.release(a);
      expect((await acquired).disposed).toBe(false);
      expect((await acquired).users).toBe(1);
    }
  });

  test('what loads while the cache is closed is disposed, and refused to those who wait', async () => {
    const cache = new ResidentCache<Fake>({ loraBytes: 10, variants: 1 });
    const late = new Fake('a', 'lora', 1);
    const acquired = cache.acquire('a', () => later().then(() => late));
    cache.close();
    await expect(acquired).rejects.toMatchObject({ code: 'UNAVAILABLE', reason: 'SHUTTING_DOWN' });
    expect(late.disposed).toBe(true);
    expect(cache.list()).toEqual([]);
  });

  test('what is in use cannot be dropped', async () => {
    const cache = new ResidentCache<Fake>({ loraBytes: 10, variants: 1 });
    const a = await cache.acquire('a', () => Promise.resolve(new Fake('a', 'lora', 1)));
    expect(cache.drop('a')).toBe(false);
    cache.release(a);
    expect(cache.drop('a')).toBe(true);
  });
});
