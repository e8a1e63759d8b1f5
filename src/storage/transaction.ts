/** An open transaction as a Database: statements go to its one connection, inner transactions become savepoints. Statements must not overlap. */
import type { Database } from './database.js';

/** One connection inside a transaction. */
export interface Connection {
  query(sql: string, params: readonly unknown[]): Promise<unknown[]>;
  execute(script: string): Promise<void>;
}

export class OpenTransaction implements Database {
  constructor(
    readonly kind: Database['kind'],
    private readonly connection: Connection,
    private readonly depth = 0,
  ) {}

  async query<R = Record<string, unknown>>(sql: string, params: readonly unknown[] = []): Promise<R[]> {
    return (await this.connection.query(sql, params)) as R[];
  }

  execute(script: string): Promise<void> {
    return this.connection.execute(script);
  }

  async transaction<T>(fn: (tx: Database) => Promise<T>): Promise<T> {
    const savepoint = `inner_${this.depth}`;
    await this.connection.execute(`SAVEPOINT ${savepoint}`);
    try {
      const result = await fn(new OpenTransaction(this.kind, this.connection, this.depth + 1));
      await this.connection.execute(`RELEASE SAVEPOINT ${savepoint}`);
      return result;
    } catch (error) {
      await this.connection.execute(`ROLLBACK TO SAVEPOINT ${savepoint}; RELEASE SAVEPOINT ${savepoint}`);
      throw error;
    }
  }

  close(): Promise<void> {
    return Promise.reject(new Error('a transaction is closed by returning from it'));
  }
}
