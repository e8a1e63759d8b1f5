/** What pausing, checkpoints and turns do on every Database. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import {
  type Job,
  type JobContext,
  type JobHandler,
  JobRunner,
  type JobRunnerOptions,
  type JobState,
  type JobStore,
} from '../../src/jobs/index.js';
import { type BlobStore, type Database, openFolderBlobStore } from '../../src/storage/index.js';
import { openJobs } from '../jobs/open-jobs.js';
import { collect, type Temporary, temporaryFolder, until } from '../storage/temporary.js';

const bytes = (text: string): Iterable<Uint8Array> => [Buffer.from(text.slice(0, 3)), Buffer.from(text.slice(3))];

/** Waits for the abort, as a handler between two native runs. */
function aborted({ signal }: JobContext): Promise<unknown> {
  if (signal.aborted) return Promise.resolve(signal.reason);
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(signal.reason), { once: true }));
}

/** Counts `steps` steps, goes on from its newest checkpoint, and saves one when it is told to stop. */
const counting =
  (steps: number, seen: string[]): JobHandler =>
  async (context) => {
    const from = await context.checkpoints.newest();
    let step = from?.step ?? 0;
    seen.push(`${context.job.id} from ${step}${from === undefined ? '' : ` ${await readFile(from.path, 'utf8')}`}`);
    const stop = aborted(context);
    while (step < steps) {
      await Promise.race([stop, new Promise((resolve) => setTimeout(resolve, 5))]);
      if (context.signal.aborted) {
        await context.checkpoints.save({ step, stage: 0, stageStep: step, keepNewest: 2 }, bytes(`state ${step}`));
        throw context.signal.reason;
      }
      await context.emit({ step: (step += 1) });
    }
    return step;
  };

export function jobControlContract(open: () => Promise<Temporary<Database>>): void {
  describe('control of jobs', () => {
    let temporary: Temporary<Database>;
    let folder: Temporary<string>;
    let blobs: BlobStore;
    let store: JobStore;
    let tenant: string;
    let runners: JobRunner[] = [];
    beforeAll(async () => {
      temporary = await open();
      folder = await temporaryFolder();
      blobs = await openFolderBlobStore(folder.value);
      store = await openJobs(temporary.value, blobs);
    });
    beforeEach(() => {
      tenant = `tenant-${randomUUID()}`;
    });
    afterEach(async () => {
      await Promise.all(runners.map((runner) => runner.stop({ graceMs: 0 })));
      runners = [];
      await temporary.value.query('DELETE FROM jobs');
      await temporary.value.query('DELETE FROM lorica_queue.job');
      await temporary.value.query('DELETE FROM blob_references');
    });
    afterAll(async () => {
      await store.close();
      await temporary.dispose();
      await folder.dispose();
    });

    const create = async (id?: string, owner = tenant): Promise<Job> =>
      (await store.create({ kind: 'tuning', tenant: owner, spec: {}, ...(id === undefined ? {} : { id }) })).job;
    const run = async (handler: JobHandler, options: JobRunnerOptions = {}): Promise<JobRunner> => {
      const runner = new JobRunner(store, { tuning: handler }, options);
      runners.push(runner);
      await runner.start();
      return runner;
    };
    const reaches = (name: string, state: JobState): Promise<void> => until(async () => (await store.get(name)).state === state);
    const states = async (name: string): Promise<JobState[]> =>
      (await collect(store.events(name, 0))).flatMap((event) => (event.type === 'state' ? [event.state] : []));
    const listed = async (name: string): Promise<number[]> => (await store.checkpoints.list(name, {})).items.map(({ step }) => step);
    /** A claim by a worker of the test, which no runner knows. */
    const claimed = async (name: string): Promise<{ worker: string; attempt: number }> => {
      const job = await store.leases.claim('tuning', 'a worker', 60_000);
      expect(job?.name).toBe(name);
      return { worker: 'a worker', attempt: job!.attempt };
    };

    describe('pausing', () => {
      test('a queued job is paused at once and never starts until it is resumed', async () => {
        const { name } = await create();
        expect(await store.pause(name)).toMatchObject({ state: 'PAUSED', pauseRequested: false });
        expect(await store.pause(name)).toMatchObject({ state: 'PAUSED', lastSequence: 2 });
        await run(() => Promise.resolve('done'));
        await collect(store.events((await create()).name, 0));
        expect((await store.get(name)).state).toBe('PAUSED');
        expect(await store.resume(name)).toMatchObject({ lastSequence: expect.any(Number) });
        expect(await states(name)).toEqual(['QUEUED', 'PAUSED', 'QUEUED', 'RUNNING', 'SUCCEEDED']);
      });

      test('a running job saves a checkpoint, stops, gives its place to others, and goes on from there', async () => {
        const seen: string[] = [];
        await run(counting(40, seen));
        const { name } = await create('long');
        await until(async () => (await store.get(name)).lastSequence > 6);
        expect(await store.pause(name)).toMatchObject({ state: 'RUNNING', pauseRequested: true });
        await reaches(name, 'PAUSED');
        const paused = await store.get(name);
        expect(paused).toMatchObject({ pauseRequested: false, attempt: 1 });
        expect(paused.endTime).toBeUndefined();
        const [checkpoint] = (await store.checkpoints.list(name, {})).items;
        const other = await create('other');
        await collect(store.events(other.name, 0));

        await store.resume(name);
        const events = await collect(store.events(name, 0));
        const steps = events.flatMap((event) => (event.type === 'progress' ? [(event.payload as { step: number }).step] : []));
        expect(steps).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
        expect(seen).toEqual(['long from 0', 'other from 0', `long from ${checkpoint!.step} state ${checkpoint!.step}`]);
        expect(events.flatMap((event) => (event.type === 'state' ? [event.state] : []))).toEqual([
          'QUEUED',
          'RUNNING',
          'PAUSED',
          'QUEUED',
          'RUNNING',
          'SUCCEEDED',
        ]);
        expect(await listed(name)).toEqual([]);
        // Bytes go after the transaction that ended the job.
        await until(async () => !(await blobs.has(checkpoint!.sha256)));
      });

      test('a paused job stays paused when the server starts again; a stop is no pause and saves a checkpoint too', async () => {
        const seen: string[] = [];
        const first = await run(counting(1000, seen), { concurrency: { tuning: 2 } });
        const [held, stopped] = [await create('held'), await create('stopped')];
        for (const { name } of [held, stopped]) await until(async () => (await store.get(name)).lastSequence > 4);
        await store.pause(held.name);
        await reaches(held.name, 'PAUSED');
        await first.stop({ graceMs: 0, saveMs: 10_000 });
        expect(await store.get(stopped.name)).toMatchObject({ state: 'QUEUED' });
        const [step] = await listed(stopped.name);
        await run(counting(step! + 2, seen), { concurrency: { tuning: 2 } });
        await reaches(stopped.name, 'SUCCEEDED');
        expect(seen.at(-1)).toBe(`stopped from ${step!} state ${step!}`);
        expect((await store.get(held.name)).state).toBe('PAUSED');
      });

      test('a pause asked for by another process reaches the handler; one that a dead worker never saw is honoured', async () => {
        await run(counting(1000, []));
        const { name } = await create();
        await reaches(name, 'RUNNING');
        await temporary.value.query('UPDATE jobs SET pause_requested = true WHERE name = $1', [name]);
        await reaches(name, 'PAUSED');
        await Promise.all(runners.splice(0).map((runner) => runner.stop({ graceMs: 0 })));

        const dead = await create();
        await store.leases.claim('tuning', 'a dead worker', -1000);
        await store.pause(dead.name);
        await store.leases.recover('me', false, 3);
        expect((await store.get(dead.name)).state).toBe('PAUSED');
      });

      test('resuming a job that is being paused takes the pause back', async () => {
        let release: () => void = () => undefined;
        const gate = new Promise<void>((resolve) => (release = resolve));
        await run(async (context) => {
          if (context.job.attempt > 1) return 'second attempt';
          await aborted(context);
          await gate;
          throw context.signal.reason;
        });
        const { name } = await create();
        await reaches(name, 'RUNNING');
        await store.pause(name);
        expect(await store.resume(name)).toMatchObject({ state: 'RUNNING', pauseRequested: false });
        release();
        expect(await states(name)).toEqual(['QUEUED', 'RUNNING', 'QUEUED', 'RUNNING', 'SUCCEEDED']);
      });

      test('wrong states are refused; a paused job can be cancelled, not deleted', async () => {
        const { name } = await create();
        expect((await store.resume(name)).state).toBe('QUEUED');
        await store.pause(name);
        await expect(store.delete(name)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'JOB_STATE' });
        expect((await store.cancel(name)).state).toBe('CANCELLED');
        for (const change of [() => store.pause(name), () => store.resume(name)]) {
          await expect(change()).rejects.toMatchObject({
            code: 'FAILED_PRECONDITION',
            reason: 'JOB_STATE',
            metadata: { state: 'CANCELLED' },
          });
        }
        const cancelling = await create();
        await claimed(cancelling.name);
        await store.cancel(cancelling.name);
        await expect(store.pause(cancelling.name)).rejects.toMatchObject({ reason: 'JOB_STATE' });
        await expect(store.pause(`tenants/${tenant}/tuningJobs/absent`)).rejects.toMatchObject({ code: 'NOT_FOUND' });
      });
    });

    describe('checkpoints', () => {
      const at = (step: number, more: object = {}) => ({ step, stage: 0, stageStep: step, keepNewest: 2, ...more });

      test('are listed newest first, in pages, with what is known of them', async () => {
        const { name } = await create();
        const fence = await claimed(name);
        await store.checkpoints.save(name, fence, at(0, { keepNewest: 5 }), bytes('state 0'));
        const saved = await store.checkpoints.save(
          name,
          fence,
          { ...at(3), stage: 1, stageStep: 1, keepNewest: 5, evaluation: { accuracy: 0.5 } },
          bytes('state 3'),
        );
        expect(saved).toEqual({
          name: `${name}/checkpoints/3`,
          step: 3,
          stage: 1,
          stageStep: 1,
          bytes: 7,
          sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
          best: false,
          evaluation: { accuracy: 0.5 },
          createTime: expect.any(Date),
        });
        await store.checkpoints.save(name, fence, at(7, { keepNewest: 5 }), bytes('state 7'));
        const page = await store.checkpoints.list(name, { pageSize: 2 });
        expect(page.items.map(({ step }) => step)).toEqual([7, 3]);
        expect(page.items[1]).toEqual(saved);
        expect((await store.checkpoints.list(name, { pageSize: 2, pageToken: page.nextPageToken })).items.map(({ step }) => step)).toEqual([
          0,
        ]);
      });

      test('the newest and the best stay; bytes that nobody uses go, equal bytes are kept once', async () => {
        const { name } = await create();
        const fence = await claimed(name);
        const save = (step: number, text: string, more: object = {}) => store.checkpoints.save(name, fence, at(step, more), bytes(text));
        const first = await save(1, 'state 1');
        await save(2, 'state 2', { best: true });
        const same = await save(3, 'state 2');
        expect(await blobs.has(first.sha256)).toBe(false);
        await save(4, 'state 4');
        await save(5, 'state 5');
        expect(await listed(name)).toEqual([5, 4, 2]);
        expect(await blobs.has(same.sha256)).toBe(true);
        await save(6, 'state 6', { best: true });
        expect(await listed(name)).toEqual([6, 5]);
        expect(await blobs.has(same.sha256)).toBe(false);
        await save(6, 'state 6b');
        expect((await store.checkpoints.list(name, {})).items.map(({ step, best }) => [step, best])).toEqual([
          [6, true],
          [5, false],
        ]);
      });

      test('one of an earlier step, of a job that began anew, takes the place of all beyond it, the best among them', async () => {
        const { name } = await create();
        const fence = await claimed(name);
        const save = (step: number, text: string, more: object = {}) => store.checkpoints.save(name, fence, at(step, more), bytes(text));
        const passedOver = await save(8, 'state 8 of the first beginning', { best: true });
        await save(9, 'state 9 of the first beginning');
        await save(1, 'state 1 of the second');
        expect(await listed(name)).toEqual([1]);
        expect((await store.checkpoints.newest(name, () => undefined))?.step).toBe(1);
        expect(await blobs.has(passedOver.sha256)).toBe(false);
        await save(2, 'state 2 of the second');
        expect(await listed(name)).toEqual([2, 1]);
      });

      test('a write that breaks off, and one of a run that lost its job, leave nothing', async () => {
        const { name } = await create();
        const fence = await claimed(name);
        const broken = (function* () {
          yield Buffer.from('half');
          throw new RangeError('broken off');
        })();
        await expect(store.checkpoints.save(name, fence, at(1), broken)).rejects.toThrow('broken off');
        const late = store.checkpoints.save(name, { ...fence, attempt: fence.attempt + 1 }, at(1), bytes('late'));
        await expect(late).rejects.toMatchObject({ code: 'ABORTED', reason: 'JOB_LOST' });
        expect(await listed(name)).toEqual([]);
        expect(await readdir(`${folder.value}/incoming`)).toEqual([]);
      });

      test('a damaged one is passed over and said to be', async () => {
        const { name } = await create();
        const fence = await claimed(name);
        for (const step of [1, 2]) await store.checkpoints.save(name, fence, at(step), bytes(`state ${step} of a damaged job`));
        const damaged: string[] = [];
        const newest = (): Promise<{ step: number; path: string } | undefined> =>
          store.checkpoints.newest(name, (one) => damaged.push(one.name));
        const { path } = (await newest())!;
        await writeFile(path, 'state 2 of a damaged joB');
        expect((await newest())?.step).toBe(1);
        expect(damaged).toEqual([`${name}/checkpoints/2`]);
      });

      test('go with the job, stay when a job that succeeded was asked to keep them, and make it forget earlier deaths', async () => {
        const ended = await create();
        const fence = await claimed(ended.name);
        const { sha256 } = await store.checkpoints.save(ended.name, fence, at(1), bytes('of a failed job'));
        await store.leases.finish(ended.name, fence, {
          state: 'FAILED',
          error: { code: 'ABORTED', reason: 'TRAINING_DIVERGED', message: 'x' },
        });
        expect(await listed(ended.name)).toEqual([1]);
        await store.delete(ended.name);
        expect(await blobs.has(sha256)).toBe(false);
        expect(await temporary.value.query('SELECT 1 FROM job_checkpoints WHERE job = $1', [ended.name])).toEqual([]);

        await run(async ({ checkpoints }) => {
          await checkpoints.save(at(1), bytes('kept'));
          checkpoints.keepAfterSuccess();
        });
        const kept = await create();
        await reaches(kept.name, 'SUCCEEDED');
        expect(await listed(kept.name)).toEqual([1]);
        await Promise.all(runners.splice(0).map((runner) => runner.stop({ graceMs: 0 })));

        const dying = await create();
        for (let death = 1; death <= 4; death += 1) {
          const job = await store.leases.claim('tuning', 'a dead worker', -1000);
          await store.checkpoints.save(dying.name, { worker: 'a dead worker', attempt: job!.attempt }, at(death), bytes(`step ${death}`));
          await store.leases.recover('me', false, 3);
        }
        expect(await store.get(dying.name)).toMatchObject({ state: 'QUEUED', attempt: 4 });
      });
    });

    describe('turns', () => {
      const order = async (): Promise<string[]> => {
        const taken: string[] = [];
        for (
          let job = await store.leases.claim('tuning', 'w', 60_000);
          job !== undefined;
          job = await store.leases.claim('tuning', 'w', 60_000)
        ) {
          taken.push(job.id);
          await store.leases.finish(job.name, { worker: 'w', attempt: job.attempt }, { state: 'SUCCEEDED' });
        }
        return taken;
      };

      test('tenants alternate, whatever one of them has in line; within a tenant first come, first served', async () => {
        for (let i = 0; i < 6; i += 1) await create(`a${i}`, 'tenant-a');
        await create('b0', 'tenant-b');
        await create('b1', 'tenant-b');
        await create('c0', 'tenant-c');
        expect(await order()).toEqual(['a0', 'b0', 'c0', 'a1', 'b1', 'a2', 'a3', 'a4', 'a5']);
      });

      test('one that comes while another tenant runs is next; cancelled and paused jobs hold no turn', async () => {
        for (let i = 0; i < 4; i += 1) await create(`a${i}`, 'tenant-a');
        const running = await store.leases.claim('tuning', 'w', 60_000);
        for (const id of ['b0', 'b1', 'b2']) await create(id, 'tenant-b');
        await store.cancel('tenants/tenant-b/tuningJobs/b0');
        await store.pause('tenants/tenant-b/tuningJobs/b1');
        await create('c0', 'tenant-c');
        await store.leases.finish(running!.name, { worker: 'w', attempt: 1 }, { state: 'SUCCEEDED' });
        expect(await order()).toEqual(['c0', 'a1', 'a2', 'b2', 'a3']);
        await store.resume('tenants/tenant-b/tuningJobs/b1');
        expect(await order()).toEqual(['b1']);
      });

      test('one that was stopped with its server goes on before later ones of its tenant', async () => {
        for (const id of ['a0', 'a1']) await create(id, 'tenant-a');
        const job = await store.leases.claim('tuning', 'w', 60_000);
        await store.leases.finish(job!.name, { worker: 'w', attempt: 1 }, { state: 'QUEUED' });
        expect(await order()).toEqual(['a0', 'a1']);
      });

      test('created at once, every job has a turn of its own', async () => {
        await Promise.all(Array.from({ length: 8 }, (_, i) => create(`a${i}`, 'tenant-a')));
        await create('b0', 'tenant-b');
        expect((await order()).indexOf('b0')).toBeLessThan(2);
      });
    });
  });
}
