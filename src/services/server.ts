/**
 * The gRPC server: every service with its handlers, health and reflection. Binding to an address and stopping are main's.
 * Invariant: each method of each service definition has a handler (it would not compile otherwise).
 */
import { Server } from '@grpc/grpc-js';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AdapterRegistry } from '../adapters/index.js';
import { systemClock } from '../common/clock.js';
import type { Logger } from '../common/logger.js';
import type { DatasetStore, EmbeddingStore } from '../datasets/index.js';
import { AdapterServiceService } from '../gen/lorica/v1/adapter_service.js';
import { DatasetServiceService } from '../gen/lorica/v1/dataset_service.js';
import { EmbeddingServiceService } from '../gen/lorica/v1/embedding_service.js';
import { EvaluateServiceService } from '../gen/lorica/v1/evaluate_service.js';
import { GenerateServiceService } from '../gen/lorica/v1/generate_service.js';
import { ModelServiceService } from '../gen/lorica/v1/model_service.js';
import { TuneServiceService } from '../gen/lorica/v1/tune_service.js';
import type { JobStore } from '../jobs/index.js';
import type { Metrics } from '../metrics/metrics.js';
import { adapterHandlers } from './adapter-service.js';
import { addService, type CallEnvironment } from './call.js';
import { datasetHandlers } from './dataset-service.js';
import { embeddingHandlers } from './embedding-service.js';
import { evaluateHandlers } from './evaluate-service.js';
import { generateHandlers } from './generate-service.js';
import type { Authenticate } from './identity.js';
import { modelHandlers } from './model-service.js';
import { Once } from './once.js';
import type { Generator, ModelLibrary, RequestMemory, RowMeters, TuningPlanner, TuningRecommender } from './ports.js';
import { Targets } from './targets.js';
import { tuneHandlers } from './tune-service.js';

export interface ServiceDependencies {
  readonly authenticate: Authenticate;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly draining: AbortSignal;
  readonly jobs: JobStore;
  readonly datasets: DatasetStore;
  readonly embeddings: EmbeddingStore;
  readonly adapters: AdapterRegistry;
  readonly models: ModelLibrary;
  readonly engine: Generator;
  readonly planner: TuningPlanner;
  readonly recommender: TuningRecommender;
  readonly meters: RowMeters;
  readonly requests: RequestMemory;
  /** The folder that holds descriptors.binpb, for reflection. */
  readonly protoFolder: string;
  readonly maxDatasetBytes: number;
  readonly maxAdapterBytes: number;
}

export interface Services {
  readonly server: Server;
  /** Sets the health of the server and of every service. */
  readonly setServing: (serving: boolean) => void;
}

const SERVICES = ['AdapterService', 'DatasetService', 'EmbeddingService', 'EvaluateService', 'GenerateService', 'ModelService', 'TuneService'].map(
  (name) => `lorica.v1.${name}`,
);

/** The FileDescriptorSet in `file` (made by `npm run proto`), as the reflection service takes it. */
function descriptors(file: string): PackageDefinition {
  const reader = new BinaryReader(readFileSync(file));
  const fileDescriptorProtos: Buffer[] = [];
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1) fileDescriptorProtos.push(Buffer.from(reader.bytes()));
    else reader.skip(wireType, field);
  }
  return { descriptors: { format: 'Protocol Buffer 3 EnumDescriptorProto', type: {}, fileDescriptorProtos } };
}

/** The definitions under `protoFolder` as proto-loader reads them, for `lorica call`. */
export function loadProtos(protoFolder: string): PackageDefinition {
  const files = readdirSync(join(protoFolder, 'lorica', 'v1')).filter((file) => file.endsWith('.proto'));
  return loadSync(
    files.map((file) => `lorica/v1/${file}`),
    { includeDirs: [protoFolder], longs: Number, enums: String, defaults: false, oneofs: true, keepCase: true },
  );
}

export function createServices(dependencies: ServiceDependencies): Services {
  const { metrics, logger, draining, authenticate, models, adapters } = dependencies;
  const server = new Server({
    'grpc.max_receive_message_length': 4 << 20,
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 20_000,
  });
  const environment: CallEnvironment = { authenticate, metrics, logger, draining, clock: systemClock };
  const shared = { ...dependencies, once: new Once(dependencies.requests), targets: new Targets(models, adapters) };

  const tenantOnly = { ...environment, role: 'tenant' as const };
  addService(server, DatasetServiceService, datasetHandlers(shared), tenantOnly);
  addService(server, EmbeddingServiceService, embeddingHandlers(shared), tenantOnly);
  addService(server, TuneServiceService, tuneHandlers(shared), tenantOnly);
  addService(server, EvaluateServiceService, evaluateHandlers(shared), tenantOnly);
  addService(server, GenerateServiceService, generateHandlers(shared), tenantOnly);
  addService(server, AdapterServiceService, adapterHandlers(shared), tenantOnly);
  addService(server, ModelServiceService, modelHandlers(shared), environment);

  const health = new HealthImplementation();
  health.addToServer(server);
  new ReflectionService(descriptors(join(dependencies.protoFolder, 'descriptors.binpb'))).addToServer(server);
  return {
    server,
    setServing: (serving) => {
      for (const name of ['', ...SERVICES]) health.setStatus(name, serving ? 'SERVING' : 'NOT_SERVING');
    },
  };
}
