/** What jobs do on every Database. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { LoricaError } from '../../src/common/errors.js';
import { createLogger } from '../../src/common/logger.js';
import {
  type Job,
  type JobContext,
  type JobEvent,
  type JobHandler,
  JobRunner,
  type JobRunnerOptions,
  type JobState,
  type JobStore,
} from '../../src/jobs/index.js';
import { type Database, requestDigestOf } from '../../src/storage/index.js';
import { openJobs } from '../jobs/open-jobs.js';
import { collect, type Temporary, until } from '../storage/temporary.js';

/** An event without its time. */
function brief(event: JobEvent): string {
  return event.type === 'state' ? `${event.sequence} ${event.state}` : `${event.sequence} ${JSON.stringify(event.payload)}`;
}

/** Rejects as a handler should when its signal aborts. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const stop = (): void => reject(signal.reason as Error);
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
  });
}

export function jobsContract(open: () => Promise<Temporary<Database>>): void {
  describe('jobs', () => {
    let temporary: Temporary<Database>;
    let store: JobStore;
    let tenant: string;
    let runners: JobRunner[] = [];
    beforeAll(async () => {
      temporary = await open();
      store = await openJobs(temporary.value);
    });
    beforeEach(() => {
      tenant = `tenant-${randomUUID()}`;
    });
    afterEach(async () => {
      await Promise.all(runners.map((runner) => runner.stop({ graceMs: 0 })));
      runners = [];
      await temporary.value.query('DELETE FROM jobs');
      await temporary.value.query('DELETE FROM lorica_queue.job');
    });
    afterAll(async () => {
      await store.close();
      await temporary.dispose();
    });

    const create = async (spec: unknown = {}, more: object = {}): Promise<Job> =>
      (await store.create({ kind: 'tuning', tenant, spec, ...more })).job;
    const run = async (handler: JobHandler, options: JobRunnerOptions = {}): Promise<JobRunner> => {
      const runner = new JobRunner(store, { tuning: handler }, options);
      runners.push(runner);
      await runner.start();
      return runner;
    };
    const reaches = (name: string, state: JobState): Promise<void> => until(async () => (await store.get(name)).state === state);
    const history = async (name: string, after = 0): Promise<string[]> => (await collect(store.events(name, after))).map(brief);

    describe('as resources', () => {
      test('keep what they were created with', async () => {
        const spec = { z: 1, a: ['ü', null, 0.1, 'half \ud800 pair and \u0000'] };
        const job = await create(spec, { id: 'my-job' });
        expect(job).toEqual({
          name: `tenants/${tenant}/tuningJobs/my-job`,
          kind: 'tuning',
          tenant,
          id: 'my-job',
          state: 'QUEUED',
          cancelRequested: false,
          pauseRequested: false,
          spec,
          createTime: expect.any(Date),
          attempt: 0,
          lastSequence: 1,
          etag: expect.any(String),
        });
        expect(await store.get(job.name)).toEqual(job);
        expect((await create()).id).toMatch(/^tune-[a-z2-7]{12}$/);
      });

      test('an id in use, a bad id and an unknown name are refused', async () => {
        await create({}, { id: 'twice' });
        await expect(create({}, { id: 'twice' })).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
        await expect(create({}, { id: 'No_Good' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' });
        const absent = `tenants/${tenant}/tuningJobs/absent`;
        const calls = [
          () => store.get(absent),
          () => store.cancel(absent),
          () => store.delete(absent),
          () => store.append(absent, {}),
          () => collect(store.events(absent, 0)),
        ];
        for (const call of calls) {
          await expect(call()).rejects.toMatchObject({ code: 'NOT_FOUND', reason: 'JOB_NOT_FOUND', message: `${absent} does not exist` });
        }
        await expect(store.get(`tenants/${tenant}/evaluations/absent`)).rejects.toMatchObject({ reason: 'EVALUATION_NOT_FOUND' });
      });

      test('are listed by tenant and kind, newest first, in pages, by state', async () => {
        for (const id of ['one', 'two', 'three']) await create({}, { id });
        await store.create({ kind: 'evaluation', tenant, id: 'other-kind', spec: {} });
        await store.create({ kind: 'tuning', tenant: 'another-tenant', spec: {} });
        await store.cancel(`tenants/${tenant}/tuningJobs/two`);
        const ids = async (more: object): Promise<string[]> =>
          (await store.list({ kind: 'tuning', tenant, ...more })).items.map((job) => job.id);
        expect(await ids({})).toEqual(['three', 'two', 'one']);
        expect(await ids({ filter: 'state = "CANCELLED"' })).toEqual(['two']);
        expect(await ids({ filter: 'state=QUEUED OR state = RUNNING' })).toEqual(['three', 'one']);
        const page = await store.list({ kind: 'tuning', tenant, pageSize: 2 });
        expect(await ids({ pageSize: 2, pageToken: page.nextPageToken })).toEqual(['one']);
        await expect(ids({ pageToken: page.nextPageToken, filter: 'state = QUEUED' })).rejects.toMatchObject({ reason: 'INVALID_FIELD' });
        for (const filter of ['state = "DONE"', 'name = x', 'state = QUEUED AND state = RUNNING'])
          await expect(ids({ filter })).rejects.toMatchObject({ reason: 'INVALID_FIELD' });
        expect((await store.counts()).find(({ kind, state }) => kind === 'tuning' && state === 'CANCELLED')).toMatchObject({ count: 1 });
      });

      test('the same request id gives the same job, another body is refused', async () => {
        const request = { requestId: randomUUID(), requestDigest: requestDigestOf('body') };
        const first = await store.create({ kind: 'tuning', tenant, spec: { n: 1 }, ...request });
        const again = await store.create({ kind: 'tuning', tenant, spec: { n: 1 }, ...request });
        expect([first.created, again.created, again.job.name]).toEqual([true, false, first.job.name]);
        expect(await store.findCreated({ kind: 'tuning', tenant, ...request })).toMatchObject({ name: first.job.name });
        expect(await store.findCreated({ kind: 'tuning', tenant, ...request, requestId: randomUUID() })).toBeUndefined();
        await expect(
          store.create({ kind: 'tuning', tenant, spec: {}, ...request, requestDigest: requestDigestOf('x') }),
        ).rejects.toMatchObject({ reason: 'REQUEST_ID_REUSED' });
        expect((await store.list({ kind: 'tuning', tenant })).items).toHaveLength(1);
      });

      test('only finished ones can be deleted; their events go along', async () => {
        const { name } = await create();
        await expect(store.delete(name)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'JOB_STATE' });
        await store.cancel(name);
        await store.delete(name);
        await expect(store.get(name)).rejects.toMatchObject({ code: 'NOT_FOUND' });
        expect(await temporary.value.query('SELECT 1 FROM job_events WHERE job = $1', [name])).toEqual([]);
      });
    });

    describe('running', () => {
      test('a job succeeds with its result; its events tell the story', async () => {
        await run(async ({ job, emit }) => {
          await emit({ step: 1, spec: job.spec });
          await emit({ step: 2 });
          return { loss: 0.5 };
        });
        const { name } = await create({ rank: 8 });
        expect(await history(name)).toEqual(['1 QUEUED', '2 RUNNING', '3 {"step":1,"spec":{"rank":8}}', '4 {"step":2}', '5 SUCCEEDED']);
        expect(await store.get(name)).toMatchObject({
          state: 'SUCCEEDED',
          result: { loss: 0.5 },
          attempt: 1,
          startTime: expect.any(Date),
          endTime: expect.any(Date),
          lastSequence: 5,
        });
      });

      test('a failure that a user can meet is kept, the text of a defect is not', async () => {
        const lines: string[] = [];
        await run(
          ({ job }) => {
            if (job.id === 'user') throw new LoricaError('INVALID_ARGUMENT', 'TRAINING_DIVERGED', 'the loss is NaN at step 3');
            throw new TypeError('secret internals');
          },
          { logger: createLogger('info', (line) => lines.push(line)) },
        );
        const user = await create({}, { id: 'user' });
        const defect = await create({}, { id: 'defect' });
        expect((await collect(store.events(user.name, 2)))[0]).toMatchObject({
          state: 'FAILED',
          error: { reason: 'TRAINING_DIVERGED', message: 'the loss is NaN at step 3' },
        });
        await collect(store.events(defect.name, 0));
        expect((await store.get(defect.name)).error).toEqual({
          code: 'INTERNAL',
          reason: 'INTERNAL',
          message: expect.not.stringContaining('secret'),
        });
        expect(lines.join('\n')).toContain('secret internals');
      });

      test('jobs run in order, each once, as many at once as allowed', async () => {
        const jobs: Job[] = [];
        for (let index = 0; index < 6; index += 1) jobs.push(await create({ index }));
        const started: unknown[] = [];
        let [running, most] = [0, 0];
        await run(
          async ({ job }) => {
            started.push((job.spec as { index: number }).index);
            most = Math.max(most, (running += 1));
            await new Promise((resolve) => setTimeout(resolve, 30));
            running -= 1;
          },
          { concurrency: { tuning: 2 } },
        );
        for (const job of jobs) await collect(store.events(job.name, 0));
        expect(started).toEqual([0, 1, 2, 3, 4, 5]);
        expect(most).toBe(2);
      });

      test('two runners share a queue: no job runs twice', async () => {
        const starts: string[] = [];
        const handler: JobHandler = async ({ job }) => {
          starts.push(job.name);
          await new Promise((resolve) => setTimeout(resolve, 5));
        };
        await run(handler, { concurrency: { tuning: 3 } });
        await run(handler, { concurrency: { tuning: 3 } });
        const jobs = await Promise.all(Array.from({ length: 20 }, () => create()));
        for (const job of jobs) await collect(store.events(job.name, 0));
        expect(starts.sort()).toEqual(jobs.map((job) => job.name).sort());
      });

      test('kinds without a handler wait', async () => {
        await run(() => Promise.resolve());
        const { job } = await store.create({ kind: 'evaluation', tenant, spec: {} });
        await collect(store.events((await create()).name, 0));
        expect((await store.get(job.name)).state).toBe('QUEUED');
      });
    });

    describe('cancelling', () => {
      test('a queued job is cancelled at once and never starts', async () => {
        const { name } = await create();
        expect(await store.cancel(name)).toMatchObject({ state: 'CANCELLED', endTime: expect.any(Date) });
        let started = 0;
        await run(() => Promise.resolve((started += 1)));
        await collect(store.events((await create()).name, 0));
        expect(started).toBe(1);
        expect(await history(name)).toEqual(['1 QUEUED', '2 CANCELLED']);
        expect(await store.cancel(name)).toMatchObject({ state: 'CANCELLED', lastSequence: 2 });
      });

      test('a running job is aborted', async () => {
        let reason: unknown;
        await run(async ({ signal }) => {
          await aborted(signal).catch((error: unknown) => {
            reason = error;
            throw error;
          });
        });
        const { name } = await create();
        await reaches(name, 'RUNNING');
        expect(await store.cancel(name)).toMatchObject({ cancelRequested: true });
        await reaches(name, 'CANCELLED');
        expect(reason).toMatchObject({ code: 'CANCELLED', reason: 'CANCELLED' });
        expect(await history(name)).toEqual(['1 QUEUED', '2 RUNNING', '3 CANCELLED']);
      });

      test('a job whose cancel was asked for by another process is aborted', async () => {
        await run(({ signal }) => aborted(signal));
        const { name } = await create();
        await reaches(name, 'RUNNING');
        await temporary.value.query('UPDATE jobs SET cancel_requested = true WHERE name = $1', [name]);
        await reaches(name, 'CANCELLED');
      });

      test('a handler that finishes all the same has succeeded; a finished job cannot be cancelled', async () => {
        await run(async ({ signal }) => aborted(signal).catch(() => 'done anyway'));
        const { name } = await create();
        await reaches(name, 'RUNNING');
        await store.cancel(name);
        await reaches(name, 'SUCCEEDED');
        await expect(store.cancel(name)).rejects.toMatchObject({
          code: 'FAILED_PRECONDITION',
          reason: 'JOB_STATE',
          metadata: { state: 'SUCCEEDED' },
        });
      });
    });

    describe('events', () => {
      test('replay from any sequence, then follow, to several watchers alike', async () => {
        let release: () => void = () => undefined;
        const gate = new Promise<void>((resolve) => (release = resolve));
        await run(async ({ emit }) => {
          for (let step = 1; step <= 3; step += 1) await emit(step);
          await gate;
          for (let step = 4; step <= 6; step += 1) await emit(step);
        });
        const { name } = await create();
        await until(async () => (await store.get(name)).lastSequence === 5);
        const watchers = [0, 3, 5].map((after) => history(name, after));
        release();
        const all = ['1 QUEUED', '2 RUNNING', '3 1', '4 2', '5 3', '6 4', '7 5', '8 6', '9 SUCCEEDED'];
        expect(await Promise.all(watchers)).toEqual([all, all.slice(3), all.slice(5)]);
        expect(await history(name, 9)).toEqual([]);
      });

      test('more than a batch, appended at once, come gapless and in order', async () => {
        const { name } = await create();
        await Promise.all(Array.from({ length: 700 }, (_, index) => store.append(name, index)));
        await store.cancel(name);
        const events = await collect(store.events(name, 0));
        expect(events.map((event) => event.sequence)).toEqual(Array.from({ length: 702 }, (_, index) => index + 1));
        expect(new Set(events.flatMap((event) => (event.type === 'progress' ? [event.payload] : []))).size).toBe(700);
      });

      test('written by another process are found without a wake-up', async () => {
        const other = await openJobs(temporary.value);
        const { name } = await create();
        const seen = history(name);
        await other.append(name, 'from elsewhere');
        await other.cancel(name);
        expect(await seen).toEqual(['1 QUEUED', '2 "from elsewhere"', '3 CANCELLED']);
        await other.close();
      });

      test('following ends when the watcher goes away, or the job is deleted under it', async () => {
        const { name } = await create();
        const controller = new AbortController();
        const watcher = store.events(name, 0, controller.signal);
        expect(await watcher.next()).toMatchObject({ value: { state: 'QUEUED' } });
        const next = watcher.next();
        controller.abort();
        expect(await next).toEqual({ done: true, value: undefined });
        await store.cancel(name);
        const late = collect(store.events(name, 2)).catch((error: unknown) => expect(error).toMatchObject({ code: 'NOT_FOUND' }));
        await store.delete(name);
        await late;
      });

      test('nothing can be appended to a finished job', async () => {
        const { name } = await create();
        await store.cancel(name);
        await expect(store.append(name, 'late')).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'JOB_STATE' });
        expect(await history(name)).toEqual(['1 QUEUED', '2 CANCELLED']);
      });
    });

    describe('stopping and dying', () => {
      test('stop lets jobs finish in the grace time', async () => {
        let started = false;
        const runner = await run(async () => {
          started = true;
          await new Promise((resolve) => setTimeout(resolve, 50));
          return 'finished';
        });
        const { name } = await create();
        await until(() => started);
        await runner.stop({ graceMs: 10_000 });
        expect(await store.get(name)).toMatchObject({ state: 'SUCCEEDED', result: 'finished' });
      });

      test('stop aborts what takes longer and queues it again; the next runner goes on', async () => {
        const runner = await run(({ signal }) => aborted(signal));
        const { name } = await create();
        await reaches(name, 'RUNNING');
        await runner.stop({ graceMs: 20 });
        expect(await store.get(name)).toMatchObject({ state: 'QUEUED', attempt: 1 });
        await run(({ job }) => Promise.resolve(`attempt ${job.attempt}`));
        expect(await history(name)).toEqual(['1 QUEUED', '2 RUNNING', '3 QUEUED', '4 RUNNING', '5 SUCCEEDED']);
        expect(await store.get(name)).toMatchObject({ result: 'attempt 2' });
      });

      test('a job whose worker died is queued again, and fails when that happens too often', async () => {
        const { name } = await create();
        const die = async (): Promise<void> => {
          const claimed = await store.leases.claim('tuning', 'a dead worker', -1000);
          expect(claimed?.name).toBe(name);
        };
        await die();
        expect(await store.leases.recover('me', false, 3)).toEqual(['tuning']);
        await die();
        expect(await store.leases.recover('me', false, 3)).toEqual(['tuning']);
        expect(await store.get(name)).toMatchObject({ state: 'QUEUED', attempt: 2 });
        await die();
        await store.leases.recover('me', false, 3);
        expect(await store.get(name)).toMatchObject({
          state: 'FAILED',
          attempt: 3,
          error: { reason: 'JOB_LOST', message: expect.stringContaining('3 times') },
        });
        expect((await history(name)).at(-1)).toBe('7 FAILED');
      });

      test('a live lease is not taken; a cancel that a dead worker never saw is honoured', async () => {
        const { name } = await create();
        await store.leases.claim('tuning', 'alive', 60_000);
        expect(await store.leases.recover('me', false, 3)).toEqual([]);
        await store.leases.renew('alive', -1000);
        await store.cancel(name);
        expect(await store.leases.recover('me', false, 3)).toEqual(['tuning']);
        expect((await store.get(name)).state).toBe('CANCELLED');
      });

      test('a handler that lost its job is aborted, and can neither emit nor finish it', async () => {
        const contexts: JobContext[] = [];
        let refused: unknown;
        await run(async (context) => {
          contexts.push(context);
          await aborted(context.signal).catch(() => undefined);
          await context.emit('too late').catch((error: unknown) => (refused = error));
          return 'too late';
        });
        const { name } = await create();
        await until(() => contexts.length === 1);
        await temporary.value.query(`UPDATE jobs SET worker = 'another', attempt = 2 WHERE name = $1`, [name]);
        await until(() => refused !== undefined);
        expect(refused).toMatchObject({ reason: 'JOB_LOST' });
        expect(await store.leases.finish(name, { worker: 'another', attempt: 2 }, { state: 'SUCCEEDED', result: 'by another' })).toBe(true);
        expect(await store.get(name)).toMatchObject({ state: 'SUCCEEDED', result: 'by another' });
        expect(await history(name)).toEqual(['1 QUEUED', '2 RUNNING', '3 SUCCEEDED']);
      });
    });
  });
}
