/** `hf:` references against a local server that speaks the hub's protocol: the API's revision answer, resolve with Range, redirects. */
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { pullFromHub } from '../../src/models/catalogue.js';
import { openCheckpoint } from '../../src/models/checkpoint.js';
import { filesOfModel, parseHubReference, shardsOf } from '../../src/models/hub-reference.js';
import { GOLDEN } from '../golden/smollm2.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const COMMIT = 'a'.repeat(40);
const folder = temporaryFolder();
const servers: Server[] = [];
afterAll(() => servers.forEach((server) => server.close()));
let home: string;
let log: { method: string; url: string; range: string | undefined; authorization: string | undefined }[];
beforeEach(() => {
  home = mkdtempSync(join(folder, 'home-'));
  log = [];
});

type Files = Readonly<Record<string, Buffer>>;
const golden = (name: string): Files => Object.fromEntries(readdirSync(join(GOLDEN, name)).map((file) => [file, readFileSync(join(GOLDEN, name, file))]));

async function serve(handler: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server = createServer((request, response) => {
    log.push({ method: request.method!, url: request.url!, range: request.headers.range, authorization: request.headers.authorization });
    handler(request, response);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const isLarge = (name: string): boolean => /\.(safetensors|gguf)$/.test(name);
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const gitDigest = (bytes: Buffer): string => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
const sibling = (rfilename: string, bytes: Buffer): object =>
  isLarge(rfilename)
    ? { rfilename, size: bytes.length, blobId: 'b'.repeat(40), lfs: { sha256: sha256(bytes), size: bytes.length, pointerSize: 130 } }
    : { rfilename, size: bytes.length, blobId: gitDigest(bytes) };

interface Behaviour {
  /** Large files are redirected to this store, as the hub does. */
  readonly store?: string;
  /** Connections that break off half-way, before one that doesn't. */
  breaks?: number;
  /** What is sent instead of a file. */
  readonly forged?: Files;
}

function hub(files: Files, behaviour: Behaviour = {}): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    const { pathname } = new URL(request.url!, 'http://hub');
    if (/^\/api\/models\/acme\/model\/revision\/(main|v1|a{40})$/.test(pathname)) {
      response.setHeader('content-type', 'application/json');
      return void response.end(JSON.stringify({ id: 'acme/model', sha: COMMIT, siblings: Object.entries(files).map(([name, bytes]) => sibling(name, bytes)) }));
    }
    const name = decodeURIComponent(pathname.replace(`/acme/model/resolve/${COMMIT}/`, ''));
    if (files[name] === undefined) return void response.writeHead(404).end();
    if (behaviour.store !== undefined && isLarge(name)) return void response.writeHead(302, { location: `${behaviour.store}/${name}` }).end();
    sendFile(behaviour.forged?.[name] ?? files[name], request, response, behaviour);
  };
}

function sendFile(bytes: Buffer, request: IncomingMessage, response: ServerResponse, behaviour: Behaviour): void {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  response.writeHead(from > 0 ? 206 : 200, {
    'content-length': String(bytes.length - from),
    ...(from > 0 && { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }),
  });
  if ((behaviour.breaks ?? 0) === 0 || bytes.length < 1000) return void response.end(bytes.subarray(from));
  behaviour.breaks!--;
  response.write(bytes.subarray(from, from + Math.ceil((bytes.length - from) / 2)), () => setTimeout(() => response.destroy(), 20));
}

const pull = (endpoint: string, reference = 'hf:acme/model', more: NodeJS.ProcessEnv = {}) =>
  pullFromHub(reference, { environment: { HF_ENDPOINT: endpoint, HF_HOME: home, ...more } });
const cache = (...path: string[]): string => join(home, 'hub', 'models--acme--model', ...path);
const resolves = (): string[] => log.filter(({ url }) => url.includes('/resolve/')).map(({ url }) => url.split('/').at(-1)!);

describe('a repository of the hub', () => {
  test('becomes a snapshot in the shared cache that opens as a model; a second pull fetches nothing', async () => {
    const files: Files = { ...golden('tiny-llama'), 'README.md': Buffer.from('# not needed'), 'pytorch_model.bin': Buffer.from('pickle') };
    const endpoint = await serve(hub(files));
    const first = await pull(endpoint);
    expect(first).toEqual({ path: cache('snapshots', COMMIT), commit: COMMIT, source: 'hub' });
    expect(readFileSync(cache('refs', 'main'), 'utf8')).toBe(COMMIT);
    expect(readlinkSync(cache('snapshots', COMMIT, 'config.json'))).toBe(`../../blobs/${gitDigest(files['config.json']!)}`);
    expect(readlinkSync(cache('snapshots', COMMIT, 'model.safetensors'))).toBe(`../../blobs/${sha256(files['model.safetensors']!)}`);
    expect(resolves()).not.toContain('README.md');
    expect(resolves()).not.toContain('pytorch_model.bin');
    const checkpoint = await openCheckpoint(first.path);
    expect(checkpoint.config.layers).toBeGreaterThan(0);
    await checkpoint.close();
    const fetched = resolves().length;
    expect((await pull(endpoint)).source).toBe('cache');
    expect(resolves()).toHaveLength(fetched);
  });

  test('with shards fetches those that its index names', async () => {
    const files = golden('tiny-llama-sharded');
    const { path } = await pull(await serve(hub(files)), `hf:acme/model@v1`);
    expect(readdirSync(path).sort()).toEqual(expect.arrayContaining(Object.keys(files).filter((name) => name.endsWith('.safetensors'))));
    expect(readFileSync(cache('refs', 'v1'), 'utf8')).toBe(COMMIT);
    await (await openCheckpoint(path)).close();
  });

  test('goes on where a connection broke, and where another process stopped', async () => {
    const files = golden('tiny-llama');
    const weights = files['model.safetensors']!;
    await mkdir(cache('blobs'), { recursive: true });
    writeFileSync(cache('blobs', `${sha256(weights)}.incomplete`), weights.subarray(0, 100));
    const { path } = await pull(await serve(hub(files, { breaks: 2 })));
    expect(readFileSync(join(path, 'model.safetensors')).equals(weights)).toBe(true);
    const asked = log.filter(({ url }) => url.endsWith('/model.safetensors')).map(({ range }) => range);
    expect(asked[0]).toBe('bytes=100-');
    expect(readdirSync(cache('blobs')).filter((name) => name.endsWith('.incomplete'))).toEqual([]);
  });

  test('redirected to a store on another origin does not send the token there', async () => {
    const files = golden('tiny-llama');
    const store = await serve((request, response) => sendFile(files[request.url!.slice(1)]!, request, response, {}));
    const endpoint = await serve(hub(files, { store }));
    await pull(endpoint, 'hf:acme/model', { HF_TOKEN: 'hf_secret' });
    expect(log.filter(({ url }) => url.startsWith('/api/'))[0]!.authorization).toBe('Bearer hf_secret');
    const atStore = log.filter(({ url }) => url === '/model.safetensors');
    expect(atStore).toHaveLength(1);
    expect(atStore[0]!.authorization).toBeUndefined();
  });

  test('serves from the cache without a network, and says what is missing when it is not whole', async () => {
    const files = golden('tiny-llama');
    const { path } = await pull(await serve(hub(files)));
    const offline = { HF_HUB_OFFLINE: '1' };
    expect(await pull('http://127.0.0.1:9', 'hf:acme/model', offline)).toEqual({ path, commit: COMMIT, source: 'cache' });
    expect((await pull('http://127.0.0.1:9')).source).toBe('cache');
    rmSync(cache('blobs', sha256(files['model.safetensors']!)));
    await expect(pull('http://127.0.0.1:9')).rejects.toMatchObject({ reason: 'UPSTREAM_UNAVAILABLE', message: expect.stringContaining('model.safetensors is missing') });
    await expect(pull('http://127.0.0.1:9', 'hf:acme/other')).rejects.toMatchObject({ reason: 'UPSTREAM_UNAVAILABLE' });
  });

  test.each([['a large file', 'model.safetensors'], ['a small file', 'config.json']])('refuses %s with other bytes than promised', async (_, name) => {
    const files = golden('tiny-llama');
    const forged = { [name]: Buffer.from(files[name]!) };
    forged[name]![10]! ^= 1;
    await expect(pull(await serve(hub(files, { forged })))).rejects.toMatchObject({ code: 'DATA_LOSS', reason: 'DIGEST_MISMATCH' });
    expect(readdirSync(cache('snapshots', COMMIT))).not.toContain(name);
  });

  test.each([[401, 'PERMISSION_DENIED'], [403, 'PERMISSION_DENIED'], [404, 'MODEL_NOT_FOUND'], [503, 'UPSTREAM_UNAVAILABLE']])('answers %i with %s', async (status, reason) => {
    await expect(pull(await serve((_, response) => void response.writeHead(status).end()))).rejects.toMatchObject({ reason });
  });

  test('of several GGUF files needs to know which', async () => {
    const files = { 'a.gguf': Buffer.from('GGUF-a'), 'quants/b.gguf': Buffer.from('GGUF-b') };
    const endpoint = await serve(hub(files));
    await expect(pull(endpoint)).rejects.toMatchObject({ reason: 'INVALID_FIELD', hint: expect.stringContaining('hf:acme/model:a.gguf') });
    const { path } = await pull(endpoint, 'hf:acme/model:quants/b.gguf');
    expect(readFileSync(path, 'utf8')).toBe('GGUF-b');
    await expect(pull(endpoint, 'hf:acme/model:c.gguf')).rejects.toMatchObject({ reason: 'CHECKPOINT_MISSING' });
  });
});

describe('references', () => {
  test('are owner, name, revision and file', () => {
    expect(parseHubReference('hf:o/n')).toEqual({ repo: 'o/n', revision: 'main', file: undefined });
    expect(parseHubReference('hf:o.x/n-1@refs/pr/3:sub/f q.gguf')).toEqual({ repo: 'o.x/n-1', revision: 'refs/pr/3', file: 'sub/f q.gguf' });
  });

  test.each(['hf:', 'hf:o', 'hf:o/n/x', 'hf:o/n@', 'hf:o/n@../x', 'hf:../n', 'hf:o/n:/etc/passwd', 'hf:o/n:a/../b', 'hf:o/n@main?x=1'])('refuses %s', (text) => {
    expect(() => parseHubReference(text)).toThrow(expect.objectContaining({ reason: 'INVALID_FIELD' }));
  });

  test('of repositories without weights that are read say so', () => {
    const reference = parseHubReference('hf:o/n');
    expect(() => filesOfModel(reference, ['config.json', 'pytorch_model.bin', 'tokenizer.json'])).toThrow(expect.objectContaining({ reason: 'MODEL_UNSUPPORTED' }));
    expect(() => filesOfModel(reference, ['config.json', 'model.safetensors'])).toThrow(expect.objectContaining({ reason: 'MODEL_UNSUPPORTED', message: expect.stringContaining('tokenizer.json') }));
  });

  test.each(['nonsense', '{}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 3}}'])('a shard index %s is refused', (text) => {
    expect(() => shardsOf(text, ['model-1.safetensors'], 'index')).toThrow(expect.objectContaining({ reason: 'CHECKPOINT_CORRUPT' }));
  });
});
