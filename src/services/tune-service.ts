/** TuneService: tuning jobs as resources and streams. The work itself is the job handler's (src/main/tuning-handler.ts). */
import type { DatasetStore, EmbeddingStore } from '../datasets/index.js';
import type { Job, JobCheckpoint, JobStore } from '../jobs/index.js';
import type {
  CheckpointEvent,
  EmbeddingReport,
  EmbeddingsEvent,
  EvaluationEvent,
  EvaluationValues,
  StageEvaluationOutcome,
  StepEvent,
} from '../tuning/index.js';
import type { TuningEstimate as EstimateMessage } from '../gen/lorica/v1/estimate.js';
import type { TuningJob, TuningResult } from '../gen/lorica/v1/resources.js';
import type {
  Checkpoint,
  CreateTuningJobRequest,
  EstimateTuningJobRequest,
  TuneServiceService,
  TuningJobEvent,
} from '../gen/lorica/v1/tune_service.js';
import type { CallContext, Handlers } from './call.js';
import { Fields } from './fields.js';
import { jobMethods } from './job-methods.js';
import { jobFields, repeatOf, watchJob, type Watched } from './jobs.js';
import { needName, parseName } from './names.js';
import type { Once } from './once.js';
import type { RowMeters, TuningPlanner, TuningRecommender } from './ports.js';
import { recommend } from './recommend-tuning.js';
import { requireFittingData } from './tuning-data.js';
import { embeddingReportMessage } from './tuning-edits.js';
import { readTuningSpecification, SAVED_ACTIVATIONS, tuningSpecificationFromJson, tuningSpecificationToJson } from './tuning-specification.js';

export interface TuneDependencies {
  readonly jobs: JobStore;
  readonly datasets: DatasetStore;
  readonly embeddings: EmbeddingStore;
  readonly planner: TuningPlanner;
  readonly recommender: TuningRecommender;
  readonly meters: RowMeters;
  readonly once: Once;
  readonly draining: AbortSignal;
}

/** What a tuning job keeps as its specification. */
export interface TuningJobSpec {
  /** The message TuningSpecification as JSON, names canonical. */
  readonly specification: unknown;
}

/** What the tuning handler gives back; JSON, kept with the job. */
export interface TuningOutcome {
  readonly adapterVersion: string;
  readonly steps: number;
  readonly finalLoss: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly peakMemoryBytes: number;
  readonly skippedRows: number;
  readonly seconds: number;
  readonly embeddings?: EmbeddingReport;
  readonly evaluation?: StageEvaluationOutcome;
}

/** Metrics by their names in EvaluationMetric, in lower case. */
function valuesMessage(values: Readonly<Record<string, number>> | EvaluationValues): Record<string, number> {
  return Object.fromEntries(Object.entries(values).map(([metric, value]) => [metric.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value]));
}

function resultMessage({ embeddings, evaluation, ...result }: TuningOutcome): TuningResult {
  return {
    ...result,
    embeddings: embeddings && embeddingReportMessage(embeddings),
    bestStep: evaluation?.step ?? 0,
    stoppedEarly: evaluation?.stoppedEarly ?? false,
    evaluation: valuesMessage(evaluation?.values ?? {}),
  };
}

export function tuningJobMessage(job: Job): TuningJob {
  return {
    ...jobFields(job),
    pauseRequested: job.pauseRequested,
    specification: tuningSpecificationFromJson((job.spec as TuningJobSpec).specification),
    result: job.result === undefined || job.result === null ? undefined : resultMessage(job.result as TuningOutcome),
  };
}

function checkpointMessage({ name, stage, stageStep, bytes, sha256, createTime, evaluation, best }: JobCheckpoint): Checkpoint {
  return { name, stage, step: stageStep, bytes, sha256, createTime, evaluation: valuesMessage(evaluation), best };
}

function eventMessage(watched: Watched): TuningJobEvent {
  const { sequence, time } = watched;
  switch (watched.kind) {
    case 'job':
      return { sequence, time, event: { $case: 'job', value: tuningJobMessage(watched.job) } };
    case 'result':
      return { sequence, time, event: { $case: 'result', value: tuningJobMessage(watched.job) } };
    case 'heartbeat':
      return { sequence, time, event: { $case: 'heartbeat', value: {} } };
    case 'progress': {
      const payload = watched.payload as StepEvent | CheckpointEvent | EmbeddingsEvent | EvaluationEvent;
      if ('kind' in payload) {
        if (payload.kind === 'embeddings')
          return { sequence, time, event: { $case: 'embeddings', value: embeddingReportMessage(payload.report) } };
        if (payload.kind === 'evaluation') {
          const { stage, step, values, best } = payload;
          return { sequence, time, event: { $case: 'evaluation', value: { stage, step, values: valuesMessage(values), best } } };
        }
        const { kind: _kind, ...checkpoint } = payload;
        return { sequence, time, event: { $case: 'checkpoint', value: checkpoint } };
      }
      const { etaMs, ...step } = payload;
      return { sequence, time, event: { $case: 'step', value: { ...step, remainingSeconds: etaMs / 1000 } } };
    }
  }
}

export function tuneHandlers({
  jobs,
  datasets,
  embeddings,
  planner,
  once,
  draining,
  recommender,
  meters,
}: TuneDependencies): Handlers<typeof TuneServiceService> {
  const create = async (request: CreateTuningJobRequest, context: CallContext): Promise<Job> => {
    const fields = new Fields();
    const parent = parseName('tenant', 'parent', request.parent, context.identity, fields);
    fields.id('tuning_job_id', request.tuningJobId, { optional: true });
    fields.requestId('request_id', request.requestId);
    const read = readTuningSpecification(request.specification, 'specification', context.identity, fields);
    fields.done();
    const { specification, canonical } = read!;
    const stored = tuningSpecificationToJson(canonical);
    const repeat = repeatOf(request, [request.tuningJobId, stored]);
    const earlier = repeat && (await jobs.findCreated({ kind: 'tuning', tenant: parent!.tenant, ...repeat }));
    if (earlier !== undefined) return earlier;
    await planner.check(specification);
    await planner.requireMemory(specification);
    await requireFittingData(specification, 'specification', (dataset) => datasets.get(parent!.tenant, dataset.split('/').at(-1)!));
    for (const { embeddings: vectors } of specification.stages) {
      if (vectors !== undefined) await embeddings.get(parent!.tenant, vectors.source.split('/').at(-1)!);
    }
    const { job } = await jobs.create({
      kind: 'tuning',
      tenant: parent!.tenant,
      spec: { specification: stored } satisfies TuningJobSpec,
      ...(request.tuningJobId === '' ? {} : { id: request.tuningJobId }),
      ...repeat,
    });
    return job;
  };

  const estimate = async (request: EstimateTuningJobRequest, context: CallContext): Promise<EstimateMessage> => {
    const fields = new Fields();
    const parent = parseName('tenant', 'parent', request.parent, context.identity, fields);
    const read = readTuningSpecification(request.specification, 'specification', context.identity, fields);
    fields.done();
    await planner.check(read!.specification);
    const { stages, memoryBytes, peakMemoryBytes, memoryLimitBytes, jobLimitBytes } = await planner.estimate(parent!.tenant, read!.specification, context.signal);
    return {
      stages: stages.map(({ chosen, memory, ...stage }) => ({
        ...stage,
        memory: memory.map(({ what, bytes }) => ({ what, bytes: Math.round(bytes) })),
        savedActivations: SAVED_ACTIVATIONS[chosen.savedActivations],
        microBatchTokens: chosen.microBatchTokens,
      })),
      steps: stages.reduce((sum, { steps }) => sum + steps, 0),
      seconds: stages.reduce((sum, { seconds }) => sum + seconds, 0),
      memoryBytes: Math.round(memoryBytes),
      peakMemoryBytes: Math.round(peakMemoryBytes),
      memoryLimitBytes,
      jobLimitBytes,
      fits: peakMemoryBytes <= memoryLimitBytes,
    };
  };

  const methods = jobMethods('tuning', 'tuningJob', tuningJobMessage, { jobs, once });

  const watch = async function* (job: string, afterSequence: number, context: CallContext): AsyncGenerator<TuningJobEvent> {
    for await (const event of watchJob(jobs, job, afterSequence, context.signal, draining)) yield eventMessage(event);
  };

  return {
    async *tune(request, context) {
      const { afterSequence, ...body } = request;
      const job = await create(body, context);
      yield* watch(job.name, afterSequence, context);
    },
    createTuningJob: async (request, context) => tuningJobMessage(await create(request, context)),
    getTuningJob: methods.get,
    listTuningJobs: async (request, context) => {
      const { items, nextPageToken } = await methods.list(request, context);
      return { tuningJobs: items, nextPageToken };
    },
    cancelTuningJob: methods.cancel,
    pauseTuningJob: methods.change((name) => jobs.pause(name)),
    resumeTuningJob: methods.change((name) => jobs.resume(name)),
    listCheckpoints: async ({ parent, ...page }, context) => {
      const fields = new Fields();
      fields.page(page.pageSize);
      const { name } = await jobs.get(needName('tuningJob', 'parent', parent, context.identity, fields).name);
      const { items, nextPageToken } = await jobs.checkpoints.list(name, page);
      return { checkpoints: items.map(checkpointMessage), nextPageToken };
    },
    deleteTuningJob: methods.delete,
    estimateTuningJob: estimate,
    recommendTuning: (request, context) => recommend(request, context, { datasets, recommender, meters }),
    async *watchTuningJob(request, context) {
      yield* watch(methods.name(request.name, context), request.afterSequence, context);
    },
  };
}
