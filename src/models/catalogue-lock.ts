/**
 * A lock between processes, by a file that its holder makes and keeps fresh. A lock whose process has died, or that has not been
 * refreshed for a while (another machine's, on a shared volume), is taken over.
 */
import { readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const REFRESH_MS = 5_000;
const STALE_MS = 60_000;
const POLL_MS = 200;

/** Runs `work` while holding the lock at `path`; waits for another holder, and stops waiting when `signal` aborts. */
export async function withFileLock<R>(path: string, signal: AbortSignal | undefined, work: () => Promise<R>): Promise<R> {
  const mine = JSON.stringify({ host: hostname(), pid: process.pid });
  while (!(await take(path, mine))) {
    if (await abandoned(path)) await rm(path, { force: true });
    else await sleep(POLL_MS, undefined, signal ? { signal } : {});
  }
  const refresh = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => undefined), REFRESH_MS);
  refresh.unref();
  try {
    return await work();
  } finally {
    clearInterval(refresh);
    await rm(path, { force: true });
  }
}

async function take(path: string, mine: string): Promise<boolean> {
  try {
    await writeFile(path, mine, { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function abandoned(path: string): Promise<boolean> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) return false;
  if (Date.now() - info.mtimeMs > STALE_MS) return true;
  try {
    const holder = JSON.parse(await readFile(path, 'utf8')) as { host: string; pid: number };
    if (holder.host !== hostname()) return false;
    process.kill(holder.pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}
