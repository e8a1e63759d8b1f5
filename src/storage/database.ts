/**
 * The database port: PostgreSQL's dialect over PGlite (in this process, one folder) or a PostgreSQL server. Layers keep their rows
 * behind this port, and their tables in migrations.ts.
 * Invariant: what `transaction` resolves with is committed; what it rejects with has left nothing behind.
 * Inside a transaction only its own `tx` may be used: the embedded database has one connection, so the outer handle would wait for ever.
 */
export interface Database {
  readonly kind: 'pglite' | 'postgres';
  /** One statement with `$1…` parameters. bigint columns come back as numbers, timestamptz as Date, json as values. Json parameters are passed as JSON text. */
  query<R = Record<string, unknown>>(sql: string, params?: readonly unknown[]): Promise<R[]>;
  /** Several statements without parameters. */
  execute(script: string): Promise<void>;
  /** Runs `fn` in a transaction; inside a transaction, in a savepoint. */
  transaction<T>(fn: (tx: Database) => Promise<T>): Promise<T>;
  /** Releases connections and, for the embedded database, the folder's lock. Idempotent. */
  close(): Promise<void>;
}
