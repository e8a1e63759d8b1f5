// Gives the PostgreSQL suite a server: the one that LORICA_TEST_POSTGRES_URL names, or one of its own in a temporary folder, from the binaries on this
// machine (PATH, /usr/lib/postgresql/*/bin), on a local port, gone afterwards. PostgreSQL refuses to run as root: there, it runs as `postgres` or `nobody`.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chown, mkdtemp, readdir, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import process from 'node:process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const VERSIONS = '/usr/lib/postgresql';

async function binaries() {
  const versions = existsSync(VERSIONS) ? (await readdir(VERSIONS)).sort((a, b) => Number(b) - Number(a)) : [];
  const folders = [...versions.map((version) => join(VERSIONS, version, 'bin')), ...(process.env.PATH ?? '').split(delimiter)];
  const folder = folders.find((path) => existsSync(join(path, 'initdb')) && existsSync(join(path, 'pg_ctl')));
  if (folder === undefined)
    throw new Error(
      'no PostgreSQL: install it (Debian: apt-get install postgresql), or set LORICA_TEST_POSTGRES_URL to a server whose user may create databases',
    );
  return folder;
}

async function idOf(flag, user) {
  return Number((await run('id', [flag, user])).stdout);
}

/** uid and gid to run as; none unless this is root. */
async function unprivileged() {
  if (process.getuid?.() !== 0) return {};
  for (const user of ['postgres', 'nobody']) {
    try {
      return { uid: await idOf('-u', user), gid: await idOf('-g', user) };
    } catch {
      // The next one.
    }
  }
  throw new Error('PostgreSQL does not run as root, and there is no user postgres or nobody');
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts a server; resolves with its URL and how to stop it. */
export async function startPostgres() {
  const bin = await binaries();
  const user = await unprivileged();
  const folder = await mkdtemp(join(tmpdir(), 'lorica-postgres-'));
  const data = join(folder, 'data');
  const options = { ...user, cwd: folder };
  try {
    if (user.uid !== undefined) await chown(folder, user.uid, user.gid);
    await run(
      join(bin, 'initdb'),
      ['--pgdata', data, '--username', 'lorica', '--auth', 'trust', '--encoding', 'UTF8', '--no-locale', '--no-sync'],
      options,
    );
    const port = await freePort();
    const settings = `-p ${port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c max_connections=60`;
    await run(join(bin, 'pg_ctl'), ['start', '--wait', '--pgdata', data, '--log', join(folder, 'log'), '-o', settings], options);
    const stop = async () => {
      await run(join(bin, 'pg_ctl'), ['stop', '--mode', 'immediate', '--pgdata', data], options);
      await rm(folder, { recursive: true, force: true });
    };
    return { url: `postgres://lorica@127.0.0.1:${port}/postgres`, stop };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}
