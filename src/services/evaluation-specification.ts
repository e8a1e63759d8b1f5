/**
 * The evaluation specification's message → the evaluation layer's task, and results → messages. Targets stay strings here; the
 * service resolves them.
 */
import type { EvaluationResult, EvaluationTask } from '../evaluation/index.js';
import type { Identity } from '../tenants/index.js';
import * as proto from '../gen/lorica/v1/resources.js';
import type { Fields } from './fields.js';
import { parseName } from './names.js';
import type { Served } from './targets.js';
import { readLossScope } from './tuning-objective.js';
import { readLabelTemplate } from './tuning-specification.js';

/** What an evaluation is created from; JSON, kept with the job. `task.labels` is empty for "the labels of the dataset". */
export interface EvaluationRequest {
  readonly dataset: string;
  readonly targets: readonly string[];
  readonly task: EvaluationTask;
  readonly seed: number;
  readonly resamples: number;
}

/** What the job keeps: the message as asked for, and the targets by digest, fixed when the evaluation was created. */
export interface EvaluationJobSpec {
  readonly specification: unknown;
  readonly request: EvaluationRequest;
  readonly pinned: readonly string[];
}

/** What the job's handler gives back. */
export interface EvaluationOutcome {
  readonly result: EvaluationResult;
  readonly servedBy: readonly Served[];
}

export function readEvaluationSpecification(
  message: proto.EvaluationSpecification | undefined,
  path: string,
  identity: Identity,
  fields: Fields,
): { request: EvaluationRequest; canonical: proto.EvaluationSpecification } | undefined {
  if (message === undefined) {
    fields.add(path, 'is required');
    return undefined;
  }
  const dataset = parseName('dataset', `${path}.dataset`, message.dataset, identity, fields)?.name ?? '';
  fields.check(
    `${path}.targets`,
    message.targets.length >= 1 && message.targets.length <= 8,
    `must be 1 to 8 targets, not ${message.targets.length}`,
  );
  fields.distinct(`${path}.targets`, message.targets);
  fields.integer(`${path}.seed`, message.seed, 0, Number.MAX_SAFE_INTEGER);
  fields.integer(`${path}.resamples`, message.resamples, 2000, 100_000);
  const task = readTask(message, path, fields);
  return {
    request: { dataset, targets: message.targets, task, seed: message.seed ?? 0, resamples: message.resamples ?? 10_000 },
    canonical: { ...message, dataset },
  };
}

function readTask(message: proto.EvaluationSpecification, path: string, fields: Fields): EvaluationTask {
  switch (message.task?.$case) {
    case 'classification': {
      const { labels, template } = message.task.value;
      checkLabels(`${path}.classification.labels`, labels, fields, { optional: true });
      const texts = readLabelTemplate(template, `${path}.classification.template`, fields) ?? {
        prompt: '{text}\nLabel:',
        label: ' {label}',
      };
      return { kind: 'classification', labels, promptTemplate: texts.prompt, labelTemplate: texts.label };
    }
    case 'perplexity':
      return { kind: 'perplexity', tokens: readLossScope(message.task.value.lossScope, `${path}.perplexity.loss_scope`, fields) };
    case undefined:
      fields.add(`${path}.task`, 'is required: classification or perplexity');
      return { kind: 'perplexity' };
  }
}

/** Two to 64 different labels that are not empty. */
export function checkLabels(path: string, labels: readonly string[], fields: Fields, options: { optional?: boolean } = {}): void {
  if (labels.length === 0 && options.optional === true) return;
  fields.check(path, labels.length >= 2 && labels.length <= 64, `must be 2 to 64 labels, not ${labels.length}`);
  labels.forEach((label, i) => fields.check(`${path}[${i}]`, label !== '' && label.length <= 1024, 'must be 1 to 1024 characters'));
  fields.distinct(path, labels);
}

export const evaluationSpecificationToJson = (message: proto.EvaluationSpecification): unknown =>
  proto.EvaluationSpecification.toJSON(message);
export const evaluationSpecificationFromJson = (json: unknown): proto.EvaluationSpecification =>
  proto.EvaluationSpecification.fromJSON(json);

const METRICS = { accuracy: 'accuracy', macroF1: 'macro_f1', meanLogProbability: 'mean_log_probability' } as const;

/** `targets` as asked for, in order. */
export function evaluationResultMessage({ result, servedBy }: EvaluationOutcome, targets: readonly string[]): proto.EvaluationResult {
  const first = result.targets[0];
  const majority = first?.kind === 'classification' ? first : undefined;
  return {
    rows: result.rows,
    majorityAccuracy: majority?.majorityAccuracy,
    majorityLabel: majority?.majorityLabel ?? '',
    seconds: result.seconds,
    targets: result.targets.map((target, i) => ({
      target: targets[i] ?? '',
      servedBy: servedBy[i],
      accuracy: target.kind === 'classification' ? target.accuracy : undefined,
      macroF1: target.kind === 'classification' ? target.macroF1 : undefined,
      perplexity: target.kind === 'perplexity' ? target.perplexity : undefined,
      tokens: target.kind === 'perplexity' ? target.tokens : 0,
      labels: target.kind === 'classification' ? target.labels.map((label) => ({ ...label })) : [],
    })),
    comparisons: result.comparisons.map((comparison) => ({
      target: targets[comparison.target] ?? '',
      baseline: comparison.against === 'majority' ? 'majority' : (targets[0] ?? ''),
      metric: METRICS[comparison.metric],
      difference: comparison.difference,
      lower: comparison.low,
      upper: comparison.high,
      pValue: comparison.pValue,
    })),
  };
}
