import { describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { JobRunner } from '../../src/jobs/index.js';
import { openDatabase } from '../../src/storage/index.js';
import { jobControlContract } from '../contract/job-control.js';
import { jobsContract } from '../contract/jobs.js';
import { openJobs } from './open-jobs.js';
import { collect, temporaryDataDir, temporaryPglite } from '../storage/temporary.js';

jobsContract(temporaryPglite);
jobControlContract(temporaryPglite);

const LOADER = fileURLToPath(new URL('../runtime/typescript-loader.mjs', import.meta.url));
const CHILD = fileURLToPath(new URL('./run-until-killed.ts', import.meta.url));

describe('a server killed while it runs a job', () => {
  test('goes on with it at the next start: no event lost, none numbered twice, three deaths at most', async () => {
    const folder = await temporaryDataDir();
    let database = await openDatabase({ dataDir: folder.value });
    let store = await openJobs(database);
    const { job } = await store.create({ kind: 'tuning', tenant: 'acme', id: 'long', spec: {} });
    let emitted = 0;
    for (let death = 1; death <= 2; death += 1) {
      await store.close();
      await database.close();
      const child = spawn(process.execPath, ['--import', LOADER, CHILD, folder.value], { stdio: ['ignore', 'pipe', 'inherit'] });
      let output = '';
      child.stdout.on('data', (text: Buffer) => (output += text.toString()));
      while (!output.includes('step 5\n')) await once(child.stdout, 'data');
      child.kill('SIGKILL');
      await once(child, 'close');
      emitted += output.split('\n').length - 1;

      database = await openDatabase({ dataDir: folder.value });
      store = await openJobs(database);
      expect(await store.get(job.name)).toMatchObject({ state: 'RUNNING', attempt: death });
    }
    const runner = new JobRunner(store, { tuning: ({ job: { attempt } }) => Promise.resolve(`attempt ${attempt}`) });
    await runner.start();
    const events = await collect(store.events(job.name, 0));
    expect(events.map((event) => event.sequence)).toEqual(events.map((_, index) => index + 1));
    expect(events.filter((event) => event.type === 'progress').length).toBeGreaterThanOrEqual(emitted);
    expect(events.flatMap((event) => (event.type === 'state' ? [event.state] : []))).toEqual([
      'QUEUED',
      'RUNNING',
      'QUEUED',
      'RUNNING',
      'QUEUED',
      'RUNNING',
      'SUCCEEDED',
    ]);
    expect(await store.get(job.name)).toMatchObject({ state: 'SUCCEEDED', result: 'attempt 3' });
    await runner.stop({ graceMs: 0 });
    await store.close();
    await database.close();
    await folder.dispose();
  });
});
