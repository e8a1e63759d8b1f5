/**
 * Agreement with the references, each figure beside its floor (acceptance/floors.json, issue-5, parity):
 *   npm run check:parity -- [--only transformers,llama,tokenizers,exports] [--json FILE]
 * transformers: logits of SmolLM2 and of every tiny checkpoint. llama: the top token along llama.cpp's continuations, and perplexities beside
 * its quantized files. tokenizers and exports run the checks of those names. Python comes from scripts/python-env.sh, llama.cpp from
 * `npm ci --prefix bench`, texts from pinned packages (data/NOTICE). Exit status 1 when a figure falls short or is missing.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { openCheckpoint } from '../../src/models/checkpoint.js';
import { pullModel } from '../../src/models/catalogue.js';
import { Runtime } from '../../src/runtime/index.js';
import { judge, readFloors } from '../accept/floors.js';
import { readCorpus, type Document } from '../tiny-base/corpus.js';
import { compareWithLlama, WINDOW_TOKENS, type LlamaFigures } from './parity-llama.js';
import { compareWithTransformers, type TransformersFigures } from './parity-transformers.js';

const PARTS = ['transformers', 'llama', 'tokenizers', 'exports'] as const;
type Part = (typeof PARTS)[number];
const SMOLLM2 = 'smollm2-135m-instruct';
const CORPUS_FOLDER = join('data', 'fetched', 'corpus');
const PROMPTS = 20;
const PROMPT_TOKENS = 24;
/** Of each of the two texts. */
const WINDOWS = 16;

interface Figures {
  transformers?: TransformersFigures;
  llama?: LlamaFigures;
  tokenizers?: { readonly strings: number; readonly kinds: number; readonly differences: number };
  exports?: { readonly status: number };
}

/** A text long enough for the windows: the speeches of the twentieth century, or the novel's later chapters. */
function text(documents: readonly Document[], source: string, id: RegExp): string {
  return documents.filter((document) => document.source === source && id.test(document.id)).map((document) => document.text).join('\n');
}

async function models(parts: ReadonlySet<Part>, folder: string, log: (line: string) => void): Promise<Figures> {
  const documents = await readCorpus(CORPUS_FOLDER);
  const { path, digest } = await pullModel(SMOLLM2);
  const checkpoint = await openCheckpoint(path, { id: SMOLLM2, knownDigest: digest });
  const runtime = Runtime.open();
  try {
    const tokens = [text(documents, 'sotu', /\/19/), text(documents, 'moby-dick', /chapter_4/)].map((all) => checkpoint.tokenizer.encode(all.slice(0, 60_000)));
    const figures: Figures = {};
    if (parts.has('transformers')) {
      const python = execFileSync('scripts/python-env.sh', { encoding: 'utf8' }).trim();
      figures.transformers = await compareWithTransformers(runtime, checkpoint, tokens[0]!, python, folder);
    }
    if (parts.has('llama')) {
      execFileSync('npm', ['ci', '--prefix', 'bench', '--no-progress', '--silent'], { stdio: 'inherit' });
      const windows = tokens.flatMap((all) => Array.from({ length: WINDOWS }, (_, i) => all.slice(i * WINDOW_TOKENS, (i + 1) * WINDOW_TOKENS)));
      if (windows.some((window) => window.length < WINDOW_TOKENS)) throw new Error('a text is too short for its windows');
      // Prompts begin where the windows end, each a while after the last.
      const prompts = Array.from({ length: PROMPTS }, (_, i) => {
        const from = WINDOWS * WINDOW_TOKENS + Math.floor(i / 2) * 300;
        return tokens[i % 2]!.slice(from, from + PROMPT_TOKENS);
      });
      figures.llama = await compareWithLlama(runtime, checkpoint, prompts, windows, folder, log);
    }
    return figures;
  } finally {
    await runtime.close();
    await checkpoint.close();
  }
}

async function tokenizers(folder: string): Promise<NonNullable<Figures['tokenizers']>> {
  const file = join(folder, 'tokenizers.json');
  spawnSync(process.execPath, ['dist/scripts/check/tokenizers.js', '--json', file], { stdio: 'inherit' });
  const results = JSON.parse(await readFile(file, 'utf8')) as { texts: number; differentIds: number; differentText: number }[];
  return {
    strings: Math.min(...results.map(({ texts }) => texts)), kinds: results.length,
    differences: results.reduce((sum, { differentIds, differentText }) => sum + differentIds + differentText, 0),
  };
}

const options = new Command('parity')
  .option('--only <parts>', PARTS.join(','), (list: string) => list.split(','))
  .option('--json <file>', 'write the figures there')
  .parse()
  .opts<{ only?: string[]; json?: string }>();
const parts = new Set(PARTS.filter((part) => options.only?.includes(part) ?? true));
if (parts.size === 0) throw new Error(`--only takes ${PARTS.join(', ')}`);
const folder = await mkdtemp(join(tmpdir(), 'lorica-parity-'));
try {
  const log = (line: string): void => void process.stderr.write(`${line}\n`);
  const figures: Figures = parts.has('transformers') || parts.has('llama') ? await models(parts, folder, log) : {};
  if (parts.has('tokenizers')) figures.tokenizers = await tokenizers(folder);
  if (parts.has('exports')) figures.exports = { status: spawnSync(process.execPath, ['dist/scripts/check/exports.js'], { stdio: 'inherit' }).status ?? 1 };
  const machine = { cores: cpus().length, model: cpus()[0]?.model, memoryBytes: totalmem(), node: process.version };
  if (options.json !== undefined) await writeFile(resolve(options.json), JSON.stringify({ date: new Date().toISOString(), machine, ...figures }, null, 2) + '\n');
  const floors = (await readFloors(join('acceptance', 'floors.json'), 'issue-5')).find(({ id }) => id === 'parity')?.figures ?? [];
  const verdicts = floors.filter(({ path }) => parts.has(path.split('.')[0] as Part)).map((floor) => judge(figures, floor));
  for (const { path, value, floor, held } of verdicts) console.log(`${held ? 'held ' : 'SHORT'}  ${path} = ${value ?? 'missing'}  (${floor})`);
  process.exitCode = verdicts.length > 0 && verdicts.every(({ held }) => held) ? 0 : 1;
} finally {
  await rm(folder, { recursive: true, force: true });
}
