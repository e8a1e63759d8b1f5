/** `npm run bench -- smoke --json FILE`: runs a measurement and writes its figures with the machine they were taken on. */
import { writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { resolve } from 'node:path';
import { Command } from 'commander';
import { int8 } from './int8.js';
import { load } from './load.js';
import { scale, scalePoint, type ScalePoint } from './scale.js';
import { share } from './share.js';
import { estimate } from './estimate.js';
import { smoke } from './smoke.js';
import { tune } from './tune.js';
import { validate } from './validate.js';

const log = (text: string): void => void process.stderr.write(`${text}\n`);

/** Prints the figures with the date and the machine, and writes them to the file. */
async function write(figures: object, file: string | undefined): Promise<void> {
  const machine = { cores: cpus().length, model: cpus()[0]?.model, memoryBytes: totalmem(), node: process.version };
  const text = JSON.stringify({ date: new Date().toISOString(), machine, ...figures }, null, 2) + '\n';
  process.stdout.write(text);
  if (file !== undefined) await writeFile(resolve(file), text);
}

const program = new Command('bench').description('Measurements; they want a quiet machine.');
program
  .command('smoke')
  .description('training through the job runner and generation through gRPC')
  .option('--model <id|path>', 'the base (default: SmolLM2)')
  .option('--device <device>', 'cpu or cuda:N', 'cpu')
  .option('--json <file>', 'write the figures there')
  .action(async (options: { model?: string; device: string; json?: string }) => {
    await write(await smoke({ ...options, log }), options.json);
  });
program
  .command('tune')
  .description('training beside PyTorch + PEFT, interleaved; needs the Python environment of scripts/python-env.sh')
  .option('--model <id|path>', 'the base (default: SmolLM2)')
  .option('--cases <ids>', 'some of the cases, separated by commas', (text) => text.split(','))
  .option('--scale', 'instead: how speed and memory grow with rows, length, rank and layers, and where the time goes')
  .option('--rounds <n>', 'rounds of every case', Number, 5)
  .option('--steps <n>', 'steps of a participant in a round', Number, 3)
  .option('--json <file>', 'write the figures there')
  .action(async (options: { model?: string; cases?: string[]; scale?: boolean; rounds: number; steps: number; json?: string }) => {
    await write(options.scale === true ? await scale({ ...options, log }) : await tune({ ...options, log }), options.json);
  });
program
  .command('scale-point', { hidden: true })
  .description('one point of tune --scale')
  .argument('<json>')
  .action(async (json: string) => {
    process.stdout.write(JSON.stringify(await scalePoint(JSON.parse(json) as ScalePoint)));
  });
program
  .command('int8')
  .description('what products of eight-bit integers cost in accuracy')
  .option('--model <id|path>', 'the base (default: SmolLM2)')
  .option('--steps <n>', 'steps on every data set', Number, 300)
  .option('--rows <n>', 'rows of a batch', Number, 4)
  .option('--length <n>', 'tokens of a row', Number, 64)
  .option('--json <file>', 'write the figures there')
  .action(async (options: { model?: string; steps: number; rows: number; length: number; json?: string }) => {
    await write(await int8({ ...options, log }), options.json);
  });
program
  .command('validate')
  .description('validation of 100,000 rows of each of four kinds, through gRPC')
  .option('--model <id|path>', 'the base (default: SmolLM2)')
  .option('--json <file>', 'write the figures there')
  .action(async (options: { model?: string; json?: string }) => {
    await write(await validate({ ...options, log }), options.json);
  });
program
  .command('share')
  .description('a stream beside a training job: latency, segments, work done together')
  .option('--model <id|path>', 'the base (default: SmolLM2)')
  .option('--time-sharing <rule>', 'as LORICA_TIME_SHARING', 'generation-first')
  .option('--rounds <n>', 'rounds of idle, alone and together', Number, 3)
  .option('--json <file>', 'write the figures there')
  .action(async (options: { model?: string; timeSharing: string; rounds: number; json?: string }) => {
    await write(await share({ ...options, log }), options.json);
  });
program
  .command('load')
  .description('cold start to the first token and resident memory, beside llama.cpp (npm ci --prefix bench)')
  .option('--model <id|path>', 'the base (default: SmolLM2)')
  .option('--repeats <n>', 'processes of each kind', (text: string) => Number.parseInt(text, 10))
  .option('--json <file>', 'write the figures there')
  .action(async (options: { model?: string; repeats?: number; json?: string }) => {
    await write(await load({ ...options, log }), options.json);
  });
program
  .command('estimate')
  .description('estimates of tuning jobs beside the jobs')
  .option('--model <id|path>', 'the base (default: SmolLM2)')
  .option('--json <file>', 'write the figures there')
  .action(async (options: { model?: string; json?: string }) => {
    await write(await estimate({ ...options, log }), options.json);
  });

await program.parseAsync();
