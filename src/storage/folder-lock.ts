/**
 * A lock file that says which process has a folder open. It guards against mistakes (two servers on one folder), not against malice.
 * Invariant: at most one live process holds it; the lock of a dead process is taken over. On the host that wrote it a holder is known by pid
 * and start time, so a reused pid is no obstacle (nor pid 1 of a restarted container). A holder on another host (a shared volume) is believed
 * alive while the file's time is refreshed.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, open, readFile, rename, stat, unlink, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { LoricaError } from '../common/errors.js';

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

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
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
  const ageMs = Date.now() - (await stat(path)).mtimeMs;
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
      if (await writeNew(path, text)) {
        const timer = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => undefined), REFRESH_MS);
        timer.unref();
        return new FolderLock(path, text, timer);
      }
      const found = await readFile(path, 'utf8').catch(() => undefined);
      if (found === undefined) continue;
      if (await isHeld(path, found).catch(() => false)) throw locked(path, found);
      await discard(path, found);
    }
    throw locked(path, '');
  }

  /** Gives the lock up, unless somebody else has taken it over. */
  async release(): Promise<void> {
    clearInterval(this.timer);
    const found = await readFile(this.path, 'utf8').catch(() => undefined);
    if (found === this.text) await unlink(this.path).catch(() => undefined);
  }
}

/** Creates the file with its content in one step (a link to a finished file); false when it is there already. */
async function writeNew(path: string, text: string): Promise<boolean> {
  const temporary = `${path}.${randomUUID()}`;
  const file = await open(temporary, 'wx');
  try {
    await file.writeFile(text);
    await link(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    await file.close();
    await unlink(temporary).catch(() => undefined);
  }
}

/** Removes a stale lock. If another process replaced it meanwhile, its lock is put back. */
async function discard(path: string, stale: string): Promise<void> {
  const aside = `${path}.stale-${randomUUID()}`;
  try {
    await rename(path, aside);
  } catch {
    return;
  }
  if ((await readFile(aside, 'utf8')) !== stale) await link(aside, path).catch(() => undefined);
  await unlink(aside);
}

function locked(path: string, text: string): LoricaError {
  const holder = parseHolder(text);
  const who = holder === undefined ? 'another process' : `process ${holder.pid}${holder.host === hostname() ? '' : ` on ${holder.host}`}`;
  return new LoricaError('FAILED_PRECONDITION', 'STORAGE_LOCKED', `the data folder is in use by ${who} (${path})`, {
    hint: 'Stop that server, give this one another data folder, or use a PostgreSQL server to share data.',
  });
}
