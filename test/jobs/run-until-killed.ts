/** Run as a process of its own: takes jobs of a data folder and never finishes them; prints each start and each event it emits. */
import { JobRunner } from '../../src/jobs/index.js';
import { openDatabase } from '../../src/storage/index.js';
import { openJobs } from './open-jobs.js';

const store = await openJobs(await openDatabase({ dataDir: process.argv[2] ?? '' }));
const runner = new JobRunner(store, {
  tuning: async ({ emit, signal }) => {
    for (let step = 1; !signal.aborted; step += 1) {
      await emit({ step });
      process.stdout.write(`step ${step}\n`);
    }
  },
});
await runner.start();
