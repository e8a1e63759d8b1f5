// Jest's global teardown of the PostgreSQL suite.
export default async function teardown() {
  await globalThis.loricaTestPostgres?.stop();
}
