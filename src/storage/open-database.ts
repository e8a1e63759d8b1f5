/** The one way to a Database: opened and migrated. */
import type { Database } from './database.js';
import { migrate } from './migrations.js';
import { PgliteDatabase } from './pglite.js';
import { PostgresDatabase } from './postgres.js';

/** `dataDir`: embedded, in `<dataDir>/database`. `url`: a PostgreSQL server, postgres://…; its database should be Lorica's alone. */
export type DatabaseOptions = { readonly dataDir: string } | { readonly url: string };

export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const database = 'url' in options ? await PostgresDatabase.open(options.url) : await PgliteDatabase.open(options.dataDir);
  try {
    await migrate(database);
  } catch (error) {
    await database.close();
    throw error;
  }
  return database;
}
