/**
 * Which resource uses which blob. Several may share one (equal content), so bytes go when their last user goes.
 * Invariant: a blob that the ledger lists is in the store. A crash can leave bytes that nobody lists, never the reverse: commit and removal of one
 * digest exclude each other through an advisory lock, also between processes.
 */
import type { BlobStore, StagedBlob } from './blob-store.js';
import type { Database } from './database.js';

const LOCK = 'SELECT pg_advisory_xact_lock(hashtextextended($1, 0))';

export class BlobLedger {
  constructor(
    private readonly database: Database,
    private readonly blobs: BlobStore,
  ) {}

  /** Commits staged bytes for `owner` (a resource name) within the transaction that creates it. */
  async keep(tx: Database, staged: StagedBlob, owner: string): Promise<void> {
    await tx.query(LOCK, [staged.sha256]);
    await tx.query('INSERT INTO blob_references (sha256, owner) VALUES ($1, $2) ON CONFLICT DO NOTHING', [staged.sha256, owner]);
    await staged.commit();
  }

  /** Drops the references of `owner` within the transaction that deletes it; pass the result to `sweep` after it has committed. */
  async release(tx: Database, owner: string): Promise<readonly string[]> {
    const rows = await tx.query<{ sha256: string }>('DELETE FROM blob_references WHERE owner = $1 RETURNING sha256', [owner]);
    return rows.map((row) => row.sha256);
  }

  /** Removes those of `digests` that nobody uses. */
  async sweep(digests: readonly string[]): Promise<void> {
    for (const sha256 of digests) {
      await this.database.transaction(async (tx) => {
        await tx.query(LOCK, [sha256]);
        const used = await tx.query('SELECT 1 FROM blob_references WHERE sha256 = $1 LIMIT 1', [sha256]);
        if (used.length === 0) await this.blobs.delete(sha256);
      });
    }
  }
}
