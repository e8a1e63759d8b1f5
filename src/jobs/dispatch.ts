/**
 * Which job is next: pg-boss as the queue, one pg-boss queue a kind, on our own database handle.
 * Invariant: pg-boss holds exactly the jobs that wait. A job enters its queue in the transaction that makes it QUEUED and leaves it in the one that
 * makes it anything else, so state has one owner (the jobs table) and pg-boss's expiry, retries and workers have nothing to act on:
 * its timeout of a fetched job is below 24 hours, its worker ignores failed fetches, and it knows no lease that a dead process stops renewing.
 */
import { randomUUID } from 'node:crypto';
import PgBoss from 'pg-boss';
import type { Logger } from '../common/logger.js';
import type { Database } from '../storage/index.js';
import type { JobKind } from './job.js';

/** pg-boss's tables, apart from ours. */
const SCHEMA = 'lorica_queue';

function sqlPort(database: Database): PgBoss.Db {
  return {
    executeSql: async (text, values: unknown[] | undefined) => {
      if (values !== undefined && values.length > 0) return { rows: await database.query(text, values) };
      // Statements without values may be scripts; a script returns no rows, which pg-boss reads only from single SELECTs.
      if (/^\s*SELECT/i.test(text)) return { rows: await database.query(text) };
      await database.execute(text);
      return { rows: [] };
    },
  };
}

export class Dispatch {
  private constructor(private readonly boss: PgBoss) {}

  static async open(database: Database, kinds: readonly JobKind[], logger: Logger): Promise<Dispatch> {
    const boss = new PgBoss({ db: sqlPort(database), schema: SCHEMA, supervise: false, schedule: false });
    boss.on('error', (error) => logger.error('job queue', { error }));
    await boss.start();
    for (const kind of kinds) await boss.createQueue(queueOf(kind));
    return new Dispatch(boss);
  }

  /** Puts a job in line at its turn (turns.ts); returns the id to take it out with. */
  async enqueue(tx: Database, kind: JobKind, job: string, turn: number): Promise<string> {
    const id = randomUUID();
    await this.boss.send(queueOf(kind), { job }, { id, priority: -turn, db: sqlPort(tx) });
    return id;
  }

  async remove(tx: Database, kind: JobKind, id: string): Promise<void> {
    await this.boss.deleteJob(queueOf(kind), id, { db: sqlPort(tx) });
  }

  /** Takes the waiting job with the lowest turn, the oldest of these, out of line: its name, or undefined. Concurrent callers never get the same one. */
  async next(tx: Database, kind: JobKind): Promise<string | undefined> {
    const [taken] = await this.boss.fetch<{ job: string }>(queueOf(kind), { batchSize: 1, ignoreStartAfter: true, db: sqlPort(tx) });
    if (taken === undefined) return undefined;
    await this.remove(tx, kind, taken.id);
    return taken.data.job;
  }

  async close(): Promise<void> {
    await this.boss.stop({ graceful: false });
  }
}

function queueOf(kind: JobKind): string {
  return `lorica-${kind}`;
}
