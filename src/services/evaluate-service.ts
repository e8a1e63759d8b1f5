/** EvaluateService: evaluations as resources and streams. The work itself is the job handler's (src/main/evaluation-handler.ts). */
import type { DatasetStore } from '../datasets/index.js';
import type { EvaluationProgress } from '../evaluation/index.js';
import type { Job, JobStore } from '../jobs/index.js';
import type { CreateEvaluationRequest, EvaluateServiceService, EvaluationEvent } from '../gen/lorica/v1/evaluate_service.js';
import type { Evaluation } from '../gen/lorica/v1/resources.js';
import { invalidFields } from '../common/errors.js';
import type { CallContext, Handlers } from './call.js';
import {
  evaluationResultMessage,
  evaluationSpecificationFromJson,
  evaluationSpecificationToJson,
  readEvaluationSpecification,
  type EvaluationJobSpec,
  type EvaluationOutcome,
  type EvaluationRequest,
} from './evaluation-specification.js';
import { Fields } from './fields.js';
import { jobMethods } from './job-methods.js';
import { jobFields, repeatOf, watchJob, type Watched } from './jobs.js';
import { parseName } from './names.js';
import type { Once } from './once.js';
import type { Target, Targets } from './targets.js';

export interface EvaluateDependencies {
  readonly jobs: JobStore;
  readonly datasets: DatasetStore;
  readonly targets: Targets;
  readonly once: Once;
  readonly draining: AbortSignal;
}

export function evaluationMessage(job: Job): Evaluation {
  const spec = job.spec as EvaluationJobSpec;
  return {
    ...jobFields(job),
    specification: evaluationSpecificationFromJson(spec.specification),
    result:
      job.result === undefined || job.result === null
        ? undefined
        : evaluationResultMessage(job.result as EvaluationOutcome, spec.request.targets),
  };
}

function eventMessage(watched: Watched, targets: readonly string[]): EvaluationEvent {
  const { sequence, time } = watched;
  switch (watched.kind) {
    case 'job':
      return { sequence, time, event: { $case: 'evaluation', value: evaluationMessage(watched.job) } };
    case 'result':
      return { sequence, time, event: { $case: 'result', value: evaluationMessage(watched.job) } };
    case 'heartbeat':
      return { sequence, time, event: { $case: 'heartbeat', value: {} } };
    case 'progress': {
      const { target, rowsDone, rowsTotal } = watched.payload as EvaluationProgress;
      return { sequence, time, event: { $case: 'progress', value: { target: targets[target] ?? '', rowsDone, rowsTotal } } };
    }
  }
}

export function evaluateHandlers({
  jobs,
  datasets,
  targets,
  once,
  draining,
}: EvaluateDependencies): Handlers<typeof EvaluateServiceService> {
  /** The task with the dataset's labels where the request names none. */
  const withLabels = async (request: EvaluationRequest, tenant: string): Promise<EvaluationRequest> => {
    const dataset = await datasets.get(tenant, request.dataset.split('/').at(-1)!);
    if (request.task.kind !== 'classification') return request;
    const at = 'specification.classification';
    if (dataset.kind !== 'label')
      throw invalidFields([
        {
          field: 'specification.dataset',
          description: `classification needs rows of text and label; ${dataset.name} holds rows of the kind ${dataset.kind}`,
        },
      ]);
    const present = Object.keys(dataset.statistics.labels).sort();
    if (request.task.labels.length === 0) {
      if (present.length < 2 || present.length > 64)
        throw invalidFields([
          {
            field: `${at}.labels`,
            description: `must be given: the dataset has ${present.length} labels, and 2 to 64 can be taken from it`,
          },
        ]);
      return { ...request, task: { ...request.task, labels: present } };
    }
    const { labels } = request.task;
    const missing = present.filter((label) => !labels.includes(label));
    if (missing.length > 0)
      throw invalidFields([
        { field: `${at}.labels`, description: `must hold every label of the dataset; missing: ${missing.slice(0, 10).join(', ')}` },
      ]);
    return request;
  };

  const resolveAll = async (request: EvaluationRequest, context: CallContext): Promise<Target[]> => {
    const resolved: Target[] = [];
    for (const [i, target] of request.targets.entries())
      resolved.push(await targets.resolve(target, `specification.targets[${i}]`, context.identity));
    const fields = new Fields();
    resolved.forEach((target, i) =>
      fields.check(
        `specification.targets[${i}]`,
        target.resolved.modelId === resolved[0]?.resolved.modelId,
        'must be on the same base model as the first target',
      ),
    );
    fields.done();
    return resolved;
  };

  const create = async (request: CreateEvaluationRequest, context: CallContext): Promise<Job> => {
    const fields = new Fields();
    const parent = parseName('tenant', 'parent', request.parent, context.identity, fields);
    fields.id('evaluation_id', request.evaluationId, { optional: true });
    fields.requestId('request_id', request.requestId);
    const read = readEvaluationSpecification(request.specification, 'specification', context.identity, fields);
    fields.done();
    const { tenant } = parent!;
    const specification = evaluationSpecificationToJson(read!.canonical);
    const repeat = repeatOf(request, [request.evaluationId, specification]);
    const earlier = repeat && (await jobs.findCreated({ kind: 'evaluation', tenant, ...repeat }));
    if (earlier !== undefined) return earlier;
    const resolved = await resolveAll(read!.request, context);
    const spec: EvaluationJobSpec = {
      specification,
      request: await withLabels(read!.request, tenant),
      pinned: resolved.map(({ pinned }) => pinned),
    };
    const { job } = await jobs.create({
      kind: 'evaluation',
      tenant,
      spec,
      ...(request.evaluationId === '' ? {} : { id: request.evaluationId }),
      ...repeat,
    });
    return job;
  };

  const methods = jobMethods('evaluation', 'evaluation', evaluationMessage, { jobs, once });

  const watch = async function* (job: string, afterSequence: number, context: CallContext): AsyncGenerator<EvaluationEvent> {
    const { request } = (await jobs.get(job)).spec as EvaluationJobSpec;
    for await (const event of watchJob(jobs, job, afterSequence, context.signal, draining)) yield eventMessage(event, request.targets);
  };

  return {
    async *evaluate(request, context) {
      const { afterSequence, ...body } = request;
      const job = await create(body, context);
      yield* watch(job.name, afterSequence, context);
    },
    createEvaluation: async (request, context) => evaluationMessage(await create(request, context)),
    getEvaluation: methods.get,
    listEvaluations: async (request, context) => {
      const { items, nextPageToken } = await methods.list(request, context);
      return { evaluations: items, nextPageToken };
    },
    cancelEvaluation: methods.cancel,
    deleteEvaluation: methods.delete,
    async *watchEvaluation(request, context) {
      yield* watch(methods.name(request.name, context), request.afterSequence, context);
    },
  };
}
