// Lets a child process run this repository's TypeScript: node --import ./test/runtime/typescript-loader.mjs script.ts
// Two things only: './x.js' is './x.ts' where that exists, and .ts files lose their types through swc. Jest is not involved, so
// --expose-gc, resident memory and crashes are the child's own.
import { existsSync, readFileSync } from 'node:fs';
import { register } from 'node:module';
import { URL, fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';

if (isMainThread) register(import.meta.url);

export async function resolve(specifier, context, next) {
  if (/^\.{1,2}\/.*\.js$/.test(specifier)) {
    const url = new URL(specifier.replace(/\.js$/, '.ts'), context.parentURL);
    if (existsSync(url)) return { url: url.href, shortCircuit: true };
  }
  return next(specifier, context);
}

export async function load(url, context, next) {
  if (!url.endsWith('.ts')) return next(url, context);
  const { transform } = await import('@swc/core');
  const options = { filename: fileURLToPath(url), jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'es6' }, sourceMaps: 'inline' };
  return { format: 'module', source: (await transform(readFileSync(new URL(url), 'utf8'), options)).code, shortCircuit: true };
}
