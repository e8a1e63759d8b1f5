/** A real server on free ports with an embedded database and a tiny model, and clients for it. One per test file. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createLogger, silentLogger } from '../../src/common/logger.js';
import { connect, type ConnectOptions, type LoricaClient } from '../../src/client/index.js';
import { loadConfig, type Flags, type ServerConfig } from '../../src/config/config.js';
import { startServer, type RunningServer } from '../../src/main/server.js';

export const TINY = resolve('test/golden/tiny-serving');

export interface Harness {
  readonly server: RunningServer;
  readonly config: ServerConfig;
  readonly folder: string;
  client(options?: Partial<ConnectOptions>): LoricaClient;
  /** Stops the server, keeps the data folder and starts it again. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

/** Settings of a test server; `folder` becomes its data folder. */
export function testConfig(folder: string, flags: Flags = {}): ServerConfig {
  const config = loadConfig(
    {},
    {
      listen: '127.0.0.1:0',
      metricsListen: '127.0.0.1:0',
      dataDir: folder,
      models: `m=${TINY}`,
      modelCache: join(folder, 'models'),
      maxContext: '96',
      threads: '1',
      grace: '5',
      ...flags,
    },
  );
  return { ...config, embeddedModel: undefined };
}

export async function startHarness(flags: Flags = {}): Promise<Harness> {
  const folder = await mkdtemp(join(tmpdir(), 'lorica-contract-'));
  const config = testConfig(folder, flags);
  const logger = process.env['TEST_LOG'] === undefined ? silentLogger : createLogger('debug');
  let server = await startServer(config, { logger });
  const clients: LoricaClient[] = [];
  const closeClients = (): void => {
    for (const client of clients.splice(0)) client.close();
  };
  return {
    get server() {
      return server;
    },
    config,
    folder,
    client: (options = {}) => {
      const client = connect({ address: server.address, ...options });
      clients.push(client);
      return client;
    },
    restart: async () => {
      closeClients();
      await server.stop();
      server = await startServer(config, { logger });
    },
    close: async () => {
      closeClients();
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Rows as the bytes of a JSONL file. */
export const jsonl = (rows: readonly unknown[]): Buffer => Buffer.from(rows.map((row) => `${JSON.stringify(row)}\n`).join(''));

export async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const one of stream) out.push(one);
  return out;
}

/** The error that `work` must end with. */
export async function failure(
  work: Promise<unknown>,
): Promise<{
  code: string;
  reason: string;
  message: string;
  violations: readonly { field: string; description: string }[];
  hint: string;
  metadata: Readonly<Record<string, string>>;
  requestId: string;
}> {
  try {
    await work;
  } catch (error) {
    return error as Awaited<ReturnType<typeof failure>>;
  }
  throw new Error('the call should have failed');
}
