/**
 * The tuning specification's message → the tuning layer's type, with every rule that needs no model checked and named by its
 * field path. Defaults are the tuning layer's: what the message leaves out stays out.
 */
import type { CheckpointPolicy, Schedule, StageSpecification, TuningSpecification } from '../tuning/index.js';
import type { Identity } from '../tenants/index.js';
import type { CheckpointPolicy as CheckpointPolicyMessage } from '../gen/lorica/v1/training.js';
import type { LabelTemplate } from '../gen/lorica/v1/types.js';
import * as proto from '../gen/lorica/v1/tuning.js';
import { defined } from './defined.js';
import { Fields } from './fields.js';
import { modelName, parseModelName, parseName } from './names.js';
import { readArchitecture, readEmbeddings } from './tuning-edits.js';
import { readEvaluation } from './tuning-evaluation.js';
import { readObjective } from './tuning-objective.js';
import { readOptimizer } from './tuning-optimizer.js';
import { readTrainable } from './tuning-selection.js';

/** What a tuning job is created from. */
export interface TuningRequest {
  readonly specification: TuningSpecification;
  readonly adapter: string;
  readonly alias: string | undefined;
  /** The message with canonical names (never `tenants/-`), as it is stored with the job. */
  readonly canonical: proto.TuningSpecification;
}

const MAX_INTEGER = Number.MAX_SAFE_INTEGER;
const SCHEDULES: Partial<Record<proto.ScheduleKind, Schedule['kind']>> = {
  [proto.ScheduleKind.SCHEDULE_KIND_UNSPECIFIED]: 'linear',
  [proto.ScheduleKind.SCHEDULE_KIND_CONSTANT]: 'constant',
  [proto.ScheduleKind.SCHEDULE_KIND_LINEAR]: 'linear',
  [proto.ScheduleKind.SCHEDULE_KIND_COSINE]: 'cosine',
};

/** Reads the message; broken rules go to `fields`, and the result is then not to be used. */
export function readTuningSpecification(
  message: proto.TuningSpecification | undefined,
  path: string,
  identity: Identity,
  fields: Fields,
): TuningRequest | undefined {
  if (message === undefined) {
    fields.add(path, 'is required');
    return undefined;
  }
  const baseModel = parseModelName(`${path}.base_model`, message.baseModel, fields) ?? '';
  fields.id(`${path}.adapter_id`, message.adapterId);
  fields.id(`${path}.alias`, message.alias, { optional: true });
  fields.integer(`${path}.seed`, message.seed, 0, MAX_INTEGER);
  fields.integer(`${path}.memory_limit_bytes`, message.memoryLimitBytes, 0, MAX_INTEGER);
  fields.check(
    `${path}.stages`,
    message.stages.length >= 1 && message.stages.length <= 16,
    `must be 1 to 16 stages, not ${message.stages.length}`,
  );
  const stages = message.stages.map((stage, i) => readStage(stage, `${path}.stages[${i}]`, identity, fields));
  return {
    specification: defined({
      baseModel,
      stages,
      seed: message.seed ?? 0,
      baseWeights: readBaseWeights(message.baseWeights, `${path}.base_weights`, fields),
      int8Products: message.int8Products ? true : undefined,
      memoryLimitBytes: message.memoryLimitBytes === 0 ? undefined : message.memoryLimitBytes,
      checkpoints: readCheckpoints(message.checkpoints, `${path}.checkpoints`, fields),
    }),
    adapter: message.adapterId,
    alias: message.alias === '' ? undefined : message.alias,
    canonical: {
      ...message,
      baseModel: modelName(baseModel),
      stages: message.stages.map((stage, i) => ({
        ...stage,
        dataset: stages[i]?.dataset ?? stage.dataset,
        embeddings: stage.embeddings && { ...stage.embeddings, source: stages[i]?.embeddings?.source ?? stage.embeddings.source },
        evaluation: stage.evaluation && { ...stage.evaluation, dataset: stages[i]?.evaluation?.dataset ?? stage.evaluation.dataset },
      })),
    },
  };
}

function readCheckpoints(message: CheckpointPolicyMessage | undefined, path: string, fields: Fields): CheckpointPolicy | undefined {
  if (message === undefined) return undefined;
  fields.integer(`${path}.every_steps`, message.everySteps, 1, 1_000_000);
  fields.integer(`${path}.keep`, message.keep, 1, 100);
  return defined({ everySteps: message.everySteps, keep: message.keep });
}

/** What a stored job asks for, read again with the rules of today. INVALID_ARGUMENT when it no longer holds. */
export function tuningRequestOfJob(job: { readonly tenant: string; readonly spec: unknown }): TuningRequest {
  const fields = new Fields();
  const message = tuningSpecificationFromJson((job.spec as { readonly specification: unknown }).specification);
  const request = readTuningSpecification(message, 'specification', { tenant: job.tenant, roles: ['tenant'] }, fields);
  fields.done();
  return request!;
}

/** The stored JSON of a job back to the message. */
export const tuningSpecificationFromJson = (json: unknown): proto.TuningSpecification => proto.TuningSpecification.fromJSON(json);
export const tuningSpecificationToJson = (message: proto.TuningSpecification): unknown => proto.TuningSpecification.toJSON(message);

function readStage(stage: proto.TuningStage, path: string, identity: Identity, fields: Fields): StageSpecification {
  fields.integer(`${path}.batch_size`, stage.batchSize, 1, 1024);
  fields.integer(`${path}.accumulation_steps`, stage.accumulationSteps, 1, 1024);
  fields.integer(`${path}.max_length_tokens`, stage.maxLengthTokens, 2, 1_048_576);
  if (stage.length?.$case === 'epochs') fields.integer(`${path}.epochs`, stage.length.value, 1, 10_000);
  if (stage.length?.$case === 'steps') fields.integer(`${path}.steps`, stage.length.value, 1, 1_000_000);
  return defined({
    architecture: readArchitecture(stage.architecture, `${path}.architecture`, fields),
    embeddings: readEmbeddings(stage.embeddings, `${path}.embeddings`, identity, fields),
    trainable: readTrainable(stage.trainable, `${path}.trainable`, fields),
    dataset: parseName('dataset', `${path}.dataset`, stage.dataset, identity, fields)?.name ?? '',
    ...readOptimizer(stage, path, fields),
    schedule: stage.schedule === undefined ? undefined : readSchedule(stage.schedule, `${path}.schedule`, fields),
    epochs: stage.length?.$case === 'epochs' ? stage.length.value : undefined,
    steps: stage.length?.$case === 'steps' ? stage.length.value : undefined,
    batchSize: stage.batchSize,
    accumulationSteps: stage.accumulationSteps,
    maxLengthTokens: stage.maxLengthTokens,
    objective: readObjective(stage, path, fields),
    labelTemplate: readLabelTemplate(stage.labelTemplate, `${path}.label_template`, fields),
    savedActivations: readSavedActivations(stage.savedActivations, `${path}.saved_activations`, fields),
    packing: stage.packing ? true : undefined,
    evaluation: readEvaluation(stage.evaluation, `${path}.evaluation`, identity, fields),
  });
}

function readSchedule(message: proto.Schedule, path: string, fields: Fields): Schedule {
  const kind = SCHEDULES[message.kind];
  if (kind === undefined) fields.add(`${path}.kind`, 'must be CONSTANT, LINEAR or COSINE');
  const { warmup, leastRatio } = message;
  fields.number(`${path}.least_ratio`, leastRatio, 0, 1);
  if (warmup?.$case === 'warmupSteps') fields.integer(`${path}.warmup_steps`, warmup.value, 0, 1_000_000);
  if (warmup?.$case === 'warmupRatio') fields.number(`${path}.warmup_ratio`, warmup.value, 0, 1);
  return defined({
    kind: kind ?? 'linear',
    warmupSteps: warmup?.$case === 'warmupSteps' ? warmup.value : undefined,
    warmupRatio: warmup?.$case === 'warmupRatio' ? warmup.value : undefined,
    leastRatio,
  });
}

/** A template with both texts; one left empty gets its default. Undefined when the message is absent. */
export function readLabelTemplate(
  message: LabelTemplate | undefined,
  path: string,
  fields: Fields,
): { prompt: string; label: string } | undefined {
  if (message === undefined) return undefined;
  const prompt = message.promptTemplate === '' ? '{text}\nLabel:' : message.promptTemplate;
  const label = message.labelTemplate === '' ? ' {label}' : message.labelTemplate;
  fields.check(
    `${path}.prompt_template`,
    prompt.includes('{text}') && prompt.length <= 65_536,
    'must hold {text} and at most 65536 characters',
  );
  fields.check(
    `${path}.label_template`,
    label.includes('{label}') && label.length <= 1024,
    'must hold {label} and at most 1024 characters',
  );
  return { prompt, label };
}

function readBaseWeights(value: proto.BaseWeights, path: string, fields: Fields): 'float32' | 'int8' | 'int4' | undefined {
  switch (value) {
    case proto.BaseWeights.BASE_WEIGHTS_UNSPECIFIED:
      return undefined;
    case proto.BaseWeights.BASE_WEIGHTS_FLOAT32:
      return 'float32';
    case proto.BaseWeights.BASE_WEIGHTS_INT8:
      return 'int8';
    case proto.BaseWeights.BASE_WEIGHTS_INT4:
      return 'int4';
    case proto.BaseWeights.UNRECOGNIZED:
      fields.add(path, 'must be FLOAT32, INT8 or INT4');
      return undefined;
  }
}

function readSavedActivations(value: proto.SavedActivations, path: string, fields: Fields): 'linear' | 'layer' | undefined {
  switch (value) {
    case proto.SavedActivations.SAVED_ACTIVATIONS_UNSPECIFIED:
      return undefined;
    case proto.SavedActivations.SAVED_ACTIVATIONS_LINEAR:
      return 'linear';
    case proto.SavedActivations.SAVED_ACTIVATIONS_LAYER:
      return 'layer';
    case proto.SavedActivations.UNRECOGNIZED:
      fields.add(path, 'must be LINEAR or LAYER');
      return undefined;
  }
}

export const SAVED_ACTIVATIONS = {
  linear: proto.SavedActivations.SAVED_ACTIVATIONS_LINEAR,
  layer: proto.SavedActivations.SAVED_ACTIVATIONS_LAYER,
} as const;
