// The contract suites against a real PostgreSQL server (npm run test:postgres): LORICA_TEST_POSTGRES_URL, or one started for the run.
import base from './jest.config.js';

export default {
  ...base,
  testMatch: ['<rootDir>/test/**/*.pg.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
  globalSetup: './test/contract/postgres-setup.mjs',
  globalTeardown: './test/contract/postgres-teardown.mjs',
};
