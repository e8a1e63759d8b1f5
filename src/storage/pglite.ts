/**
 * The embedded database: PGlite, PostgreSQL in WebAssembly inside this process, on one folder.
 * Durability: PGlite never calls fsync. An acknowledged row survives the death of this process (kill -9 included), because the kernel has
 * the bytes; it may not survive the death of the machine. Use a PostgreSQL server where that matters.
 * Invariants: one process at a time has the folder open (folder-lock.ts). Statements run one at a time; a transaction holds everybody else up.
 * An instance that panicked (the disk was too full for its log) is never asked again, since it would spin for ever: the next statement opens
 * the folder anew, which recovers every acknowledged row from the log, or reports the full disk.
 */
import { PGlite } from '@electric-sql/pglite';
import { existsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import type { Database } from './database.js';
import { fromDriver, storageFull } from './database-errors.js';
import { FolderLock } from './folder-lock.js';
import { cannotBeUsed, makeFolder } from './make-folder.js';
import { OpenTransaction, type Connection } from './transaction.js';

const INT8_OID = 20;
/** 128 MB, the default, is sized for a server of its own; our working set is a few megabytes. */
const SETTINGS = ['shared_buffers = 16MB', 'max_wal_size = 64MB', 'min_wal_size = 32MB'];
/** Room for a new database (38 MB and growth), and for an old one to recover with a new log segment (16 MB); below it opening would fail half-way. */
const NEW_BYTES = 64 << 20;
const RECOVERY_BYTES = 24 << 20;
const RETRY_MS = 2_000;

export class PgliteDatabase implements Database {
  readonly kind = 'pglite';
  /** The end of the line of statements and transactions. */
  private tail: Promise<unknown> = Promise.resolve();
  /** Why the driver must not be used again. */
  private panic: unknown;
  private retryAtMs = 0;
  private closing: Promise<void> | undefined;
  private readonly connection: Connection = {
    query: (sql, params) => this.statement(async (driver) => (await driver.query(sql, plain(params))).rows),
    execute: (script) =>
      this.statement(async (driver) => {
        await driver.exec(script);
      }),
  };

  private constructor(
    private driver: PGlite,
    private readonly folder: string,
    private readonly lock: FolderLock,
  ) {}

  /** Opens or creates `<dataDir>/database`; FAILED_PRECONDITION / STORAGE_LOCKED when another process has it open. */
  static async open(dataDir: string): Promise<PgliteDatabase> {
    const lock = await lockFolder(dataDir);
    const folder = join(dataDir, 'database');
    try {
      return new PgliteDatabase(await openDriver(folder, dataDir), folder, lock);
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  query<R = Record<string, unknown>>(sql: string, params: readonly unknown[] = []): Promise<R[]> {
    return this.exclusively(async () => (await this.connection.query(sql, params)) as R[]);
  }

  execute(script: string): Promise<void> {
    return this.exclusively(() => this.connection.execute(script));
  }

  transaction<T>(fn: (tx: Database) => Promise<T>): Promise<T> {
    return this.exclusively(async () => {
      await this.connection.execute('BEGIN');
      try {
        const result = await fn(new OpenTransaction('pglite', this.connection));
        await this.commit();
        return result;
      } catch (error) {
        if (this.panic === undefined) await this.connection.execute('ROLLBACK');
        throw error;
      }
    });
  }

  close(): Promise<void> {
    this.closing ??= this.tail.then(() => (this.panic === undefined ? this.driver.close() : undefined)).finally(() => this.lock.release());
    return this.closing;
  }

  /** Runs `fn` after all that was asked before, on a driver that works. */
  private exclusively<T>(fn: () => Promise<T>): Promise<T> {
    if (this.closing !== undefined) return Promise.reject(new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the database is closed'));
    const run = this.tail.then(async () => {
      try {
        if (this.panic !== undefined) await this.reopen();
        return await fn();
      } catch (error) {
        throw fromDriver(error);
      }
    });
    this.tail = run.catch(() => undefined);
    return run;
  }

  private async statement<T>(run: (driver: PGlite) => Promise<T>): Promise<T> {
    if (this.panic !== undefined) throw fromDriver(this.panic);
    try {
      return await run(this.driver);
    } catch (error) {
      if (isPanic(error)) this.panic = error;
      throw error;
    }
  }

  /** After a panic: opens the folder anew, or throws what the panic was. Attempts cost a second, so they keep some distance. */
  private async reopen(): Promise<void> {
    if (performance.now() < this.retryAtMs) throw this.panic;
    try {
      this.driver = await openDriver(this.folder, this.folder);
    } catch {
      this.retryAtMs = performance.now() + RETRY_MS;
      throw this.panic;
    }
    this.panic = undefined;
  }

  private async commit(): Promise<void> {
    // A statement that failed and was swallowed by fn has ended the transaction: COMMIT then rolls back without an error.
    const ended = await this.statement((driver) => driver.query('COMMIT'));
    if (ended.command !== 'COMMIT') throw new Error('a statement of the transaction failed: nothing was committed');
  }
}

async function lockFolder(dataDir: string): Promise<FolderLock> {
  try {
    await makeFolder(dataDir);
    return await FolderLock.acquire(join(dataDir, 'database.lock'));
  } catch (error) {
    const known = fromDriver(error);
    if (known instanceof LoricaError) throw known;
    throw cannotBeUsed(dataDir, error);
  }
}

/** `existing`: a folder on the same volume as `folder`, which may not be there yet. */
async function openDriver(folder: string, existing: string): Promise<PGlite> {
  const volume = await statfs(existing);
  const freeBytes = volume.bavail * volume.bsize;
  const neededBytes = existsSync(join(folder, 'PG_VERSION')) ? RECOVERY_BYTES : NEW_BYTES;
  if (freeBytes < neededBytes) throw storageFull(new Error(`${freeBytes} bytes are free, ${neededBytes} are needed to open the database`));
  try {
    return await PGlite.create(folder, { parsers: { [INT8_OID]: (text: string) => Number(text) }, postgresqlconf: SETTINGS });
  } catch (error) {
    const known = fromDriver(error);
    if (known instanceof LoricaError) throw known;
    throw new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', `the database in ${folder} cannot be opened`, {
      cause: error,
      hint: 'Restore the folder from a backup, or give an empty folder.',
    });
  }
}

/** PostgreSQL's PANIC and FATAL end a server process; a trap ends WebAssembly. */
function isPanic(error: unknown): boolean {
  const severity = error instanceof Error ? (error as { severity?: unknown }).severity : undefined;
  return severity === 'PANIC' || severity === 'FATAL' || (error instanceof Error && error.name === 'RuntimeError');
}

function plain(params: readonly unknown[]): unknown[] {
  return params.map((value) => (value === undefined ? null : value));
}
