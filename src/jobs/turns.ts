/**
 * Who is next among tenants: every waiting job has a turn, and lower turns run first. A tenant's next job comes one turn after its last
 * that waits or runs, but never before the turn that is being served: so tenants alternate however many jobs one of them has in line,
 * and a tenant that was away saves nothing up. (Start-time fair queueing with jobs of equal cost: Goyal, Vin, Cheng, SIGCOMM 1996.)
 */
import type { Database } from '../storage/index.js';
import type { JobKind } from './job.js';

/** The turn of a job that joins the line now. Joins of one kind are serialized until the transaction ends, so that no two see the same line. */
export async function nextTurn(tx: Database, kind: JobKind, tenant: string): Promise<number> {
  await tx.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 2))', [kind]);
  const [row] = await tx.query<{ served: number | null; waiting: number | null; own: number | null }>(
    `SELECT max(turn) FILTER (WHERE state = 'RUNNING') AS served, min(turn) FILTER (WHERE state = 'QUEUED') AS waiting,
       max(turn) FILTER (WHERE tenant = $2) AS own
     FROM jobs WHERE kind = $1 AND state IN ('QUEUED', 'RUNNING')`,
    [kind, tenant],
  );
  const { served = null, waiting = null, own = null } = row ?? {};
  return Math.max(served ?? waiting ?? 0, own === null ? 0 : own + 1);
}
