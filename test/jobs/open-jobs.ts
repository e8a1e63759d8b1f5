/** A job store over a database, its checkpoints in a folder that ends with the process unless one is given. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { JobCheckpoints, JobStore } from '../../src/jobs/index.js';
import { BlobLedger, type BlobStore, type Database, openFolderBlobStore } from '../../src/storage/index.js';

export async function openJobs(database: Database, blobs?: BlobStore): Promise<JobStore> {
  const store = blobs ?? (await openFolderBlobStore(passingFolder()));
  return JobStore.open(database, new JobCheckpoints(database, { blobs: store, ledger: new BlobLedger(database, store) }));
}

function passingFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'lorica-test-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
