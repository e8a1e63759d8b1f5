import { describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { openDatabase } from '../../src/storage/index.js';
import { databaseContract } from './database.js';
import { storageContract } from './storage.js';
import { temporaryPostgres, temporaryPostgresUrl } from './temporary-postgres.js';

databaseContract(temporaryPostgres);
storageContract(temporaryPostgres);

describe('a PostgreSQL server', () => {
  test('is migrated once by many processes at once', async () => {
    const url = await temporaryPostgresUrl();
    const all = await Promise.all(Array.from({ length: 5 }, () => openDatabase({ url: url.value })));
    const versions = await Promise.all(all.map((database) => database.query('SELECT version FROM schema_version ORDER BY version')));
    expect(new Set(versions.map((rows) => JSON.stringify(rows))).size).toBe(1);
    await Promise.all(all.map((database) => database.close()));
    await url.dispose();
  });

  test('that cannot be reached is UNAVAILABLE', async () => {
    await expect(openDatabase({ url: 'postgres://nobody@127.0.0.1:1/none' })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      reason: 'UPSTREAM_UNAVAILABLE',
    });
  });

  test('that drops every connection is UNAVAILABLE for what was running, and used again afterwards', async () => {
    const url = await temporaryPostgresUrl();
    const database = await openDatabase({ url: url.value });
    const running = database.transaction((tx) => tx.query('SELECT pg_sleep(60)')).catch((error: unknown) => error);
    const admin = new pg.Client({ connectionString: url.value });
    await admin.connect();
    let killed = 0;
    while (killed === 0) {
      const { rows } = await admin.query<{ ended: boolean }>(
        `SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()`,
      );
      killed = rows.length;
    }
    await admin.end();
    expect(await running).toMatchObject({ code: 'UNAVAILABLE', reason: 'UPSTREAM_UNAVAILABLE' });
    expect(await database.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await database.close();
    await url.dispose();
  });
});
