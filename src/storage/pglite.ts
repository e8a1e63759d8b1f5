/**
 * The embedded database: PGlite, PostgreSQL in WebAssembly inside this process, on one folder.
 * Durability: PGlite never calls fsync. An acknowledged row survives the death of this process (kill -9 included), because the kernel has
 * the bytes; it may not survive the death of the machine. Use a PostgreSQL server where that matters.
 * Invariant: one process at a time has the folder open (folder-lock.ts). It has one connection: a transaction holds everybody else up.
 */
import { PGlite, type Transaction } from '@electric-sql/pglite';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import type { Database } from './database.js';
import { fromDriver } from './database-errors.js';
import { FolderLock } from './folder-lock.js';
import { OpenTransaction, type Connection } from './transaction.js';

const INT8_OID = 20;
/** 128 MB, the default, is sized for a server of its own; our working set is a few megabytes. */
const SETTINGS = ['shared_buffers = 16MB', 'max_wal_size = 64MB', 'min_wal_size = 32MB'];

function plain(params: readonly unknown[]): unknown[] {
  return params.map((value) => (value === undefined ? null : value));
}

function connectionOf(driver: PGlite | Transaction): Connection {
  return {
    query: async (sql, params) => (await driver.query(sql, plain(params))).rows,
    execute: async (script) => {
      await driver.exec(script);
    },
  };
}

export class PgliteDatabase implements Database {
  readonly kind = 'pglite';
  private closing: Promise<void> | undefined;

  private constructor(
    private readonly driver: PGlite,
    private readonly lock: FolderLock,
  ) {}

  /** Opens or creates `<dataDir>/database`; FAILED_PRECONDITION / STORAGE_LOCKED when another process has it open. */
  static async open(dataDir: string): Promise<PgliteDatabase> {
    await mkdir(dataDir, { recursive: true }).catch((error: unknown) => {
      throw new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', `the data folder ${dataDir} cannot be created`, {
        cause: error,
        hint: 'Give a folder that this user may write to.',
      });
    });
    const lock = await FolderLock.acquire(join(dataDir, 'database.lock'));
    try {
      const driver = await PGlite.create(join(dataDir, 'database'), {
        parsers: { [INT8_OID]: (text: string) => Number(text) },
        postgresqlconf: SETTINGS,
      });
      return new PgliteDatabase(driver, lock);
    } catch (error) {
      await lock.release();
      const known = fromDriver(error);
      if (known instanceof LoricaError) throw known;
      throw new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', `the database in ${dataDir} cannot be opened`, {
        cause: error,
        hint: 'Restore the folder from a backup, or give an empty folder.',
      });
    }
  }

  async query<R = Record<string, unknown>>(sql: string, params: readonly unknown[] = []): Promise<R[]> {
    try {
      return (await this.driver.query<R>(sql, plain(params))).rows;
    } catch (error) {
      throw fromDriver(error);
    }
  }

  async execute(script: string): Promise<void> {
    try {
      await this.driver.exec(script);
    } catch (error) {
      throw fromDriver(error);
    }
  }

  async transaction<T>(fn: (tx: Database) => Promise<T>): Promise<T> {
    try {
      return await this.driver.transaction((tx) => fn(new OpenTransaction('pglite', connectionOf(tx))));
    } catch (error) {
      throw fromDriver(error);
    }
  }

  close(): Promise<void> {
    this.closing ??= this.driver.close().finally(() => this.lock.release());
    return this.closing;
  }
}
