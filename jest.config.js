// Tests run as native ES modules in a process of their own per file (docs/decisions/0001-jest.md): ONNX Runtime lives once per
// process and jest gives each file a realm of its own, so a worker is replaced after every file.
export default {
  testEnvironment: './test/environment.cjs',
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '^.+\\.ts$': ['@swc/jest', { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'es6' }, sourceMaps: 'inline' }] },
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  // Those need a PostgreSQL server (npm run test:postgres) or the SmolLM2 checkpoint (npm run test:model): see their configurations.
  testPathIgnorePatterns: ['/node_modules/', '\\.(pg|model)\\.test\\.ts$'],
  modulePathIgnorePatterns: ['<rootDir>/dist', '<rootDir>/bench/node_modules', '<rootDir>/.cache'],
  maxWorkers: 2,
  workerIdleMemoryLimit: '1MB',
  testTimeout: 60_000,
};
