/**
 * The quickstart as a user runs it (built, in a process of its own, with a real server), on the embedded base: it passes on the real
 * labels, does not pass on shuffled ones, and leaves nothing behind after Ctrl-C. `npm test` builds first.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const main = resolve(import.meta.dirname, '../../dist/src/cli/quickstart/main.js');
let folder = '';

beforeAll(async () => {
  if (!existsSync(main)) throw new Error(`${main} is missing: run npm run build`);
  folder = await mkdtemp(join(tmpdir(), 'lorica-story-'));
});
afterAll(async () => { await rm(folder, { recursive: true, force: true }); });

interface Run { status: number | null; output: string; temporary: string[] }

/** Runs it with a temporary folder of its own; `interruptAt` sends SIGINT when the output holds that text. */
async function quickstart(name: string, args: string[], interruptAt?: string): Promise<Run> {
  const temporary = await mkdtemp(join(folder, `${name}-`));
  const child = spawn(process.execPath, [main, '--model', 'tiny', ...args], { env: { ...process.env, TMPDIR: temporary, NODE_OPTIONS: '' }, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  let interrupted = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (interruptAt === undefined || interrupted || !output.includes(interruptAt)) return;
      interrupted = true;
      child.kill('SIGINT');
    });
  }
  const status = await new Promise<number | null>((done) => child.once('close', done));
  return { status, output, temporary: await readdir(temporary) };
}

const canConnect = (port: number): Promise<boolean> =>
  new Promise((done) => {
    const socket = connect(port, '127.0.0.1', () => { socket.destroy(); done(true); });
    socket.once('error', () => done(false));
  });

describe('quickstart on the embedded base', () => {
  test('passes, writes its figures and leaves nothing behind', async () => {
    const file = join(folder, 'figures.json');
    const run = await quickstart('real', ['--json', file]);
    expect(run).toMatchObject({ status: 0, temporary: [] });
    const figures = JSON.parse(await readFile(file, 'utf8'));
    expect(figures).toMatchObject({ base: 'tiny', trainRows: 800, labelsShuffled: false, passed: true });
    expect(figures.heldOutRows).toBeGreaterThanOrEqual(1000);
    expect(figures.baseDigest).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(figures.accuracy.adapter).toBeGreaterThan(Math.max(figures.accuracy.base, figures.accuracy.majority));
    expect(figures.comparisons.base.lower).toBeGreaterThan(0);
    expect(figures.comparisons.majority.lower).toBeGreaterThan(0);
    for (const key of ['tuningTokensPerSecond', 'generationTokensPerSecond', 'peakMemoryBytes', 'aliasMoveMs', 'secondsWithoutDownload']) expect(figures[key]).toBeGreaterThan(0);
    expect(run.output).toContain('lorica_alias_moves_total{tenant="shop"');
    expect(run.output).toMatch(/alias moved .* after \d+ tokens of a stream/);
  }, 300_000);

  test('with shuffled training labels the same pipeline does not pass', async () => {
    const file = join(folder, 'control.json');
    const run = await quickstart('control', ['--shuffle-labels', '--json', file]);
    expect(run).toMatchObject({ status: 1, temporary: [] });
    const figures = JSON.parse(await readFile(file, 'utf8'));
    expect(figures).toMatchObject({ labelsShuffled: true, passed: false });
  }, 300_000);

  test('Ctrl-C while tuning stops the server and removes its folder', async () => {
    const run = await quickstart('interrupted', [], 'step 1/');
    expect(run).toMatchObject({ status: 130, temporary: [] });
    const port = Number(/gRPC on 127\.0\.0\.1:(\d+)/.exec(run.output)![1]);
    expect(await canConnect(port)).toBe(false);
  }, 120_000);

  test('a base that does not exist is refused with what to do', async () => {
    const run = await quickstart('unknown', ['--model', 'no-such-model']);
    expect(run).toMatchObject({ status: 1, temporary: [] });
    expect(run.output).toContain('Known: tiny, smollm2-135m-instruct');
  }, 60_000);
});
