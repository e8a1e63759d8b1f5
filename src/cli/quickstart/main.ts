/**
 * `npm run quickstart`: the main job of the product, end to end, as a gRPC client of a server that it starts: data, tuning with progress,
 * evaluation against base and majority, a swap under traffic, before and after, metrics, a table.
 * Exit status: 0 when the adapter beats base and majority with the whole 95% interval above zero, 1 when it does not or anything
 * fails, 130 after Ctrl-C. Nothing is left behind: the server is stopped and its folder removed.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { LoricaError } from '../../common/errors.js';
import { LoricaCallError } from '../../client/index.js';
import { createScreen } from './display.js';
import { summary } from './report.js';
import { runStory } from './story.js';

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError('must be a whole number, 0 or above.');
  return value;
}

const program = new Command('quickstart')
  .description('Tunes, evaluates and hot-swaps an adapter on real reviews, through a server that it starts.')
  .option('--model <id|path>', 'the base: "smollm2-135m-instruct", "tiny", a Hugging Face folder or a .gguf file (default: SmolLM2 where it can be had, else tiny)')
  .option('--device <device>', 'cpu or cuda:N', 'cpu')
  .option('--seed <n>', 'of the split, the tuning and the intervals', wholeNumber, 1)
  .option('--shuffle-labels', 'negative control: train on labels dealt out at random; it must not pass', false)
  .option('--json <file>', 'write the figures there')
  .parse();
const options = program.opts<{ model?: string; device: string; seed: number; shuffleLabels: boolean; json?: string }>();

const interrupt = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    if (interrupt.signal.aborted) process.exit(130);
    process.stderr.write('\nStopping (once more to stop at once) …\n');
    interrupt.abort(new LoricaError('CANCELLED', 'CANCELLED', `stopped by ${name}`));
  });
}

const screen = createScreen(process.stdout);
const dataDir = await mkdtemp(join(tmpdir(), 'lorica-quickstart-'));
try {
  const figures = await runStory({ ...options, dataDir, screen, signal: interrupt.signal });
  if (options.json !== undefined) await writeFile(resolve(options.json), JSON.stringify(figures, null, 2) + '\n');
  screen.heading('Result');
  process.stdout.write(`${summary(figures)}\n\n`);
  process.stdout.write(
    figures.passed
      ? 'The adapter beats the base and the majority class; both 95% intervals are above zero.\n'
      : 'The adapter does not beat both the base and the majority class with the whole 95% interval above zero.\n',
  );
  process.exitCode = figures.passed ? 0 : 1;
} catch (error) {
  screen.endProgress();
  process.exitCode = interrupt.signal.aborted ? 130 : 1;
  process.stderr.write(`\n${interrupt.signal.aborted ? 'Stopped.' : explain(error)}\n`);
} finally {
  await rm(dataDir, { recursive: true, force: true });
}

/** What a person can act on; the stack only of what should not happen. */
function explain(error: unknown): string {
  if (error instanceof LoricaError || error instanceof LoricaCallError) return `${error.message}${error.hint === undefined ? '' : `\n${error.hint}`}`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
