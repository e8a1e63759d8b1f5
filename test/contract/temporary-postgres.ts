/** A database of its own on the suite's PostgreSQL server. */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { type Database, openDatabase } from '../../src/storage/index.js';
import type { Temporary } from '../storage/temporary.js';

function serverUrl(): string {
  const url = process.env['LORICA_TEST_POSTGRES_URL'];
  if (url === undefined) throw new Error('run this suite with npm run test:postgres');
  return url;
}

async function onServer(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: serverUrl() });
  await client.connect();
  await client.query(sql);
  await client.end();
}

/** The URL of a new, empty database. */
export async function temporaryPostgresUrl(): Promise<Temporary<string>> {
  const name = `lorica_${randomUUID().replaceAll('-', '')}`;
  await onServer(`CREATE DATABASE ${name}`);
  const url = new URL(serverUrl());
  url.pathname = `/${name}`;
  return { value: url.href, dispose: () => onServer(`DROP DATABASE ${name} WITH (FORCE)`) };
}

export async function temporaryPostgres(): Promise<Temporary<Database>> {
  const url = await temporaryPostgresUrl();
  const value = await openDatabase({ url: url.value });
  return {
    value,
    dispose: async () => {
      await value.close();
      await url.dispose();
    },
  };
}
