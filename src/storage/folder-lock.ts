/**
 * A lock file that says which process has a folder open. It guards against mistakes (two servers on one folder), not against malice.
 * Invariant: at most one live process holds it; the lock of a dead process is taken over. On the host that wrote it a holder is known by pid
 * and start time, so a reused pid is no obstacle (nor pid 1 of a restarted container). A holder on another host (a shared volume) is believed
 * alive while the file's time is refreshed.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, readFile, rename, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { LoricaError } from '../common/errors.js';
import { isAlive } from './process-alive.js';

const REFRESH_MS = 5_000;
const FOREIGN_STALE_MS = 30_000;

interface Holder {
  readonly pid: number;
  readonly host: string;
  /** Clock ticks from boot to the process's start (Linux); '' where that cannot be read. */
  readonly started: string;
  readonly nonce: string;
}

/** Field 22 of /proc/PID/stat (proc(5)); the command in field 2 may hold spaces and ends at the last ')'. */
function startTicks(pid: number): string {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

function parseHolder(text: string): Holder | undefined {
  try {
    const value = JSON.parse(text) as Partial<Holder>;
    return typeof value.pid === 'number' && typeof value.host === 'string'
      ? { pid: value.pid, host: value.host, started: value.started ?? '', nonce: value.nonce ?? '' }
      : undefined;
  } catch {
    return undefined;
  }
}

async function isHeld(path: string, text: string): Promise<boolean> {
  const holder = parseHolder(text);
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) return false;
  const ageMs = Date.now() - found.mtimeMs;
  // A file without a readable holder was cut short by a crash, or is being written just now.
  if (holder === undefined || holder.host !== hostname()) return ageMs < (holder === undefined ? REFRESH_MS : FOREIGN_STALE_MS);
  if (!isAlive(holder.pid)) return false;
  return holder.started === '' || startTicks(holder.pid) === holder.started;
}

export class FolderLock {
  private constructor(
    private readonly path: string,
    private readonly text: string,
    private readonly timer: NodeJS.Timeout,
  ) {}

  /** Takes the lock or throws FAILED_PRECONDITION / STORAGE_LOCKED naming its holder. */
  static async acquire(path: string): Promise<FolderLock> {
    const holder: Holder = { pid: process.pid, host: hostname(), started: startTicks(process.pid), nonce: randomUUID() };
    const text = JSON.stringify(holder);
    for (let attempt = 0; attempt < 3; attempt += 1) {
      if (await publish(path, text, 'link')) return FolderLock.held(path, text);
      const found = await readFile(path, 'utf8').catch(() => undefined);
      if (found === undefined) continue;
      if (await isHeld(path, found)) throw locked(path, found);
      if (await takeOver(path, text)) return FolderLock.held(path, text);
    }
    throw locked(path, '');
  }

  private static held(path: string, text: string): FolderLock {
    const timer = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => undefined), REFRESH_MS);
    timer.unref();
    return new FolderLock(path, text, timer);
  }

  /** Gives the lock up, unless somebody else has taken it over. */
  async release(): Promise<void> {
    clearInterval(this.timer);
    const found = await readFile(this.path, 'utf8').catch(() => undefined);
    if (found === this.text) await unlink(this.path).catch(() => undefined);
  }
}

/**
 * Puts a finished file at `path` in one step: 'link' only where there is none (false otherwise), 'rename' in the place of what is there.
 */
async function publish(path: string, text: string, how: 'link' | 'rename'): Promise<boolean> {
  const temporary = `${path}.${randomUUID()}`;
  await writeFile(temporary, text, { flag: 'wx' });
  try {
    await (how === 'link' ? link : rename)(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    await unlink(temporary).catch(() => undefined);
  }
}

/**
 * Replaces a stale lock, false when it has gone. One process at a time may, by a lock of the same kind on the takeover itself: between finding a lock
 * stale and replacing it nobody else can replace it.
 */
async function takeOver(path: string, text: string): Promise<boolean> {
  const turn = await FolderLock.acquire(`${path}.takeover`);
  try {
    const found = await readFile(path, 'utf8').catch(() => undefined);
    if (found === undefined) return false;
    if (await isHeld(path, found)) throw locked(path, found);
    return await publish(path, text, 'rename');
  } finally {
    await turn.release();
  }
}

function locked(path: string, text: string): LoricaError {
  const holder = parseHolder(text);
  const who = holder === undefined ? 'another process' : `process ${holder.pid}${holder.host === hostname() ? '' : ` on ${holder.host}`}`;
  return new LoricaError('FAILED_PRECONDITION', 'STORAGE_LOCKED', `the data folder is in use by ${who} (${path})`, {
    hint: 'Stop that server, give this one another data folder, or use a PostgreSQL server to share data.',
  });
}
