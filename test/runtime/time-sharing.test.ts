import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { RunQueue } from '../../src/runtime/run-queue.js';
import { parseTimeSharing, type TimeSharing } from '../../src/runtime/time-sharing.js';
import type { Lane } from '../../src/runtime/types.js';

const DECODE_MS = 10;
const SAMPLING_MS = 2;
const SEGMENT_MS = 60;

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

/** What each lane got of a simulated device, and the longest that a decode step waited. */
interface Shares {
  readonly generationMs: number;
  readonly trainingMs: number;
  readonly idleMs: number;
  readonly longestWaitMs: number;
}

/** `streams` decode loops (a run, then sampling) beside `jobs` training loops for `totalMs`, as native runs on one device. */
async function simulate(sharing: TimeSharing, { streams = 1, jobs = 1, totalMs = 30_000 } = {}): Promise<Shares> {
  const queue = new RunQueue(sharing);
  const ranMs: Record<Lane, number> = { generation: 0, training: 0, evaluation: 0 };
  let longestWaitMs = 0;
  let over = false;
  const run = (lane: Lane, ms: number): Promise<void> => {
    const asked = performance.now();
    return queue.schedule('run', lane, undefined, {
      start: (done) => {
        if (lane === 'generation') longestWaitMs = Math.max(longestWaitMs, performance.now() - asked);
        setTimeout(() => {
          ranMs[lane] += ms;
          done(null);
        }, ms);
      },
      cancel: () => undefined,
    });
  };
  const decode = async (): Promise<void> => {
    while (!over) {
      await run('generation', DECODE_MS);
      await new Promise((resolve) => setTimeout(resolve, SAMPLING_MS));
    }
  };
  const train = async (): Promise<void> => {
    while (!over) await run('training', SEGMENT_MS);
  };
  const from = performance.now();
  const loops = [...Array.from({ length: streams }, decode), ...Array.from({ length: jobs }, train)];
  await jest.advanceTimersByTimeAsync(totalMs);
  const { generation, training } = ranMs;
  const idleMs = performance.now() - from - generation - training;
  over = true;
  await jest.advanceTimersByTimeAsync(1_000);
  await Promise.all(loops);
  return { generationMs: generation, trainingMs: training, idleMs, longestWaitMs };
}

const shares = (rule: string, load?: Parameters<typeof simulate>[1]): Promise<Shares> => simulate(parseTimeSharing(rule)!, load);

describe('time sharing', () => {
  test('generation first: a token waits for one segment at most, and the device never idles', async () => {
    const { generationMs, trainingMs, idleMs, longestWaitMs } = await shares('generation-first');
    expect(longestWaitMs).toBeLessThanOrEqual(SEGMENT_MS);
    expect(idleMs).toBeLessThanOrEqual(SEGMENT_MS);
    expect(trainingMs / generationMs).toBeCloseTo(SEGMENT_MS / DECODE_MS, 1);
  });

  test('generation that never pauses leaves a tenth to the rest', async () => {
    const { generationMs, trainingMs } = await shares('generation-first', { streams: 4 });
    expect(trainingMs / (generationMs + trainingMs)).toBeCloseTo(0.1, 1);
  });

  test.each([
    ['weighted', 1],
    ['weighted:3:1', 3],
    ['weighted:1:4', 1 / 4],
  ])('%s: times are as the weights, however long the runs and however many loops', async (rule, ratio) => {
    for (const load of [{}, { jobs: 3 }, { streams: 3 }, { streams: 2, jobs: 2 }]) {
      const { generationMs, trainingMs } = await shares(rule, { ...load, totalMs: 60_000 });
      expect(Math.abs(generationMs / trainingMs / ratio - 1)).toBeLessThan(0.05);
    }
  });

  test('training first: generation gets a tenth and never starves', async () => {
    const { generationMs, trainingMs, idleMs, longestWaitMs } = await shares('training-first');
    expect(generationMs / (generationMs + trainingMs)).toBeCloseTo(0.1, 2);
    expect(longestWaitMs).toBeLessThanOrEqual(1_000);
    expect(idleMs).toBeLessThanOrEqual(SEGMENT_MS);
  });

  test.each(['generation-first', 'weighted:2:1', 'training-first'])('%s: one that is alone has the whole device', async (rule) => {
    const training = await shares(rule, { streams: 0 });
    expect(training.idleMs).toBeLessThanOrEqual(SEGMENT_MS);
    const generation = await shares(rule, { jobs: 0 });
    expect(generation.generationMs / 30_000).toBeCloseTo(DECODE_MS / (DECODE_MS + SAMPLING_MS), 2);
  });

  test('one that was away saves nothing up', async () => {
    const queue = new RunQueue(parseTimeSharing('weighted'));
    const order: string[] = [];
    const add = (lane: Lane, ms: number): Promise<void> =>
      queue.schedule('run', lane, undefined, {
        start: (done) => {
          order.push(lane === 'generation' ? 'g' : 't');
          setTimeout(done, ms, null);
        },
        cancel: () => undefined,
      });
    for (let i = 0; i < 50; i++) void add('training', 100);
    await jest.advanceTimersByTimeAsync(3_950);
    order.length = 0;
    for (let i = 0; i < 20; i++) void add('generation', 100);
    await jest.advanceTimersByTimeAsync(2_000);
    // The run that goes on while generation comes counts as well.
    expect(order.join('').slice(0, 8)).toBe('ggtgtgtg');
    await jest.runAllTimersAsync();
  });
});

test.each([
  '',
  'fair',
  'weighted:',
  'weighted:1',
  'weighted:0:1',
  'weighted:1:101',
  'weighted:01:1',
  'weighted:1:1:1',
  'generation-first ',
])('%j is no rule', (text) => {
  expect(parseTimeSharing(text)).toBeUndefined();
});
