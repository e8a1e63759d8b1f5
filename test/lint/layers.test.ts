/**
 * Lint is what keeps the layers apart, so lint itself is tested: a temporary tree holds one file for every ordered pair of folders
 * of src, each importing the other folder, and the verdicts must be exactly the table of docs/architecture.md. The table is
 * written out here a second time on purpose.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const TABLE = `
  common:
  gen:
  tensor:
  storage:
  metrics:
  onnx: tensor
  runtime: tensor metrics
  adapters: tensor storage metrics
  datasets: tensor storage metrics
  tenants: storage metrics
  jobs: storage metrics
  autodiff: onnx
  models: autodiff onnx tensor
  engine: models runtime adapters metrics
  tuning: onnx autodiff models runtime adapters datasets jobs metrics
  evaluation: models runtime adapters datasets jobs metrics
  services: engine tuning evaluation tenants datasets adapters jobs metrics gen
  config: *
  main: *
  cli: *
  client: * gen`;

const rows = TABLE.trim().split('\n').map((line) => {
  const [folder, list] = line.trim().split(':') as [string, string];
  return { folder, list: list.trim().split(' ').filter(Boolean) };
});
const folders = rows.map((row) => row.folder);
const mayImport = (from: string, to: string): boolean => {
  const list = rows.find((row) => row.folder === from)!.list;
  return to === from || to === 'common' || list.includes(to) || (list.includes('*') && to !== 'gen');
};

interface Verdict { filePath: string; messages: { ruleId: string | null; message: string }[] }

const repository = resolve(import.meta.dirname, '../..');
let tree = '';
const verdicts = new Map<string, (string | null)[]>();

async function plant(path: string, text: string): Promise<void> {
  await mkdir(join(tree, path, '..'), { recursive: true });
  await writeFile(join(tree, path), text);
}

beforeAll(async () => {
  tree = await mkdtemp(join(tmpdir(), 'lorica-lint-'));
  for (const file of ['eslint.config.js', 'tsconfig.json', 'package.json']) await cp(join(repository, file), join(tree, file));
  await symlink(join(repository, 'node_modules'), join(tree, 'node_modules'));
  for (const folder of folders) await plant(`src/${folder}/index.ts`, `export const ${folder} = '${folder}';\n`);
  for (const from of folders) {
    for (const to of folders) await plant(`src/${from}/uses-${to}.ts`, `export { ${to} } from '../${to}/index.js';\n`);
  }
  await plant('src/runtime/native.ts', "export { default as koffi } from 'koffi';\n");
  await plant('src/engine/native.ts', "export { default as koffi } from 'koffi';\n");
  await plant('src/models/native.ts', "export * from 'onnxruntime-node';\n");
  await plant('src/jobs/chicken.ts', "import { egg } from './egg.js';\nexport const chicken = (): number => egg() + 1;\n");
  await plant('src/jobs/egg.ts', "import { chicken } from './chicken.js';\nexport const egg = (): number => chicken() - 1;\n");
  await plant('src/jobs/floating.ts', 'const later = async (): Promise<void> => { await Promise.resolve(); };\nexport const start = (): void => { later(); };\n');
  const output = await new Promise<string>((done, fail) => {
    const args = [join(repository, 'node_modules/eslint/bin/eslint.js'), '--format', 'json', 'src'];
    execFile(process.execPath, args, { cwd: tree, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      if (error !== null && error.code !== 1) fail(new Error(`eslint did not run: ${stderr}`));
      else done(stdout);
    });
  });
  for (const verdict of JSON.parse(output) as Verdict[]) {
    verdicts.set(relative(tree, verdict.filePath), verdict.messages.map((message) => message.ruleId));
  }
}, 120_000);

afterAll(async () => { await rm(tree, { recursive: true, force: true }); });

describe('the layer table', () => {
  test.each(folders.filter((folder) => folder !== 'gen'))('%s imports what its row lists and nothing else', (from) => {
    const wrong = folders.filter((to) => {
      const refused = verdicts.get(`src/${from}/uses-${to}.ts`)!.includes('import-x/no-restricted-paths');
      return refused === mayImport(from, to);
    });
    expect(wrong).toEqual([]);
  });

  test('the three domain layers never import each other', () => {
    for (const from of ['engine', 'tuning', 'evaluation']) {
      for (const to of ['engine', 'tuning', 'evaluation']) expect(mayImport(from, to)).toBe(from === to);
    }
  });
});

describe('the other house rules', () => {
  test('native libraries are imported by src/runtime only', () => {
    expect(verdicts.get('src/runtime/native.ts')).toEqual([]);
    expect(verdicts.get('src/engine/native.ts')).toEqual(['no-restricted-imports']);
    expect(verdicts.get('src/models/native.ts')).toEqual(['no-restricted-imports']);
  });

  test('a cycle is refused on both sides', () => {
    expect(verdicts.get('src/jobs/chicken.ts')).toContain('import-x/no-cycle');
    expect(verdicts.get('src/jobs/egg.ts')).toContain('import-x/no-cycle');
  });

  test('a promise that nobody awaits is refused', () => {
    expect(verdicts.get('src/jobs/floating.ts')).toContain('@typescript-eslint/no-floating-promises');
  });
});
