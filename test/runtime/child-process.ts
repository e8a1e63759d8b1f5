/** Runs a script of this folder in a Node process of its own and gives back the JSON that it printed last. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';

const FOLDER = join(process.cwd(), 'test', 'runtime');

/** Rejects with the child's stderr when it fails. `environment` is added to this process's. */
export function runChild<T>(script: string, args: readonly string[] = [], environment: NodeJS.ProcessEnv = {}): Promise<T> {
  const flags = ['--expose-gc', '--import', join(FOLDER, 'typescript-loader.mjs')];
  return new Promise((resolve, reject) => {
    const options = { env: { ...process.env, NODE_OPTIONS: '', ...environment }, maxBuffer: 1 << 26, timeout: 120_000 };
    execFile(process.execPath, [...flags, join(FOLDER, script), ...args], options, (error, stdout, stderr) => {
      const last = stdout.trim().split('\n').at(-1) ?? '';
      if (error !== null) reject(new Error(`${script} ended with ${String(error.code ?? error.signal)}:\n${stderr}\n${stdout}`));
      else resolve(JSON.parse(last) as T);
    });
  });
}
