// Jest's global setup of the PostgreSQL suite.
import process from 'node:process';
import { startPostgres } from './postgres-server.mjs';

export default async function setup() {
  if (process.env.LORICA_TEST_POSTGRES_URL) return;
  const server = await startPostgres();
  process.env.LORICA_TEST_POSTGRES_URL = server.url;
  globalThis.loricaTestPostgres = server;
}
