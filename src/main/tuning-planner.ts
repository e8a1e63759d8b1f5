/**
 * What is said of a tuning job before it is created: whether its specification holds, with field paths as the API writes them, and what
 * it would take here. Estimates run one at a time: each measures.
 */
import { LoricaError } from '../common/errors.js';
import type { DatasetStore } from '../datasets/index.js';
import type { ModelProvider } from '../engine/index.js';
import { memoryLimitBytes, processMemory } from '../runtime/index.js';
import { checkMemory, checkTuning, estimateTuning, memoryLimit, type TrainingHost } from '../tuning/index.js';
import type { TuningEstimate, TuningPlanner } from '../services/index.js';

export interface TuningPlannerDependencies {
  readonly models: ModelProvider;
  readonly datasets: DatasetStore;
  readonly host: TrainingHost;
  /** What one job may add to the memory of this process. */
  readonly jobLimitBytes: number;
}

export function tuningPlanner({ models, datasets, host, jobLimitBytes }: TuningPlannerDependencies): TuningPlanner {
  let last: Promise<unknown> = Promise.resolve();
  const alone = <T>(work: () => Promise<T>): Promise<T> => {
    const next = last.then(work);
    last = next.catch(() => undefined);
    return next;
  };
  return {
    check: async (specification) => {
      const { config } = await models.checkpoint(specification.baseModel);
      withApiPaths(() => checkTuning(specification, config));
    },
    requireMemory: async (specification) => {
      checkMemory(specification, (await models.checkpoint(specification.baseModel)).config, jobLimitBytes);
    },
    estimate: async (tenant, specification, signal) => {
      const checkpoint = await models.checkpoint(specification.baseModel);
      const dataset = (name: string) => datasets.get(tenant, name.split('/').at(-1)!);
      return alone(async (): Promise<TuningEstimate> => {
        signal.throwIfAborted();
        const { residentBytes } = processMemory();
        const stages = await estimateTuning({
          checkpoint,
          host,
          specification,
          examples: async function* (name) {
            yield* datasets.examples(await dataset(name));
          },
          rowsOf: async (name) => (await dataset(name)).statistics.rows,
          memoryLimitBytes: jobLimitBytes,
          signal,
        });
        const memoryBytes = Math.max(...stages.map(({ memory }) => memory.reduce((sum, { bytes }) => sum + bytes, 0)));
        // What is resident now and then includes garbage of the moment, before or after.
        const heldBytes = Math.min(residentBytes, processMemory().residentBytes);
        return { stages, memoryBytes, peakMemoryBytes: heldBytes + memoryBytes, memoryLimitBytes: memoryLimitBytes(), jobLimitBytes: memoryLimit(specification, jobLimitBytes) };
      });
    },
  };
}

function withApiPaths(check: () => unknown): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof LoricaError) || error.violations.length === 0) throw error;
    const violations = error.violations.map(({ field, description }) => ({ field: apiPath(field), description }));
    throw new LoricaError(error.code, error.reason, violations.map(({ field, description }) => `${field}: ${description}`).join('; '), {
      violations,
      cause: error,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}

/** The tuning layer's paths are its own property names. */
const apiPath = (path: string): string => path.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
