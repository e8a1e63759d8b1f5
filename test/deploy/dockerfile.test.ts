/** No image is built where the tests run, so the Dockerfile is read with a parser and held against the tree that it copies from. */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type Copy, DockerfileParser, type Instruction } from 'dockerfile-ast';
import { describe, expect, test } from '@jest/globals';

const root = resolve(import.meta.dirname, '../..');
const dockerfile = DockerfileParser.parse(readFileSync(join(root, 'Dockerfile'), 'utf8'));
const ignored = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n').filter(Boolean);
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

interface Stage { name: string; image: string; instructions: Instruction[] }
const stages: Stage[] = [];
for (const instruction of dockerfile.getInstructions()) {
  const words = instruction.getArguments().map((argument) => argument.getValue());
  if (instruction.getKeyword() === 'FROM') stages.push({ image: words[0]!, name: words[2]!, instructions: [] });
  else stages.at(-1)?.instructions.push(instruction);
}
const stage = (name: string): Stage => stages.find((one) => one.name === name)!;
const words = (instruction: Instruction): string[] => instruction.getArguments().map((argument) => argument.getValue());
const all = (name: string, keyword: string): string[][] => stage(name).instructions.filter((i) => i.getKeyword() === keyword).map(words);

describe('Dockerfile', () => {
  test('has a CPU and a CUDA target', () => {
    expect(stages.map((one) => one.name)).toEqual(['build', 'cpu', 'cuda-library', 'cuda']);
  });

  test('every file copied from the context exists and is not ignored', () => {
    const sources = stages.flatMap((one) => one.instructions)
      .filter((i) => i.getKeyword() === 'COPY' && (i as Copy).getFlags().length === 0)
      .flatMap((i) => words(i).slice(0, -1));
    expect(sources.length).toBeGreaterThan(8);
    expect(sources.filter((source) => !existsSync(join(root, source)))).toEqual([]);
    expect(sources.filter((source) => ignored.includes(source.replace(/^\.\//, '')))).toEqual([]);
  });

  test('every stage copied from comes before', () => {
    stages.forEach((one, index) => {
      for (const instruction of one.instructions.filter((i) => i.getKeyword() === 'COPY')) {
        for (const flag of (instruction as Copy).getFlags().filter((f) => f.getName() === 'from')) {
          expect(stages.slice(0, index).map((before) => before.name)).toContain(flag.getValue());
        }
      }
    });
  });

  test.each(['cpu', 'cuda'])('%s runs as a user without privileges, starts the server and exposes both ports', (name) => {
    expect(all(name, 'USER')).toEqual([['10001:10001']]);
    expect(all(name, 'ENTRYPOINT')[0]!.join(' ')).toContain(String(manifest.bin.lorica).replace(/^\.\//, ''));
    expect(all(name, 'EXPOSE').flat()).toEqual(['50051', '9464']);
  });

  test('what the build stage runs exists', () => {
    expect(all('build', 'RUN').flat().join(' ')).toContain('npm ci');
    expect(manifest.scripts.build).toBeDefined();
  });

  test('the CUDA library has the version of the CPU library', () => {
    const version: string = manifest.dependencies['onnxruntime-node'];
    expect(stage('cuda-library').instructions.map((i) => i.getTextContent())).toContain(`ARG ORT_VERSION=${version}`);
    expect(stage('cuda').instructions.map((i) => i.getTextContent()).join('\n')).toContain(`libonnxruntime.so.${version}`);
  });

  test('Node is the version that the package asks for', () => {
    const major = /\d+/.exec(manifest.engines.node)![0];
    expect(dockerfile.getInstructions().map((i) => i.getTextContent())).toContain(`ARG NODE_IMAGE=node:${major}-bookworm-slim`);
  });
});
