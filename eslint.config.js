// The layer table of the project as lint rules, beside typescript-eslint's strict type-checked set. The table is an allow
// list: what a row does not name, its folder may not import (`common` may be imported anywhere). test/lint/layers.test.ts plants
// violations and asserts that lint refuses them.
import { fileURLToPath } from 'node:url';
import eslint from '@eslint/js';
import tseslint from 'typescript-eslint';
import { createTypeScriptImportResolver } from 'eslint-import-resolver-typescript';
import { importX } from 'eslint-plugin-import-x';

const root = fileURLToPath(new URL('.', import.meta.url));

const DOMAIN = ['engine', 'tuning', 'evaluation'];
const EVERYTHING_BUT_GEN = [
  'tensor', 'storage', 'metrics', 'onnx', 'runtime', 'adapters', 'datasets', 'tenants', 'jobs', 'autodiff', 'models',
  ...DOMAIN, 'services', 'config', 'main', 'cli', 'client',
];

/** folder of src -> the folders it may import besides itself and `common`. Lower layers first. */
export const LAYERS = {
  common: [],
  gen: [],
  tensor: [],
  storage: [],
  metrics: [],
  onnx: ['tensor'],
  runtime: ['tensor', 'metrics'],
  adapters: ['tensor', 'storage', 'metrics'],
  datasets: ['tensor', 'storage', 'metrics'],
  tenants: ['storage', 'metrics'],
  jobs: ['storage', 'metrics'],
  autodiff: ['onnx'],
  models: ['autodiff', 'onnx', 'tensor'],
  engine: ['models', 'runtime', 'adapters', 'metrics'],
  tuning: ['onnx', 'autodiff', 'models', 'runtime', 'adapters', 'datasets', 'jobs', 'metrics'],
  evaluation: ['models', 'runtime', 'adapters', 'datasets', 'jobs', 'metrics'],
  services: [...DOMAIN, 'tenants', 'datasets', 'adapters', 'jobs', 'metrics', 'gen'],
  config: EVERYTHING_BUT_GEN,
  main: EVERYTHING_BUT_GEN,
  cli: EVERYTHING_BUT_GEN,
  client: [...EVERYTHING_BUT_GEN, 'gen'],
};

const zones = Object.entries(LAYERS).map(([folder, allowed]) => ({
  target: `./src/${folder}`,
  from: './src',
  except: [...new Set([folder, 'common', ...allowed])].map((name) => `./${name}`),
  message: `src/${folder} may import only: ${[...new Set(['common', ...allowed])].join(', ')}.`,
}));

/** Native libraries have one importer; everything above it sees Runtime, Session and Tensor. */
const NATIVE = ['koffi', 'onnxruntime-node', 'onnxruntime-common'];

export default tseslint.config(
  { ignores: ['dist/', 'node_modules/', 'bench/node_modules/', 'bench/out/', '.cache/', '.venv/', 'coverage/', 'src/gen/', 'test/environment.cjs'] },
  eslint.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [...tseslint.configs.strictTypeChecked],
    plugins: { 'import-x': importX },
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: root } },
    settings: {
      'import-x/extensions': ['.ts', '.js'],
      'import-x/parsers': { '@typescript-eslint/parser': ['.ts'] },
      'import-x/resolver-next': [createTypeScriptImportResolver({ project: `${root}tsconfig.json` })],
    },
    rules: {
      'import-x/no-cycle': ['error', { ignoreExternal: true }],
      'import-x/no-restricted-paths': ['error', { basePath: root, zones }],
      'no-restricted-imports': ['error', { paths: NATIVE.map((name) => ({ name, message: 'Only src/runtime may import native code.' })) }],
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports', prefer: 'type-imports', disallowTypeAnnotations: false }],
      // Numbers and booleans read well in messages; everything else must be rendered on purpose.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true, allowNullish: false }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      // noUncheckedIndexedAccess makes numeric kernels unreadable without `!`; bounds are checked once, before the loop.
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/unified-signatures': 'off',
      // Async methods that satisfy an interface need no await of their own.
      '@typescript-eslint/require-await': 'off',
      // A rejection's cause is unknown; LoricaError carries it on.
      '@typescript-eslint/prefer-promise-reject-errors': ['error', { allowThrowingUnknown: true }],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      '@typescript-eslint/no-extraneous-class': 'off',
    },
  },
  { files: ['src/runtime/**/*.ts', 'test/**/*.ts', 'bench/**/*.ts'], rules: { 'no-restricted-imports': 'off' } },
  {
    // Tests reach into parsed JSON and generated clients; their types are asserted by what they expect.
    files: ['test/**/*.ts'],
    rules: {
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      '@typescript-eslint/unbound-method': 'off',
    },
  },
  {
    files: ['**/*.js', '**/*.cjs'],
    languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly', Buffer: 'readonly' } },
  },
);
