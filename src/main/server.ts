/**
 * Wires the layers into one process, starts it and stops it. Start order: metrics port (alive, not ready), storage, runtime, models,
 * engine, jobs, services, gRPC port, then one configured base is preloaded; stop is graceful and runs the other way round.
 * Invariants: without keys only loopback is listened on; health is SERVING only while calls are taken; a stop loses no job
 * (running ones are queued again) and ends every call with a status.
 */
import { join } from 'node:path';
import { logVerbosity, ServerCredentials, setLogger, setLogVerbosity, type Server } from '@grpc/grpc-js';
import { AdapterRegistry } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import { createLogger, type Logger } from '../common/logger.js';
import { formatAddress, isLoopback, type Address, type ServerConfig } from '../config/config.js';
import { DatasetStore, EmbeddingStore } from '../datasets/index.js';
import { Engine } from '../engine/index.js';
import { JobCheckpoints, JobRunner, JobStore } from '../jobs/index.js';
import { createMetrics, type Metrics } from '../metrics/metrics.js';
import { Runtime } from '../runtime/index.js';
import { authenticateByKey, authenticateForDevelopment, createServices, Targets, type Authenticate } from '../services/index.js';
import { BlobLedger, makeFolder, openDatabase, openFolderBlobStore, RequestIds, type Database } from '../storage/index.js';
import { TenantStore } from '../tenants/index.js';
import { TrainingHost } from '../tuning/index.js';
import { describeEmbeddings } from './describe-embeddings.js';
import { evaluationHandler } from './evaluation-handler.js';
import { ImportedModels } from './imported-models.js';
import { addressInUse } from './listen-error.js';
import { listenForMetrics } from './metrics-listener.js';
import { clearExports } from './exports.js';
import { FileModelLibrary } from './model-library.js';
import { preloadConfigured } from './preload.js';
import { ThreadedRowMeters } from './row-meter.js';
import { tuningRecommender } from './tuning-recommender.js';
import { CloseStack } from './stack.js';
import { tuningHandler } from './tuning-handler.js';
import { tuningJobMemoryBytes } from './tuning-memory.js';
import { tuningPlanner } from './tuning-planner.js';

export interface RunningServer {
  /** 'host:port' of gRPC, with the port that was bound. */
  readonly address: string;
  readonly metricsAddress: string;
  readonly metrics: Metrics;
  /** Stops gracefully; the same promise for every call. */
  stop(): Promise<void>;
}

/** How long the last calls may take to end once nothing is running any more. */
const LAST_CALLS_MS = 2000;

/** Opens everything and takes calls. Throws LoricaError when a setting, a model, the data folder or the runtime does not allow it. */
export async function startServer(config: ServerConfig, options: { readonly logger?: Logger } = {}): Promise<RunningServer> {
  const logger = options.logger ?? createLogger(config.logLevel);
  const opened = new CloseStack();
  try {
    return await start(config, logger, opened);
  } catch (error) {
    await opened.close((name, failure) => logger.error('closing failed', { name, error: failure }));
    throw error;
  }
}

async function start(config: ServerConfig, logger: Logger, opened: CloseStack): Promise<RunningServer> {
  sendGrpcLogs(logger);
  const metrics = createMetrics();
  let ready = false;
  let refresh = (): Promise<void> => Promise.resolve();
  const http = await listenForMetrics(
    config.metricsListen,
    metrics,
    () => refresh(),
    () => ready,
  );
  opened.push('metrics', () => http.close());
  await makeFolder(config.dataDir);
  const database = await openDatabase(config.databaseUrl === undefined ? { dataDir: config.dataDir } : { url: config.databaseUrl });
  opened.push('database', () => database.close());
  const tenants = await TenantStore.open(database, config.keysFile === undefined ? {} : { keysFile: config.keysFile });
  const authenticate = await chooseAuthentication(config, tenants, logger);

  const runtime = Runtime.open({
    device: config.device,
    spinning: config.spinning,
    timeSharing: config.timeSharing,
    logger,
    ...(config.ortLibrary === undefined ? {} : { libraryPath: config.ortLibrary }),
    ...(config.threads === undefined ? {} : { intraOpThreads: config.threads }),
  });
  opened.push('runtime', () => runtime.close());
  opened.push(
    'runtime metrics',
    runtime.onRun(({ lane, ranMs }) => metrics.runtimeRunSeconds.observe({ lane }, ranMs / 1000)),
  );

  const exportsFolder = join(config.dataDir, 'exports');
  await clearExports(exportsFolder);
  const models = await FileModelLibrary.open({
    configured: config.models,
    embedded: config.embeddedModel,
    imported: await ImportedModels.open(config.dataDir),
    modelCache: config.modelCache,
    exportsFolder,
    maxContextTokens: config.maxContextTokens,
    logger,
  });
  opened.push('models', () => models.close());
  const stores = await openStores(config, database, metrics, opened);
  const engine = new Engine({
    runtime,
    models,
    metrics,
    logger,
    servingFolder: join(config.dataDir, 'serving'),
    options: { servingForm: config.servingForm, maxSequences: config.maxSequences, maxContextTokens: config.maxContextTokens },
  });
  opened.push('engine', () => engine.stop({ graceMs: 0 }));
  const targets = new Targets(models, stores.adapters);
  const jobs = await JobStore.open(database, stores.checkpoints, { requestIds: stores.requestIds, logger });
  opened.push('job store', () => jobs.close());
  const host = new TrainingHost(runtime);
  const jobLimitBytes = tuningJobMemoryBytes(config);
  const runner = new JobRunner(
    jobs,
    {
      tuning: tuningHandler({ models, ...stores, host, memoryLimitBytes: jobLimitBytes, metrics, logger }),
      evaluation: evaluationHandler({ models, ...stores, targets, engine, metrics, maxContextTokens: config.maxContextTokens }),
    },
    { logger, concurrency: { tuning: config.tuningConcurrency } },
  );

  const draining = new AbortController();
  const { server, setServing } = createServices({
    authenticate,
    metrics,
    logger,
    jobs,
    models,
    engine,
    draining: draining.signal,
    ...stores,
    planner: tuningPlanner({ models, datasets: stores.datasets, host, jobLimitBytes }),
    recommender: tuningRecommender(models, { threads: config.threads, jobLimitBytes }),
    meters: new ThreadedRowMeters((id) => models.checkpoint(id)),
    requests: stores.requestIds,
    protoFolder: config.protoFolder,
    maxDatasetBytes: config.maxDatasetBytes,
    maxAdapterBytes: config.maxAdapterBytes,
  });
  opened.push('grpc', () => server.forceShutdown());
  refresh = async (): Promise<void> => {
    metrics.jobs.reset();
    for (const { kind, state, count } of await jobs.counts()) metrics.jobs.set({ kind, state }, count);
  };
  await runner.start();
  opened.push('jobs', () => runner.stop({ graceMs: 0 }));
  const port = await bind(server, config.listen);
  setServing(true);
  ready = true;
  const address = formatAddress({ host: config.listen.host, port });
  logger.info('serving', {
    address,
    metricsAddress: http.address,
    models: (await models.list()).map(({ id }) => id),
    dataDir: config.dataDir,
  });
  const preloading = preloadConfigured({ engine, models, configured: [...config.models.keys()], logger });

  const shutDown = async (): Promise<void> => {
    logger.info('stopping', { graceMs: config.graceMs });
    ready = false;
    setServing(false);
    draining.abort();
    await Promise.all([runner.stop({ graceMs: 0, saveMs: config.graceMs }), engine.stop({ graceMs: config.graceMs })]);
    await preloading;
    await lastCalls(server);
    await opened.close((name, error) => logger.error('closing failed', { name, error }));
    logger.info('stopped');
  };
  let stopping: Promise<void> | undefined;
  return { address, metricsAddress: http.address, metrics, stop: () => (stopping ??= shutDown()) };
}

interface Stores {
  readonly datasets: DatasetStore;
  readonly embeddings: EmbeddingStore;
  readonly adapters: AdapterRegistry;
  readonly checkpoints: JobCheckpoints;
  readonly requestIds: RequestIds;
}

async function openStores(config: ServerConfig, database: Database, metrics: Metrics, opened: CloseStack): Promise<Stores> {
  const blobs = await openFolderBlobStore(join(config.dataDir, 'blobs'));
  const ledger = new BlobLedger(database, blobs);
  const adapters = new AdapterRegistry(database, blobs, ledger);
  opened.push(
    'alias metrics',
    adapters.onAliasMoved(({ tenant }) => metrics.aliasMovesTotal.inc({ tenant })),
  );
  const checkpoints = new JobCheckpoints(database, { blobs, ledger });
  opened.push(
    'checkpoint metrics',
    checkpoints.onSaved(({ name, bytes }) => {
      const tenant = name.split('/')[1]!;
      metrics.checkpointsTotal.inc({ tenant });
      metrics.checkpointBytesTotal.inc({ tenant }, bytes);
    }),
  );
  const work = join(config.dataDir, 'embeddings');
  await clearExports(work);
  const embeddings = new EmbeddingStore(database, blobs, ledger, work, describeEmbeddings);
  return { datasets: new DatasetStore(database, blobs, ledger), embeddings, adapters, checkpoints, requestIds: new RequestIds(database) };
}

/** Keys where there are any; the development identity on loopback without; else a refusal. */
async function chooseAuthentication(config: ServerConfig, tenants: TenantStore, logger: Logger): Promise<Authenticate> {
  if (await tenants.hasKeys()) return authenticateByKey(tenants);
  if (isLoopback(config.listen.host)) {
    logger.warn('no API keys: every local caller is trusted', { tenantFrom: 'x-lorica-tenant' });
    return authenticateForDevelopment();
  }
  throw new LoricaError(
    'FAILED_PRECONDITION',
    'UNAUTHENTICATED',
    `${formatAddress(config.listen)} can be reached from other machines, and there are no API keys`,
    {
      hint: 'Create one with `lorica keys create --tenant NAME` (or give --keys-file), or listen on 127.0.0.1.',
    },
  );
}

function bind(server: Server, address: Address): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(formatAddress(address), ServerCredentials.createInsecure(), (error, port) =>
      error === null ? resolve(port) : reject(addressInUse('LORICA_LISTEN', address, error)),
    );
  });
}

/** What grpc-js would print goes to the log instead, as one JSON object a line. */
function sendGrpcLogs(logger: Logger): void {
  const text = (parts: readonly unknown[]): string => parts.map(String).join(' ');
  setLogVerbosity(logVerbosity.ERROR);
  setLogger({
    error: (...parts: unknown[]) => logger.warn('grpc', { text: text(parts) }),
    info: (...parts: unknown[]) => logger.info('grpc', { text: text(parts) }),
    debug: (...parts: unknown[]) => logger.debug('grpc', { text: text(parts) }),
  });
}

/** Lets calls that are about to end do so, then closes the connections. */
async function lastCalls(server: Server): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, LAST_CALLS_MS);
  });
  const ended = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  await Promise.race([ended, late]);
  clearTimeout(timer);
}
