/** Runs one evaluation: rows and targets by digest → figures. The engine's scores come through the evaluation's own port. */
import type { DatasetStore, Example } from '../datasets/index.js';
import type { Engine, ModelProvider, ResolvedTarget } from '../engine/index.js';
import { evaluate } from '../evaluation/index.js';
import type { JobHandler } from '../jobs/index.js';
import type { Metrics } from '../metrics/metrics.js';
import type { EvaluationJobSpec, EvaluationOutcome, Target, Targets } from '../services/index.js';

export interface EvaluationHandlerDependencies {
  readonly models: ModelProvider;
  readonly datasets: DatasetStore;
  readonly targets: Targets;
  readonly engine: Pick<Engine, 'score' | 'scoreNext' | 'head' | 'classify'>;
  readonly metrics: Metrics;
  readonly maxContextTokens: number;
}

export function evaluationHandler({
  models,
  datasets,
  targets,
  engine,
  metrics,
  maxContextTokens,
}: EvaluationHandlerDependencies): JobHandler {
  return async (context): Promise<EvaluationOutcome> => {
    const { job, signal } = context;
    const { tenant } = job;
    const { request, pinned } = job.spec as EvaluationJobSpec;
    const resolved: Target[] = [];
    for (const [i, target] of pinned.entries()) resolved.push(await targets.resolve(target, `specification.targets[${i}]`, { tenant }));
    const { tokenizer, chatTemplate, config } = await models.checkpoint(resolved[0]!.resolved.modelId);
    const rows: (Example & { readonly line: number })[] = [];
    for await (const row of datasets.examples(await datasets.get(tenant, request.dataset.split('/').at(-1)!))) rows.push(row);
    signal.throwIfAborted();
    const counted = new Map<number, number>();
    const result = await evaluate<ResolvedTarget>({
      task: request.task,
      rows,
      targets: resolved.map((target) => target.resolved),
      scorer: engine,
      tokenizer,
      ...(chatTemplate === undefined ? {} : { chatTemplate }),
      emit: async (progress) => {
        metrics.evaluationRowsTotal.inc({ tenant }, progress.rowsDone - (counted.get(progress.target) ?? 0));
        counted.set(progress.target, progress.rowsDone);
        await context.emit(progress);
      },
      signal,
      seed: request.seed,
      resamples: request.resamples,
      maxLengthTokens: Math.min(maxContextTokens, config.maxPositionTokens),
    });
    return { result, servedBy: resolved.map(({ servedBy }) => servedBy) };
  };
}
