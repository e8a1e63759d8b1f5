/** `lorica doctor`: looks at everything that a server needs on this machine and says what is wrong, without changing anything. */
import { access, constants, readFile, statfs } from 'node:fs/promises';
import { createServer } from 'node:net';
import { totalmem } from 'node:os';
import { dirname } from 'node:path';
import { LoricaError } from '../common/errors.js';
import { formatAddress, isLoopback, type Address, type ServerConfig } from '../config/config.js';
import { CATALOGUE } from '../models/catalogue.js';
import { openCheckpoint } from '../models/checkpoint.js';
import { inspectRuntime } from '../runtime/index.js';
import { readKeysFile } from '../tenants/index.js';

export interface Finding {
  readonly state: 'ok' | 'warning' | 'problem';
  readonly about: string;
  readonly text: string;
}

const ok = (about: string, text: string): Finding => ({ state: 'ok', about, text });
const warning = (about: string, text: string): Finding => ({ state: 'warning', about, text });
const problem = (about: string, text: string): Finding => ({ state: 'problem', about, text });

/** Findings in order, as they are made. */
export async function* examine(config: ServerConfig): AsyncGenerator<Finding> {
  const major = Number(process.versions.node.split('.')[0]);
  yield (major >= 20 ? ok : problem)('node', `${process.version}${major >= 20 ? '' : '; 20 or newer is needed'}`);
  yield ok('memory', `${(totalmem() / 2 ** 30).toFixed(1)} GiB`);
  yield* examineRuntime(config);
  yield await examineFolder(config.dataDir);
  yield await examineAddress('grpc', config.listen);
  yield await examineAddress('metrics', config.metricsListen);
  yield* examineKeys(config);
  for (const [id, path] of config.models) yield await examineModel(id, path);
  if (config.embeddedModel !== undefined) yield await examineModel(config.embeddedModel.id, config.embeddedModel.path);
  if (config.models.size === 0 && config.embeddedModel === undefined)
    yield warning('models', `none configured; for example lorica models pull ${CATALOGUE[0]?.id ?? ''}`);
}

async function* examineRuntime({ device, ortLibrary, threads }: ServerConfig): AsyncGenerator<Finding> {
  try {
    const found = await inspectRuntime({
      device,
      ...(ortLibrary === undefined ? {} : { libraryPath: ortLibrary }),
      ...(threads === undefined ? {} : { intraOpThreads: threads }),
    });
    yield ok(
      'onnxruntime',
      `${found.version}, ${found.providers.join(', ')}, ${found.threads} of ${found.usableProcessors} processors, ${found.libraryPath}`,
    );
    yield found.deviceProblem === undefined ? ok('device', found.device) : problem('device', `${found.device}: ${found.deviceProblem}`);
  } catch (error) {
    yield problem('onnxruntime', explain(error));
  }
}

async function examineFolder(folder: string): Promise<Finding> {
  for (let path = folder; ; path = dirname(path)) {
    try {
      await access(path, constants.R_OK | constants.W_OK | constants.X_OK);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT' && path !== dirname(path)) continue;
      return problem('data', `${folder}: ${path} can not be written (${(error as NodeJS.ErrnoException).code ?? 'unknown'})`);
    }
    const { bavail, bsize } = await statfs(path);
    const free = bavail * bsize;
    return (free < 2 ** 30 ? warning : ok)('data', `${folder}, ${(free / 2 ** 30).toFixed(1)} GiB free`);
  }
}

function examineAddress(about: string, address: Address): Promise<Finding> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', (error) => resolve(warning(about, `${formatAddress(address)}: ${error.message} (a running server?)`)));
    probe.listen(address.port, address.host, () => probe.close(() => resolve(ok(about, `${formatAddress(address)} is free`))));
  });
}

async function* examineKeys({ keysFile, listen }: ServerConfig): AsyncGenerator<Finding> {
  if (keysFile !== undefined) {
    try {
      await readFile(keysFile);
      yield ok('keys', `${(await readKeysFile(keysFile)).length} in ${keysFile}`);
    } catch (error) {
      yield problem('keys', explain(error));
    }
  } else if (isLoopback(listen.host)) yield ok('keys', 'no keys file; a loopback address needs none');
  else yield warning('keys', `no keys file; ${formatAddress(listen)} is served only if the database holds a key`);
}

async function examineModel(id: string, path: string): Promise<Finding> {
  try {
    const checkpoint = await openCheckpoint(path, { id });
    await checkpoint.close();
    return ok(`model ${id}`, `${path} (${checkpoint.config.layers} layers, ${checkpoint.digest.slice(0, 19)}…)`);
  } catch (error) {
    return problem(`model ${id}`, explain(error));
  }
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error instanceof LoricaError && error.hint !== undefined ? `${error.message}. ${error.hint}` : error.message;
}
