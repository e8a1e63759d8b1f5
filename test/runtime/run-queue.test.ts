import { describe, expect, test } from '@jest/globals';
import { RunQueue, type Job } from '../../src/runtime/run-queue.js';
import { GENERATION_FIRST } from '../../src/runtime/time-sharing.js';
import type { Lane } from '../../src/runtime/types.js';

/** A queue with jobs of 10 ms that end when told to, and the order in which they started. */
class Bench {
  private ms = 0;
  readonly queue = new RunQueue(GENERATION_FIRST, () => this.ms);
  readonly started: string[] = [];
  readonly cancelled: string[] = [];
  private readonly ends = new Map<string, (error: Error | null) => void>();

  add(name: string, lane: Lane, signal?: AbortSignal): Promise<string> {
    const job: Job = {
      start: (done) => {
        this.started.push(name);
        this.ends.set(name, done);
      },
      cancel: () => this.cancelled.push(name),
    };
    return this.queue.schedule(name, lane, signal, job).then(() => name);
  }

  end(error: Error | null = null): void {
    const name = this.started.at(-1) as string;
    this.ms += 10;
    this.ends.get(name)?.(error);
  }

  endAll(): void {
    for (let before = -1; before !== this.started.length;) {
      before = this.started.length;
      this.end();
    }
  }
}

describe('RunQueue', () => {
  test('starts at once when idle, and one at a time', () => {
    const bench = new Bench();
    void bench.add('a', 'training');
    void bench.add('b', 'training');
    expect(bench.started).toEqual(['a']);
    expect(bench.queue.waiting).toBe(1);
    bench.end();
    expect(bench.started).toEqual(['a', 'b']);
  });

  test('generation that waits goes first', () => {
    const bench = new Bench();
    for (const name of ['t1', 't2', 't3']) void bench.add(name, 'training');
    for (const name of ['g1', 'g2', 'g3', 'g4']) void bench.add(name, 'generation');
    bench.endAll();
    expect(bench.started).toEqual(['t1', 'g1', 'g2', 'g3', 'g4', 't2', 't3']);
  });

  test('a decode loop alternates with a training loop', async () => {
    const bench = new Bench();
    const loop = async (name: string, lane: Lane): Promise<void> => {
      for (let i = 0; i < 4; i++) await bench.add(`${name}${i}`, lane);
    };
    const loops = [loop('t', 'training'), loop('g', 'generation')];
    for (let i = 0; i < 8; i++) {
      bench.end();
      await new Promise(setImmediate);
    }
    await Promise.all(loops);
    expect(bench.started).toEqual(['t0', 'g0', 't1', 'g1', 't2', 'g2', 't3', 'g3']);
  });

  test('training and evaluation are one class, first come first served', () => {
    const bench = new Bench();
    void bench.add('g', 'generation');
    void bench.add('e1', 'evaluation');
    void bench.add('t1', 'training');
    void bench.add('e2', 'evaluation');
    bench.endAll();
    expect(bench.started).toEqual(['g', 'e1', 't1', 'e2']);
  });

  test('an aborted run that waits never starts; the order of the others stays', async () => {
    const bench = new Bench();
    const abort = new AbortController();
    void bench.add('a', 'training');
    const waiting = bench.add('b', 'training', abort.signal);
    void bench.add('c', 'training');
    abort.abort();
    await expect(waiting).rejects.toMatchObject({ code: 'CANCELLED', reason: 'CANCELLED' });
    bench.endAll();
    expect(bench.started).toEqual(['a', 'c']);
    expect(bench.cancelled).toEqual([]);
    await expect(bench.add('d', 'training', abort.signal)).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(bench.started).toEqual(['a', 'c']);
  });

  test('aborting a started run asks it to end, and the next begins only when it has', async () => {
    const bench = new Bench();
    const abort = new AbortController();
    const first = bench.add('a', 'training', abort.signal);
    void bench.add('b', 'training');
    abort.abort();
    expect(bench.cancelled).toEqual(['a']);
    expect(bench.started).toEqual(['a']);
    bench.end(new Error('terminated'));
    await expect(first).rejects.toThrow('terminated');
    expect(bench.started).toEqual(['a', 'b']);
  });

  test('a failure, and a start that throws, leave the queue working', async () => {
    const bench = new Bench();
    const first = bench.add('a', 'training');
    const broken = bench.queue.schedule('x', 'training', undefined, { start: () => { throw new Error('cannot start'); }, cancel: () => undefined });
    const last = bench.add('b', 'training');
    bench.end(new Error('failed'));
    await expect(first).rejects.toThrow('failed');
    await expect(broken).rejects.toThrow('cannot start');
    bench.end();
    await expect(last).resolves.toBe('b');
  });

  test('drained resolves also when the last one that waits is aborted', async () => {
    const bench = new Bench();
    const abort = new AbortController();
    void bench.add('a', 'training');
    const waiting = bench.add('b', 'training', abort.signal);
    const drained = bench.queue.drained();
    abort.abort();
    await expect(waiting).rejects.toMatchObject({ reason: 'CANCELLED' });
    bench.end();
    await drained;
  });

  test('drained resolves when nothing runs and nothing waits', async () => {
    const bench = new Bench();
    await bench.queue.drained();
    void bench.add('a', 'training');
    void bench.add('b', 'generation');
    let drained = false;
    const waiting = bench.queue.drained().then(() => (drained = true));
    bench.end();
    await new Promise(setImmediate);
    expect(drained).toBe(false);
    bench.end();
    await waiting;
    expect(drained).toBe(true);
  });
});
