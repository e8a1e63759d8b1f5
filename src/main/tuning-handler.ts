/**
 * Runs one tuning job: rows → training → a published version → the alias, if one was named. A job that was interrupted goes on from its
 * newest checkpoint. Everything that it leaves behind is content-addressed, so running a job again after a crash changes nothing twice.
 */
import type { AdapterRegistry } from '../adapters/index.js';
import type { Logger } from '../common/logger.js';
import type { DatasetStore, EmbeddingStore } from '../datasets/index.js';
import type { JobHandler } from '../jobs/index.js';
import type { Metrics } from '../metrics/metrics.js';
import { readEmbeddingFolder } from '../models/pretrained-embeddings.js';
import { variantFit } from '../models/variant-architecture.js';
import type { ModelProvider } from '../engine/index.js';
import {
  DEFAULT_KEPT_CHECKPOINTS,
  runTuning,
  type CheckpointEvent,
  type EmbeddingsEvent,
  type EvaluationEvent,
  type StepEvent,
  type TrainingHost,
} from '../tuning/index.js';
import { tuningRequestOfJob, type TuningOutcome } from '../services/index.js';
import { evaluateLabels } from './label-evaluator.js';
import { tuningCheckpoints } from './tuning-checkpoints.js';

export interface TuningHandlerDependencies {
  readonly models: ModelProvider;
  readonly datasets: DatasetStore;
  readonly embeddings: EmbeddingStore;
  readonly adapters: AdapterRegistry;
  readonly host: TrainingHost;
  /** What one job may add to the memory of this process. */
  readonly memoryLimitBytes: number;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

/** Among so many of a job's newest events is a step, if it has made one: between two steps come at most a few others. */
const LOOKED_AT_EVENTS = 16;

/** Tells what was not reported yet from what a job does again, with the same numbers, after it was interrupted. */
function notIn(newestFirst: readonly unknown[]): (event: StepEvent | EvaluationEvent | EmbeddingsEvent) => boolean {
  const events = newestFirst as readonly (StepEvent | EvaluationEvent | CheckpointEvent | EmbeddingsEvent)[];
  const last = events.find((event): event is StepEvent => !('kind' in event));
  return (event) => {
    // The model is edited again whenever the job begins or goes on; it was reported before the first step.
    if ('kind' in event && event.kind === 'embeddings') return last === undefined && !events.some((one) => 'kind' in one && one.kind === 'embeddings');
    if (last === undefined || event.stage !== last.stage || event.step !== last.step) {
      return last === undefined || event.stage > last.stage || (event.stage === last.stage && event.step > last.step);
    }
    return (
      'kind' in event &&
      !events.some((one) => 'kind' in one && one.kind === 'evaluation' && one.stage === event.stage && one.step === event.step)
    );
  };
}

export function tuningHandler({ models, datasets, embeddings, adapters, host, memoryLimitBytes, metrics, logger }: TuningHandlerDependencies): JobHandler {
  return async (context): Promise<TuningOutcome> => {
    const { job, signal } = context;
    const { tenant } = job;
    const { specification, adapter, alias } = tuningRequestOfJob(job);
    const checkpoint = await models.checkpoint(specification.baseModel);
    const isNew = notIn(job.attempt === 1 ? [] : await context.emitted(LOOKED_AT_EVENTS));
    const began = performance.now();
    try {
      const { content, ...figures } = await runTuning({
        checkpoint,
        host,
        specification,
        memoryLimitBytes,
        examples: async function* (dataset) {
          yield* datasets.examples(await datasets.get(tenant, dataset.split('/').at(-1)!));
        },
        vectors: async ({ source, maxWords }, stop) =>
          embeddings.withFiles(await embeddings.get(tenant, source.split('/').at(-1)!), async (folder) => {
            const options = { ...(maxWords === undefined ? {} : { maxWords }), ...(stop === undefined ? {} : { signal: stop }) };
            return (await readEmbeddingFolder(folder, options)).vectors;
          }),
        onEmbeddings: async (report) => {
          const event: EmbeddingsEvent = { kind: 'embeddings', report };
          if (isNew(event)) await context.emit(event);
        },
        emit: async (event: StepEvent) => {
          metrics.tuningStepsTotal.inc({ tenant });
          metrics.tuningTokensTotal.inc({ tenant }, event.tokens);
          metrics.tuningLoss.set({ tenant, job: job.id }, event.loss);
          if (isNew(event)) await context.emit(event);
        },
        report: async (event) => {
          if (event.kind === 'checkpoint' || isNew(event)) await context.emit(event);
        },
        signal,
        checkpoints: tuningCheckpoints(context.checkpoints, specification.checkpoints?.keep ?? DEFAULT_KEPT_CHECKPOINTS),
        logger: logger.with({ job: job.name }),
        evaluateLabels,
      });
      signal.throwIfAborted();
      const version = await adapters.publish({
        tenant,
        adapter,
        baseModel: specification.baseModel,
        baseDigest: checkpoint.digest,
        fit: variantFit(checkpoint.config),
        content,
        tuningJob: job.name,
        metadata: { final_loss: figures.finalLoss.toPrecision(6), steps: String(figures.steps) },
      });
      if (alias !== undefined) await adapters.setAlias({ tenant, adapter, alias, digest: version.digest });
      return { ...figures, adapterVersion: version.name, seconds: (performance.now() - began) / 1000 };
    } finally {
      metrics.tuningLoss.remove({ tenant, job: job.id });
    }
  };
}
