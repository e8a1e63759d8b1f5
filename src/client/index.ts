/**
 * The TypeScript client: typed functions over the generated definitions. Messages and enums are exported beside it, so that a user
 * imports this file only.
 */
import { Client, credentials as grpcCredentials, type ChannelCredentials } from '@grpc/grpc-js';
import * as adapterMessages from '../gen/lorica/v1/adapter_service.js';
import * as datasetMessages from '../gen/lorica/v1/dataset_service.js';
import * as embeddingMessages from '../gen/lorica/v1/embedding_service.js';
import * as evaluateMessages from '../gen/lorica/v1/evaluate_service.js';
import * as generateMessages from '../gen/lorica/v1/generate_service.js';
import * as modelMessages from '../gen/lorica/v1/model_service.js';
import * as recommendationMessages from '../gen/lorica/v1/recommendation.js';
import type { AdapterVersion, Dataset } from '../gen/lorica/v1/resources.js';
import * as tuneMessages from '../gen/lorica/v1/tune_service.js';
import { createStub, type CallSettings, type Channel, type DeepPartial, type Stub } from './stub.js';
import { importAdapter, uploadDataset, uploadEmbeddings } from './upload.js';

export { LoricaCallError, toCallError, type CallFailure, type CallViolation } from './call-error.js';
export type { CallSettings, DeepPartial, Stub } from './stub.js';
export type * from '../gen/lorica/v1/adapter_service.js';
export type * from '../gen/lorica/v1/architecture.js';
export {
  EmbeddingHead,
  EmbeddingNorm,
  EmbeddingProjection,
  LayerInitialization,
  NeuronImportance,
} from '../gen/lorica/v1/architecture.js';
export type * from '../gen/lorica/v1/dataset_service.js';
export type * from '../gen/lorica/v1/embedding_service.js';
export { EmbeddingsFormat } from '../gen/lorica/v1/embedding_service.js';
export type * from '../gen/lorica/v1/evaluate_service.js';
export type {
  ClassifyRequest,
  ClassifyResponse,
  GenerateRequest,
  GenerateResponse,
  Sampling,
  Score,
  ScoreRequest,
  ScoreResponse,
  StreamGenerateRequest,
  StreamGenerateResponse,
} from '../gen/lorica/v1/generate_service.js';
export { FinishReason } from '../gen/lorica/v1/generate_service.js';
export { DatasetFindingCode } from '../gen/lorica/v1/dataset_finding_code.js';
export { AdapterKind, DatasetFormat, ExampleKind, FindingSeverity, JobState, ModelOrigin } from '../gen/lorica/v1/resources.js';
export type {
  Adapter,
  AdapterAlias,
  Comparison,
  DatasetFinding,
  Evaluation,
  EvaluationResult,
  EvaluationSpecification,
  Model,
  TargetResult,
  TuningJob,
  TuningResult,
} from '../gen/lorica/v1/resources.js';
export { ExportType, type ExportCheckpointHeader } from '../gen/lorica/v1/model_service.js';
export type { ServedBy, TokenUsage } from '../gen/lorica/v1/types.js';
export { RecommendedTask } from '../gen/lorica/v1/recommendation.js';
export type {
  RecommendationAlternative,
  RecommendationReason,
  RecommendationWarning,
  RecommendTuningRequest,
  RecommendTuningResponse,
} from '../gen/lorica/v1/recommendation.js';
export type { TuningJobEvent, TuningStep } from '../gen/lorica/v1/tune_service.js';
export { EvaluationMetric } from '../gen/lorica/v1/training.js';
export { BaseWeights, Component, LossScope, SavedActivations, ScheduleKind } from '../gen/lorica/v1/tuning.js';
export type { Trainable, TuningSpecification, TuningStage } from '../gen/lorica/v1/tuning.js';

export interface ConnectOptions {
  /** 'host:port'. */
  readonly address: string;
  /** Sent as `authorization: Bearer …`. */
  readonly apiKey?: string;
  /** For a server without keys: the tenant to act as (default "dev"). */
  readonly tenant?: string;
  /** Default: plain text. */
  readonly credentials?: ChannelCredentials;
}

export type DatasetsClient = Stub<typeof datasetMessages.DatasetServiceService> & {
  uploadDataset(header: DeepPartial<datasetMessages.UploadDatasetHeader>, bytes: Uint8Array, settings?: CallSettings): Promise<Dataset>;
};

export type EmbeddingsClient = Stub<typeof embeddingMessages.EmbeddingServiceService> & {
  uploadEmbeddings(
    header: DeepPartial<embeddingMessages.UploadEmbeddingsHeader>,
    files: Readonly<Record<string, Uint8Array>>,
    settings?: CallSettings,
  ): Promise<embeddingMessages.Embeddings>;
};

export type AdaptersClient = Stub<typeof adapterMessages.AdapterServiceService> & {
  importAdapter(
    header: DeepPartial<adapterMessages.ImportAdapterHeader>,
    files: Readonly<Record<string, Uint8Array>>,
    settings?: CallSettings,
  ): Promise<AdapterVersion>;
};

export interface LoricaClient {
  readonly datasets: DatasetsClient;
  readonly embeddings: EmbeddingsClient;
  readonly tune: Stub<typeof tuneMessages.TuneServiceService>;
  readonly evaluate: Stub<typeof evaluateMessages.EvaluateServiceService>;
  readonly generate: Stub<typeof generateMessages.GenerateServiceService>;
  readonly adapters: AdaptersClient;
  readonly models: Stub<typeof modelMessages.ModelServiceService>;
  /** Resolves when the server can be reached; rejects after `timeoutMs`. */
  ready(timeoutMs: number): Promise<void>;
  close(): void;
}

/** A client; the connection is made at the first call. Errors are LoricaCallError. */
export function connect(options: ConnectOptions): LoricaClient {
  const client = new Client(options.address, options.credentials ?? grpcCredentials.createInsecure());
  const channel: Channel = {
    client,
    metadata: {
      ...(options.apiKey === undefined ? {} : { authorization: `Bearer ${options.apiKey}` }),
      ...(options.tenant === undefined ? {} : { 'x-lorica-tenant': options.tenant }),
    },
  };
  return {
    datasets: {
      ...createStub(channel, datasetMessages.DatasetServiceService, datasetMessages),
      uploadDataset: (header, bytes, settings) => uploadDataset(channel, header, bytes, settings),
    },
    embeddings: {
      ...createStub(channel, embeddingMessages.EmbeddingServiceService, embeddingMessages),
      uploadEmbeddings: (header, files, settings) => uploadEmbeddings(channel, header, files, settings),
    },
    tune: createStub(channel, tuneMessages.TuneServiceService, { ...tuneMessages, ...recommendationMessages }),
    evaluate: createStub(channel, evaluateMessages.EvaluateServiceService, evaluateMessages),
    generate: createStub(channel, generateMessages.GenerateServiceService, generateMessages),
    adapters: {
      ...createStub(channel, adapterMessages.AdapterServiceService, adapterMessages),
      importAdapter: (header, files, settings) => importAdapter(channel, header, files, settings),
    },
    models: createStub(channel, modelMessages.ModelServiceService, modelMessages),
    ready: (timeoutMs) =>
      new Promise((resolve, reject) =>
        client.waitForReady(Date.now() + timeoutMs, (error) => (error === undefined ? resolve() : reject(error))),
      ),
    close: () => client.close(),
  };
}
