/**
 * Our tokenizers against Rust `tokenizers`, live: tokenizers_reference.py makes a tokenizer of every kind and its ids and texts for 10,000
 * strings (many scripts, code, emoji, lone surrogates, control characters, special tokens spelled out), and here the same files
 * are read and compared. Kinds that GGUF can carry are compared a second time after a way through GGUF metadata.
 *   npm run check:tokenizers [-- --json FILE]
 * Prints a line a kind and its first differences; exits with 1 when there is any.
 */
import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { createTokenizer, type Tokenizer } from '../../src/models/tokenizer.js';
import { tokenizerJsonFromGguf } from '../../src/models/tokenizer-gguf.js';
import { ggufTokenizerFields } from '../../src/models/tokenizer-gguf-write.js';
import type { GgufValue } from '../../src/tensor/gguf.js';

const SHOWN = 4;
/** GGUF has no field for these models, nor for white space that special tokens take with them (Phi-3). */
const NOT_IN_GGUF = /^(wordpiece|unigram|pieces-phi)/;

interface Result {
  readonly kind: string;
  readonly texts: number;
  readonly differentIds: number;
  readonly differentText: number;
}

interface Reference {
  readonly texts: readonly string[];
  readonly ids: readonly (readonly number[])[];
  readonly decoded: readonly string[];
}

function compare(kind: string, tokenizer: Tokenizer, { texts, ids, decoded }: Reference): Result {
  let differentIds = 0;
  let differentText = 0;
  texts.forEach((text, i) => {
    const wanted = ids[i] ?? [];
    const got = tokenizer.encode(text);
    if (got.join() !== wanted.join() && ++differentIds <= SHOWN) {
      const spell = (list: readonly number[]): string => JSON.stringify(list.map((id) => tokenizer.token(id) ?? id));
      console.log(`  ids of ${JSON.stringify(text)}\n    reference ${spell(wanted)}\n    here      ${spell(got)}`);
    }
    const back = tokenizer.decode(wanted);
    if (back !== decoded[i] && ++differentText <= SHOWN) {
      console.log(
        `  text of ${JSON.stringify(wanted)}\n    reference ${JSON.stringify(decoded[i])}\n    here      ${JSON.stringify(back)}`,
      );
    }
  });
  console.log(`${kind}: ${texts.length} texts, ${differentIds} with other ids, ${differentText} decoded otherwise`);
  return { kind, texts: texts.length, differentIds, differentText };
}

function throughGguf(json: unknown, vocabSize: number): unknown {
  const fields = ggufTokenizerFields({ json, eosTokenIds: [0], vocabSize, label: 'gguf' });
  return tokenizerJsonFromGguf(new Map([...fields].map(([key, { value }]) => [key, value as GgufValue])), 'gguf');
}

async function run(folder: string): Promise<Result[]> {
  const read = async <T>(...path: string[]): Promise<T> => JSON.parse(await readFile(join(folder, ...path), 'utf8')) as T;
  const results: Result[] = [];
  const kinds = readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);
  for (const kind of kinds) {
    const json = await read<unknown>(kind, 'tokenizer.json');
    const texts = await read<string[]>(kind.startsWith('wordpiece') ? 'old.json' : kind === 'unigram-ties' ? 'ties.json' : 'texts.json');
    const reference = { texts, ids: await read<number[][]>(kind, 'ids.json'), decoded: await read<string[]>(kind, 'decoded.json') };
    const tokenizer = createTokenizer({ json, eosTokenIds: [], label: kind });
    results.push(compare(kind, tokenizer, reference));
    if (NOT_IN_GGUF.test(kind)) continue;
    results.push(
      compare(
        `${kind} through GGUF`,
        createTokenizer({ json: throughGguf(json, tokenizer.vocabSize), eosTokenIds: [], label: kind }),
        reference,
      ),
    );
  }
  return results;
}

const options = new Command()
  .option('--json <file>', 'write the counts here')
  .option('--count <texts>', 'how many texts', '10000')
  .option('--folder <path>', 'what tokenizers_reference.py has written, instead of running it')
  .parse()
  .opts<{ json?: string; count: string; folder?: string }>();
const folder = options.folder ?? (await mkdtemp(join(tmpdir(), 'lorica-tokenizers-')));
try {
  if (options.folder === undefined) {
    const python = execFileSync('scripts/python-env.sh', { encoding: 'utf8' }).trim();
    execFileSync(python, ['scripts/check/tokenizers_reference.py', folder, options.count], { stdio: ['ignore', 'inherit', 'ignore'] });
  }
  const results = await run(folder);
  if (options.json !== undefined) await writeFile(options.json, JSON.stringify(results, null, 2) + '\n');
  process.exitCode = results.some((result) => result.differentIds + result.differentText > 0) ? 1 : 0;
} finally {
  if (options.folder === undefined) await rm(folder, { recursive: true });
}
