/** The services' public face; main, cli and client use this file only. */
export { shuttingDown } from './call.js';
export { defined, type Defined } from './defined.js';
export type { EvaluationJobSpec, EvaluationOutcome, EvaluationRequest } from './evaluation-specification.js';
export { authenticateByKey, authenticateForDevelopment, DEVELOPMENT_TENANT, TENANT_KEY, type Authenticate } from './identity.js';
export { modelName } from './names.js';
export type {
  ExportedFiles,
  ExportFormat,
  Generator,
  ImportProgress,
  MeterRequest,
  ModelInfo,
  ModelLibrary,
  OpenRowMeter,
  RecommendQuestion,
  RequestMemory,
  RowMeters,
  TextModel,
  TuningEstimate,
  TuningPlanner,
  TuningRecommender,
} from './ports.js';
export { createServices, loadProtos, type ServiceDependencies, type Services } from './server.js';
export { Targets, type Served, type Target } from './targets.js';
export type { TuningJobSpec, TuningOutcome } from './tune-service.js';
export { tuningRequestOfJob, type TuningRequest } from './tuning-specification.js';
