import { describe, expect, test } from '@jest/globals';
import type { Job, JobEvent, JobStore } from '../../src/jobs/index.js';
import { watchJob, type Watched } from '../../src/services/jobs.js';

const NAME = 'tenants/t/tuningJobs/j';
const job = (state: Job['state']): Job => ({
  name: NAME,
  kind: 'tuning',
  tenant: 't',
  id: 'j',
  state,
  cancelRequested: false,
  pauseRequested: false,
  spec: {},
  createTime: new Date(0),
  attempt: 1,
  lastSequence: 0,
  etag: 'e',
});

/** A store whose events are those of `script`, a promise being waited for; `states` are what get returns, the last one for ever. */
function store(script: readonly (JobEvent | Promise<JobEvent>)[], states: Job['state'][]): JobStore {
  return {
    get: async () => job(states.length > 1 ? states.shift()! : states[0]!),
    async *events(_name: string, after: number, signal?: AbortSignal) {
      const gone = new Promise<undefined>((resolve) => {
        if (signal?.aborted === true) resolve(undefined);
        signal?.addEventListener('abort', () => resolve(undefined));
      });
      for (const entry of script) {
        const event = await Promise.race([entry, gone]);
        if (event === undefined) return;
        if (event.sequence > after) yield event;
      }
    },
  } as unknown as JobStore;
}

const at = { job: NAME, time: new Date(1) };
const step = (sequence: number): JobEvent => ({ ...at, sequence, type: 'progress', payload: { step: sequence } });
const state = (sequence: number, value: Job['state']): JobEvent => ({ ...at, sequence, type: 'state', state: value, attempt: 1 });
const never = new AbortController().signal;

async function kinds(events: AsyncIterable<Watched>): Promise<string[]> {
  const out: string[] = [];
  for await (const event of events) out.push(`${event.kind} ${event.sequence}`);
  return out;
}

describe('watchJob', () => {
  test('first the job, last the result, sequences of what is kept', async () => {
    const script = [state(1, 'QUEUED'), state(2, 'RUNNING'), step(3), state(4, 'SUCCEEDED')];
    expect(await kinds(watchJob(store(script, ['RUNNING', 'RUNNING', 'RUNNING', 'SUCCEEDED']), NAME, 0, never, never))).toEqual([
      'job 0',
      'job 1',
      'job 2',
      'progress 3',
      'result 4',
    ]);
    expect(await kinds(watchJob(store(script, ['SUCCEEDED']), NAME, 3, never, never))).toEqual(['job 3', 'result 4']);
    expect(await kinds(watchJob(store(script, ['SUCCEEDED']), NAME, 4, never, never))).toEqual(['job 4', 'result 4']);
  });

  test('heartbeats while nothing happens, no event lost', async () => {
    let happen: (event: JobEvent) => void = () => undefined;
    const late = new Promise<JobEvent>((resolve) => (happen = resolve));
    const seen: string[] = [];
    for await (const event of watchJob(store([step(1), late, state(3, 'SUCCEEDED')], ['RUNNING', 'SUCCEEDED']), NAME, 0, never, never, 5)) {
      seen.push(event.kind);
      if (seen.filter((kind) => kind === 'heartbeat').length === 3) happen(step(2));
    }
    expect(seen.filter((kind) => kind === 'progress')).toHaveLength(2);
    expect(seen.slice(0, 5)).toEqual(['job', 'progress', 'heartbeat', 'heartbeat', 'heartbeat']);
    expect(seen.at(-1)).toBe('result');
  });

  test('a server that drains sends its watchers away; a caller that leaves ends with its reason', async () => {
    const endless = new Promise<JobEvent>(() => undefined);
    const drain = new AbortController();
    const watching = kinds(watchJob(store([step(1), endless], ['RUNNING']), NAME, 0, never, drain.signal));
    drain.abort();
    await expect(watching).rejects.toMatchObject({ code: 'UNAVAILABLE', reason: 'SHUTTING_DOWN' });

    const leave = new AbortController();
    const left = kinds(watchJob(store([step(1), endless], ['RUNNING']), NAME, 0, leave.signal, never));
    leave.abort(new Error('gone'));
    await expect(left).rejects.toThrow('gone');
  });

  test('after_sequence below 0 is refused', async () => {
    await expect(kinds(watchJob(store([], ['RUNNING']), NAME, -1, never, never))).rejects.toMatchObject({
      violations: [{ field: 'after_sequence' }],
    });
  });
});
