/** `npm run bench -- smoke --json FILE`: runs a measurement and writes its figures with the machine they were taken on. */
import { writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { resolve } from 'node:path';
import { Command } from 'commander';
import { smoke } from './smoke.js';

const program = new Command('bench').description('Measurements; they want a quiet machine.');
program
  .command('smoke')
  .description('training through the job runner and generation through gRPC')
  .option('--model <id|path>', 'the base (default: SmolLM2)')
  .option('--device <device>', 'cpu or cuda:N', 'cpu')
  .option('--json <file>', 'write the figures there')
  .action(async (options: { model?: string; device: string; json?: string }) => {
    const figures = await smoke({ ...options, log: (text) => process.stderr.write(`${text}\n`) });
    const machine = { cores: cpus().length, model: cpus()[0]?.model, memoryBytes: totalmem(), node: process.version };
    const text = JSON.stringify({ date: new Date().toISOString(), machine, ...figures }, null, 2) + '\n';
    process.stdout.write(text);
    if (options.json !== undefined) await writeFile(resolve(options.json), text);
  });
await program.parseAsync();
