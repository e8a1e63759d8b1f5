/** A PostgreSQL server (15 or newer) through a pool of connections. Invariant: a connection goes back to the pool clean, or is destroyed. */
import pg from 'pg';
import { LoricaError } from '../common/errors.js';
import type { Database } from './database.js';
import { fromDriver } from './database-errors.js';
import { OpenTransaction } from './transaction.js';

const INT8_OID = 20;
const POOL_SIZE = 10;
const CONNECT_TIMEOUT_MS = 10_000;

const overrides = new pg.TypeOverrides();
overrides.setTypeParser(INT8_OID, Number);

export class PostgresDatabase implements Database {
  readonly kind = 'postgres';
  private closing: Promise<void> | undefined;

  private constructor(private readonly pool: pg.Pool) {}

  /** `url` is a postgres:// connection string; its database is ours alone. */
  static async open(url: string): Promise<PostgresDatabase> {
    const pool = new pg.Pool({
      connectionString: url,
      max: POOL_SIZE,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      application_name: 'lorica',
      types: overrides,
    });
    // An idle connection that dies is replaced by the pool; the next statement reports a server that stays away.
    pool.on('error', () => undefined);
    try {
      await pool.query('SELECT 1');
    } catch (error) {
      await pool.end();
      throw new LoricaError('UNAVAILABLE', 'UPSTREAM_UNAVAILABLE', 'the PostgreSQL server cannot be reached or refuses the connection', {
        cause: error,
        hint: 'Check the database URL: host, port, user, password and database name.',
      });
    }
    return new PostgresDatabase(pool);
  }

  async query<R = Record<string, unknown>>(sql: string, params: readonly unknown[] = []): Promise<R[]> {
    try {
      return (await this.pool.query(sql, [...params])).rows as R[];
    } catch (error) {
      throw fromDriver(error);
    }
  }

  async execute(script: string): Promise<void> {
    try {
      await this.pool.query(script);
    } catch (error) {
      throw fromDriver(error);
    }
  }

  async transaction<T>(fn: (tx: Database) => Promise<T>): Promise<T> {
    const client = await this.pool.connect().catch((error: unknown) => {
      throw fromDriver(error);
    });
    let broken: Error | undefined;
    // A connection that dies while it is ours says so by an event as well; unheard, that event would end the process.
    const onError = (error: Error): void => {
      broken = error;
    };
    client.on('error', onError);
    try {
      await client.query('BEGIN');
      const tx = new OpenTransaction('postgres', {
        query: async (sql, params) => (await client.query<Record<string, unknown>>(sql, [...params])).rows,
        execute: async (script) => {
          await client.query(script);
        },
      });
      const result = await fn(tx);
      // A statement that failed and was swallowed by fn has ended the transaction: COMMIT then rolls back without an error.
      const ended = await client.query('COMMIT');
      if (ended.command !== 'COMMIT') throw new Error('a statement of the transaction failed: nothing was committed');
      return result;
    } catch (error) {
      await client.query('ROLLBACK').catch((failure: unknown) => {
        broken = failure as Error;
      });
      throw fromDriver(error);
    } finally {
      client.off('error', onError);
      client.release(broken);
    }
  }

  close(): Promise<void> {
    this.closing ??= this.pool.end();
    return this.closing;
  }
}
