/**
 * Runs the commands that show an issue to be done and prints each figure beside its floor:
 *   npm run accept -- issue-3 [--only quickstart,smoke] [--json FILE]
 * Exit status 1 when a command fails, takes too long, or a figure falls short. Timings want a quiet machine.
 */
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { type Check, judge, readFloors, type Verdict } from './floors.js';

interface Outcome {
  readonly id: string;
  readonly title: string;
  readonly status: number;
  readonly seconds: number;
  readonly limitSeconds: number;
  readonly verdicts: readonly Verdict[];
  readonly figures: unknown;
}

function bash(command: string, cwd: string, environment: NodeJS.ProcessEnv, limitSeconds: number): Promise<number> {
  return new Promise((done, fail) => {
    const child = spawn('bash', ['-euo', 'pipefail', '-c', command], { cwd, env: environment, stdio: 'inherit', detached: true });
    const timer = setTimeout(() => process.kill(-child.pid!, 'SIGKILL'), limitSeconds * 1000);
    child.once('error', fail);
    child.once('close', (code) => {
      clearTimeout(timer);
      done(code ?? 137);
    });
  });
}

async function runCheck(check: Check, root: string): Promise<Outcome> {
  const work = await mkdtemp(join(tmpdir(), 'lorica-accept-'));
  try {
    const figuresFile = join(work, 'figures.json');
    const home = join(work, 'home');
    await mkdir(home);
    let cwd = root;
    const environment: NodeJS.ProcessEnv = { ...process.env, ...check.environment, FIGURES: figuresFile };
    if (check.where === 'clone') {
      cwd = join(work, 'clone');
      Object.assign(environment, { HOME: home, XDG_CACHE_HOME: undefined, LORICA_MODEL_CACHE: undefined, HF_HOME: undefined });
      const cloned = await bash(`git clone --quiet --no-hardlinks "${root}" "${cwd}"`, root, process.env, 120);
      if (cloned !== 0) throw new Error('git clone failed');
    }
    console.log(`\n=== ${check.title}`);
    const from = performance.now();
    const status = await bash(check.command, cwd, environment, check.limitSeconds);
    const seconds = (performance.now() - from) / 1000;
    const figures: unknown = check.figures.length === 0 ? undefined : JSON.parse(await readFile(figuresFile, 'utf8').catch(() => 'null'));
    return { id: check.id, title: check.title, status, seconds, limitSeconds: check.limitSeconds, verdicts: check.figures.map((floor) => judge(figures, floor)), figures };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function report(outcome: Outcome): boolean {
  const inTime = outcome.seconds <= outcome.limitSeconds;
  const held = outcome.status === 0 && inTime && outcome.verdicts.every((verdict) => verdict.held);
  console.log(`${held ? 'held ' : 'SHORT'}  ${outcome.id}: exit ${outcome.status}, ${outcome.seconds.toFixed(0)} s (≤ ${outcome.limitSeconds} s)`);
  for (const { path, value, floor, held: one } of outcome.verdicts) console.log(`       ${one ? 'held ' : 'SHORT'}  ${path} = ${value ?? 'missing'}  (${floor})`);
  return held;
}

const program = new Command('accept')
  .argument('<issue>', 'such as issue-3')
  .option('--only <ids>', 'comma-separated ids of checks', (text: string) => text.split(','))
  .option('--json <file>', 'write all outcomes there')
  .parse();
const options = program.opts<{ only?: string[]; json?: string }>();
const root = resolve('.');
const checks = (await readFloors(join(root, 'acceptance', 'floors.json'), program.args[0]!)).filter((check) => options.only?.includes(check.id) ?? true);
if (checks.length === 0) throw new Error('no check has any of these ids');
const outcomes: Outcome[] = [];
for (const check of checks) outcomes.push(await runCheck(check, root));
console.log(`\n=== ${program.args[0]!}`);
const held = outcomes.map(report);
const machine = { cores: cpus().length, model: cpus()[0]?.model, memoryBytes: totalmem(), node: process.version };
if (options.json !== undefined) await writeFile(resolve(options.json), JSON.stringify({ issue: program.args[0], date: new Date().toISOString(), machine, outcomes }, null, 2) + '\n');
console.log(`${held.filter(Boolean).length} passed, ${held.filter((one) => !one).length} failed`);
process.exitCode = held.every(Boolean) ? 0 : 1;
