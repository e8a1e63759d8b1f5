/**
 * The real server in a process of its own, as a user would start it, so that its memory can be measured apart from the client's.
 * It listens on free loopback ports and keeps its data in the folder given. Whoever starts it must stop it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { LoricaError } from '../../common/errors.js';

const COMMAND = fileURLToPath(new URL('../lorica.js', import.meta.url));
const STARTUP_LIMIT_MS = 120_000;
const STOP_LIMIT_MS = 15_000;

export interface ServerOptions {
  readonly dataDir: string;
  /** Ids of models and the paths they lie at; the embedded base is always there. */
  readonly models: ReadonlyMap<string, string>;
  readonly device: string;
  /** More environment, such as LORICA_KEYS_FILE. */
  readonly environment?: Readonly<Record<string, string>>;
}

export interface ServerProcess {
  readonly address: string;
  readonly metricsAddress: string;
  /** Highest resident set so far; undefined where the system does not say (only Linux does). */
  peakMemoryBytes(): Promise<number | undefined>;
  /** Processor time used so far, of all threads; undefined likewise. */
  processorSeconds(): Promise<number | undefined>;
  /** SIGTERM, then SIGKILL after 15 s. Returns when the process has ended; may be called again. */
  stop(): Promise<void>;
}

/** The line that `lorica serve` prints on standard output once it accepts calls. */
interface Listening {
  readonly event: 'listening';
  readonly address: string;
  readonly metricsAddress: string;
}

/** Throws UNAVAILABLE / RUNTIME_UNAVAILABLE with the end of the server's log when it does not come up. */
export async function startServerProcess(options: ServerOptions): Promise<ServerProcess> {
  // ONNX Runtime leaves small files in the temporary folder; they go with the data.
  const temporary = join(options.dataDir, 'tmp');
  await mkdir(temporary, { recursive: true });
  const models = [...options.models].map(([id, path]) => `${id}=${path}`).join(',');
  const child = spawn(process.execPath, [COMMAND, 'serve'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      TMPDIR: temporary,
      LORICA_LISTEN: '127.0.0.1:0',
      LORICA_METRICS_LISTEN: '127.0.0.1:0',
      LORICA_DATA_DIR: options.dataDir,
      LORICA_MODELS: models,
      LORICA_DEVICE: options.device,
      ...options.environment,
    },
  });
  const log: string[] = [];
  createInterface({ input: child.stderr }).on('line', (line) => {
    log.push(line);
    if (log.length > 40) log.shift();
  });
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return ended;
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_LIMIT_MS);
    await ended;
    clearTimeout(timer);
  };
  try {
    const { address, metricsAddress } = await listening(child, ended);
    return { address, metricsAddress, stop, peakMemoryBytes: () => peakMemoryBytes(child), processorSeconds: () => processorSeconds(child) };
  } catch (cause) {
    await stop();
    throw new LoricaError('UNAVAILABLE', 'RUNTIME_UNAVAILABLE', `the server did not start:\n${log.join('\n')}`, { cause });
  }
}

async function listening(child: ChildProcess, ended: Promise<void>): Promise<Listening> {
  const lines = createInterface({ input: child.stdout! });
  let timer: NodeJS.Timeout | undefined;
  try {
    return await new Promise<Listening>((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer in ${STARTUP_LIMIT_MS} ms`)), STARTUP_LIMIT_MS);
      child.once('error', reject);
      void ended.then(() => reject(new Error('it ended')));
      lines.on('line', (line) => {
        if (!line.startsWith('{')) return;
        const message = JSON.parse(line) as Partial<Listening>;
        if (message.event === 'listening') resolve(message as Listening);
      });
    });
  } finally {
    clearTimeout(timer);
    lines.removeAllListeners('line');
    child.stdout!.resume();
  }
}

async function peakMemoryBytes(child: ChildProcess): Promise<number | undefined> {
  if (child.pid === undefined) return undefined;
  const status = await readFile(`/proc/${child.pid}/status`, 'utf8').catch(() => '');
  const kibibytes = /^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1];
  return kibibytes === undefined ? undefined : Number(kibibytes) * 1024;
}

/** Ticks of /proc/PID/stat in a second, on every Linux that Node.js runs on. */
const TICKS_PER_SECOND = 100;

async function processorSeconds(child: ChildProcess): Promise<number | undefined> {
  if (child.pid === undefined) return undefined;
  const stat = await readFile(`/proc/${child.pid}/stat`, 'utf8').catch(() => '');
  // Fields 14 and 15, counted from the state, which follows the name in parentheses.
  const [user, system] = stat.slice(stat.lastIndexOf(')') + 2).split(' ').slice(11, 13);
  return user === undefined || system === undefined ? undefined : (Number(user) + Number(system)) / TICKS_PER_SECOND;
}
