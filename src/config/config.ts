/**
 * The server's settings: flags, then environment variables, then defaults → one frozen object. Every wrong setting is reported at
 * once, by the name under which it was given. Nothing else of the server reads the environment (fetching models aside, which
 * honours the hub's own variables).
 */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { invalidFields, type FieldViolation } from '../common/errors.js';
import type { LogLevel } from '../common/logger.js';
import type { DeviceName } from '../runtime/index.js';
import { GENERATION_FIRST, parseTimeSharing, type TimeSharing } from '../runtime/time-sharing.js';
import { packageRoot } from './package-root.js';

export interface Address {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}

export interface ServerConfig {
  readonly listen: Address;
  readonly metricsListen: Address;
  /** Absolute. */
  readonly dataDir: string;
  readonly databaseUrl: string | undefined;
  /** Base models by id, absolute paths. */
  readonly models: ReadonlyMap<string, string>;
  /** Where catalogue models are kept; undefined: the default of the catalogue. */
  readonly modelCache: string | undefined;
  /** The base that is shipped with the package, where it is there. */
  readonly embeddedModel: { readonly id: string; readonly path: string } | undefined;
  /** The folder with lorica/v1/*.proto. */
  readonly protoFolder: string;
  readonly device: DeviceName;
  readonly ortLibrary: string | undefined;
  readonly threads: number | undefined;
  /** Whether idle threads of the runtime spin. */
  readonly spinning: boolean;
  readonly keysFile: string | undefined;
  readonly servingForm: 'int4' | 'int8' | 'float32';
  readonly timeSharing: TimeSharing;
  /** Tuning jobs at once. */
  readonly tuningConcurrency: number;
  /** What all of them together may add to the server's memory; undefined: a share of what there is (src/main/tuning-memory.ts). */
  readonly tuningMemoryBytes: number | undefined;
  readonly maxSequences: number;
  readonly maxContextTokens: number;
  readonly maxDatasetBytes: number;
  readonly maxAdapterBytes: number;
  /** How long running generations may go on, and jobs may save a checkpoint, after a stop was asked for. */
  readonly graceMs: number;
  readonly logLevel: LogLevel | 'silent';
}

/** One setting: its flag (of `lorica serve`), its variable, its default and what it means. Shown by --help and docs/operations.md. */
export interface Setting {
  readonly key: string;
  readonly flag: string;
  readonly variable: string;
  readonly fallback: string;
  readonly text: string;
}

export const SETTINGS = [
  {
    key: 'listen',
    flag: '--listen <host:port>',
    variable: 'LORICA_LISTEN',
    fallback: '127.0.0.1:50051',
    text: 'gRPC address; without keys only a loopback address is served',
  },
  {
    key: 'metricsListen',
    flag: '--metrics-listen <host:port>',
    variable: 'LORICA_METRICS_LISTEN',
    fallback: '127.0.0.1:9464',
    text: 'HTTP address of /metrics, /healthz, /readyz',
  },
  {
    key: 'dataDir',
    flag: '--data-dir <folder>',
    variable: 'LORICA_DATA_DIR',
    fallback: './.lorica',
    text: 'folder of the embedded database and of all stored bytes',
  },
  {
    key: 'databaseUrl',
    flag: '--database-url <url>',
    variable: 'LORICA_DATABASE_URL',
    fallback: '',
    text: 'PostgreSQL instead of the embedded database',
  },
  {
    key: 'models',
    flag: '--models <id=path,…>',
    variable: 'LORICA_MODELS',
    fallback: '',
    text: 'base models: Hugging Face folders, .gguf files or hf:owner/name[@revision][:file]',
  },
  {
    key: 'modelCache',
    flag: '--model-cache <folder>',
    variable: 'LORICA_MODEL_CACHE',
    fallback: '',
    text: 'where catalogue models are kept (default ~/.cache/lorica/models)',
  },
  { key: 'device', flag: '--device <name>', variable: 'LORICA_DEVICE', fallback: 'cpu', text: 'cpu or cuda:N' },
  {
    key: 'ortLibrary',
    flag: '--ort-library <path>',
    variable: 'LORICA_ORT_LIBRARY',
    fallback: '',
    text: 'another build of ONNX Runtime, such as one with CUDA',
  },
  {
    key: 'threads',
    flag: '--threads <n>',
    variable: 'LORICA_THREADS',
    fallback: '',
    text: 'threads of the runtime (default: usable processors)',
  },
  { key: 'keysFile', flag: '--keys-file <path>', variable: 'LORICA_KEYS_FILE', fallback: '', text: 'JSON list of hashed API keys' },
  {
    key: 'spinning',
    flag: '--spinning <on|off>',
    variable: 'LORICA_SPINNING',
    fallback: 'off',
    text: 'let idle threads spin: faster on cores of its own, slower on shared ones',
  },
  {
    key: 'servingForm',
    flag: '--serving-form <form>',
    variable: 'LORICA_SERVING_FORM',
    fallback: 'int8',
    text: 'weights while serving: int4, int8 or float32',
  },
  {
    key: 'timeSharing',
    flag: '--time-sharing <rule>',
    variable: 'LORICA_TIME_SHARING',
    fallback: 'generation-first',
    text: 'generation-first, weighted, weighted:G:T or training-first',
  },
  {
    key: 'tuningConcurrency',
    flag: '--tuning-concurrency <n>',
    variable: 'LORICA_TUNING_CONCURRENCY',
    fallback: '1',
    text: 'tuning jobs at once, 1 to 16',
  },
  {
    key: 'tuningMemoryBytes',
    flag: '--tuning-memory-bytes <n>',
    variable: 'LORICA_TUNING_MEMORY_BYTES',
    fallback: '',
    text: 'memory that all tuning jobs at once may add, in equal parts, 1048576 or more (default: 3/4 of the container or machine)',
  },
  {
    key: 'maxSequences',
    flag: '--max-sequences <n>',
    variable: 'LORICA_MAX_SEQUENCES',
    fallback: '8',
    text: 'sequences in one batch, 1 to 256',
  },
  {
    key: 'maxContext',
    flag: '--max-context <tokens>',
    variable: 'LORICA_MAX_CONTEXT',
    fallback: '1024',
    text: 'prompt and completion of one sequence, 16 to 1048576',
  },
  {
    key: 'maxDatasetMegabytes',
    flag: '--max-dataset-megabytes <n>',
    variable: 'LORICA_MAX_DATASET_MEGABYTES',
    fallback: '256',
    text: 'largest dataset, 1 to 65536',
  },
  {
    key: 'maxAdapterMegabytes',
    flag: '--max-adapter-megabytes <n>',
    variable: 'LORICA_MAX_ADAPTER_MEGABYTES',
    fallback: '4096',
    text: 'largest imported adapter, 1 to 65536',
  },
  {
    key: 'grace',
    flag: '--grace <seconds>',
    variable: 'LORICA_GRACE',
    fallback: '20',
    text: 'how long generations may go on, and jobs may save a checkpoint, after SIGTERM, 0 to 3600',
  },
  {
    key: 'logLevel',
    flag: '--log-level <level>',
    variable: 'LORICA_LOG_LEVEL',
    fallback: 'info',
    text: 'debug, info, warn, error or silent',
  },
] as const satisfies readonly Setting[];

export type SettingKey = (typeof SETTINGS)[number]['key'];
export type Flags = Readonly<Partial<Record<SettingKey, string>>>;

const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'];

/** Reads all settings; relative paths are taken from the working folder. INVALID_ARGUMENT / INVALID_FIELD lists every wrong one. */
export function loadConfig(environment: Readonly<Record<string, string | undefined>>, flags: Flags = {}): ServerConfig {
  const violations: FieldViolation[] = [];
  const get = (key: SettingKey): { value: string; name: string } => {
    const setting = SETTINGS.find((one) => one.key === key)!;
    const flag = flags[key];
    if (flag !== undefined) return { value: flag, name: setting.flag.split(' ')[0]! };
    const variable = environment[setting.variable];
    return { value: variable === undefined || variable === '' ? setting.fallback : variable, name: setting.variable };
  };
  const optional = (key: SettingKey): string | undefined => get(key).value || undefined;
  const path = (key: SettingKey): string | undefined => {
    const value = optional(key);
    return value === undefined ? undefined : resolve(value);
  };
  const pick = <T extends string>(key: SettingKey, allowed: (value: string) => value is T, description: string): T => {
    const { value, name } = get(key);
    if (!allowed(value)) violations.push({ field: name, description: `must be ${description}, not ${JSON.stringify(value)}` });
    return value as T;
  };
  const integer = (key: SettingKey, least: number, most: number): number => {
    const { value, name } = get(key);
    const number = Number(value);
    if (!/^\d+$/.test(value) || number < least || number > most)
      violations.push({ field: name, description: `must be a whole number from ${least} to ${most}, not ${JSON.stringify(value)}` });
    return number;
  };
  const sharing = (): TimeSharing => {
    const { value, name } = get('timeSharing');
    const parsed = parseTimeSharing(value);
    if (parsed === undefined)
      violations.push({
        field: name,
        description: `must be generation-first, training-first, weighted or weighted:G:T (whole numbers from 1 to 100), not ${JSON.stringify(value)}`,
      });
    return parsed ?? GENERATION_FIRST;
  };
  const address = (key: SettingKey): Address => {
    const { value, name } = get(key);
    const parsed = parseAddress(value);
    if (parsed === undefined)
      violations.push({ field: name, description: `must be host:port (IPv6 in brackets), not ${JSON.stringify(value)}` });
    return parsed ?? { host: '', port: 0 };
  };

  const root = packageRoot();
  const tiny = join(root, 'models', 'tiny');
  const config: ServerConfig = {
    listen: address('listen'),
    metricsListen: address('metricsListen'),
    dataDir: resolve(get('dataDir').value),
    databaseUrl: optional('databaseUrl'),
    models: readModels(get('models'), violations),
    modelCache: path('modelCache'),
    embeddedModel: existsSync(join(tiny, 'config.json')) ? { id: 'tiny', path: tiny } : undefined,
    protoFolder: join(root, 'proto'),
    device: pick('device', (value): value is DeviceName => /^(cpu|cuda:\d{1,3})$/.test(value), 'cpu or cuda:N'),
    ortLibrary: path('ortLibrary'),
    threads: optional('threads') === undefined ? undefined : integer('threads', 1, 1024),
    keysFile: path('keysFile'),
    spinning: pick('spinning', (value): value is 'on' | 'off' => value === 'on' || value === 'off', 'on or off') === 'on',
    servingForm: pick(
      'servingForm',
      (value): value is ServerConfig['servingForm'] => value === 'int4' || value === 'int8' || value === 'float32',
      'int4, int8 or float32',
    ),
    timeSharing: sharing(),
    tuningConcurrency: integer('tuningConcurrency', 1, 16),
    tuningMemoryBytes: optional('tuningMemoryBytes') === undefined ? undefined : integer('tuningMemoryBytes', 1_048_576, Number.MAX_SAFE_INTEGER),
    maxSequences: integer('maxSequences', 1, 256),
    maxContextTokens: integer('maxContext', 16, 1_048_576),
    maxDatasetBytes: integer('maxDatasetMegabytes', 1, 65_536) * 1_048_576,
    maxAdapterBytes: integer('maxAdapterMegabytes', 1, 65_536) * 1_048_576,
    graceMs: integer('grace', 0, 3600) * 1000,
    logLevel: pick('logLevel', (value): value is ServerConfig['logLevel'] => LOG_LEVELS.includes(value), LOG_LEVELS.join(', ')),
  };
  if (violations.length > 0) throw invalidFields(violations, 'lorica serve --help lists all settings.');
  return Object.freeze(config);
}

/** 'host:port' or '[v6]:port'. */
export function parseAddress(text: string): Address | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]/]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) return undefined;
  return { host: match[1] ?? match[2]!, port };
}

/** 127.0.0.0/8, ::1 or localhost: nobody else's machine can connect. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}

/** As gRPC and URLs write it. */
export const formatAddress = ({ host, port }: Address): string => `${host.includes(':') ? `[${host}]` : host}:${port}`;

function readModels({ value, name }: { value: string; name: string }, violations: FieldViolation[]): Map<string, string> {
  const models = new Map<string, string>();
  for (const entry of value
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')) {
    const at = entry.indexOf('=');
    const id = entry.slice(0, Math.max(at, 0));
    if (!/^[a-z0-9][a-z0-9._-]{0,62}$/.test(id) || at === entry.length - 1)
      violations.push({
        field: name,
        description: `must be id=path, the id of lower-case letters, digits, dots, underscores and hyphens, not ${JSON.stringify(entry)}`,
      });
    else if (models.has(id)) violations.push({ field: name, description: `names ${id} twice` });
    else models.set(id, entry.startsWith('hf:', at + 1) ? entry.slice(at + 1) : resolve(entry.slice(at + 1)));
  }
  return models;
}
