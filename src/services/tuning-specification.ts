/**
 * The tuning specification's message → the tuning layer's type, with every rule that needs no model checked and named by its
 * field path. Defaults are the tuning layer's: what the message leaves out stays out.
 */
import type {
  Component,
  Layers,
  LoraSelection,
  Schedule,
  StageSpecification,
  TrainableSelection,
  TuningSpecification,
} from '../tuning/index.js';
import type { Identity } from '../tenants/index.js';
import type { LabelTemplate } from '../gen/lorica/v1/types.js';
import * as proto from '../gen/lorica/v1/tuning.js';
import { defined } from './defined.js';
import { Fields } from './fields.js';
import { modelName, parseModelName, parseName } from './names.js';
import { readObjective } from './tuning-objective.js';

/** What a tuning job is created from. */
export interface TuningRequest {
  readonly specification: TuningSpecification;
  readonly adapter: string;
  readonly alias: string | undefined;
  /** The message with canonical names (never `tenants/-`), as it is stored with the job. */
  readonly canonical: proto.TuningSpecification;
}

const LINEAR_MODULES = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
const MAX_INTEGER = Number.MAX_SAFE_INTEGER;
const MAX_LAYERS = 1000;
const NAME_PATTERN = /^[\w.*]{1,256}$/;
const NAME_PATTERN_RULE = 'must be letters, digits, dots, underscores and *, 1 to 256';

const COMPONENTS: Partial<Record<proto.Component, Component>> = {
  [proto.Component.COMPONENT_ATTENTION]: 'attention',
  [proto.Component.COMPONENT_FEED_FORWARD]: 'feedForward',
  [proto.Component.COMPONENT_EMBEDDINGS]: 'embeddings',
  [proto.Component.COMPONENT_NORMS]: 'norms',
  [proto.Component.COMPONENT_HEAD]: 'head',
  [proto.Component.COMPONENT_BIASES]: 'biases',
};

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
    }),
    adapter: message.adapterId,
    alias: message.alias === '' ? undefined : message.alias,
    canonical: {
      ...message,
      baseModel: modelName(baseModel),
      stages: message.stages.map((stage, i) => ({ ...stage, dataset: stages[i]?.dataset ?? stage.dataset })),
    },
  };
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
  const optimizer = stage.optimizer;
  const at = `${path}.optimizer`;
  fields.number(`${at}.learning_rate`, optimizer?.learningRate, 0, 1, { least: true });
  fields.number(`${at}.weight_decay`, optimizer?.weightDecay, 0, 10);
  fields.number(`${at}.beta1`, optimizer?.beta1, 0, 1, { most: true });
  fields.number(`${at}.beta2`, optimizer?.beta2, 0, 1, { most: true });
  fields.number(`${at}.epsilon`, optimizer?.epsilon, 0, Infinity, { least: true });
  fields.number(`${at}.max_gradient_norm`, optimizer?.maxGradientNorm, 0, Infinity);
  fields.check(
    `${at}.learning_rate`,
    optimizer?.learningRate === undefined || !optimizer.autoLearningRate,
    'can not be given together with auto_learning_rate',
  );
  fields.number(`${at}.layer_decay`, optimizer?.layerDecay, 0, 1, { least: true });
  optimizer?.rateGroups.forEach(({ pattern, multiplier }, i) => {
    fields.check(`${at}.rate_groups[${i}].pattern`, NAME_PATTERN.test(pattern), NAME_PATTERN_RULE);
    fields.number(`${at}.rate_groups[${i}].multiplier`, multiplier, 0, 1000, { least: true });
  });
  fields.integer(`${path}.batch_size`, stage.batchSize, 1, 1024);
  fields.integer(`${path}.accumulation_steps`, stage.accumulationSteps, 1, 1024);
  fields.integer(`${path}.max_length_tokens`, stage.maxLengthTokens, 2, 1_048_576);
  if (stage.length?.$case === 'epochs') fields.integer(`${path}.epochs`, stage.length.value, 1, 10_000);
  if (stage.length?.$case === 'steps') fields.integer(`${path}.steps`, stage.length.value, 1, 1_000_000);
  const betas =
    optimizer?.beta1 === undefined && optimizer?.beta2 === undefined
      ? undefined
      : ([optimizer.beta1 ?? 0.9, optimizer.beta2 ?? 0.999] as const);
  return defined({
    trainable: readTrainable(stage.trainable, `${path}.trainable`, fields),
    dataset: parseName('dataset', `${path}.dataset`, stage.dataset, identity, fields)?.name ?? '',
    learningRate: optimizer?.autoLearningRate === true ? ('auto' as const) : optimizer?.learningRate,
    layerDecay: optimizer?.layerDecay,
    rateGroups: optimizer === undefined || optimizer.rateGroups.length === 0 ? undefined : optimizer.rateGroups,
    schedule: stage.schedule === undefined ? undefined : readSchedule(stage.schedule, `${path}.schedule`, fields),
    epochs: stage.length?.$case === 'epochs' ? stage.length.value : undefined,
    steps: stage.length?.$case === 'steps' ? stage.length.value : undefined,
    batchSize: stage.batchSize,
    accumulationSteps: stage.accumulationSteps,
    maxLengthTokens: stage.maxLengthTokens,
    weightDecay: optimizer?.weightDecay,
    decayNorms: optimizer?.decayNorms,
    betas,
    epsilon: optimizer?.epsilon,
    maxGradientNorm: optimizer?.maxGradientNorm,
    objective: readObjective(stage, path, fields),
    labelTemplate: readLabelTemplate(stage.labelTemplate, `${path}.label_template`, fields),
    savedActivations: readSavedActivations(stage.savedActivations, `${path}.saved_activations`, fields),
    packing: stage.packing ? true : undefined,
  });
}

function readTrainable(trainable: proto.Trainable | undefined, path: string, fields: Fields, insideUnion = false): TrainableSelection {
  const of = readSelection(trainable, path, fields, insideUnion);
  if (trainable === undefined || (trainable.exclude.length === 0 && trainable.excludeLayers.length === 0)) return of;
  readNamePatterns(`${path}.exclude`, trainable.exclude, fields);
  const layers = readLayers(path, [], trainable.excludeLayers, fields, `${path}.exclude_layers`);
  return { kind: 'except', of, patterns: trainable.exclude, ...(layers === undefined ? {} : { layers }) };
}

function readNamePatterns(path: string, patterns: readonly string[], fields: Fields): void {
  patterns.forEach((pattern, i) => fields.check(`${path}[${i}]`, NAME_PATTERN.test(pattern), NAME_PATTERN_RULE));
}

function readSelection(trainable: proto.Trainable | undefined, path: string, fields: Fields, insideUnion: boolean): TrainableSelection {
  const selection = trainable?.selection;
  switch (selection?.$case) {
    case 'full':
      return { kind: 'full' };
    case 'lastLayers': {
      const { layers, includeHead, includeNorm } = selection.value;
      fields.integer(`${path}.last_layers.layers`, layers, 1, MAX_LAYERS);
      return { kind: 'lastLayers', layers, includeHead, includeNorm };
    }
    case 'layers': {
      const indices = readLayers(
        `${path}.layers.indices`,
        selection.value.indices,
        selection.value.ranges,
        fields,
        `${path}.layers.ranges`,
      );
      fields.check(`${path}.layers.indices`, indices !== undefined, 'must name at least one layer');
      return { kind: 'layers', indices: indices ?? [] };
    }
    case 'components':
      return readComponents(selection.value, `${path}.components`, fields);
    case 'names':
      fields.check(`${path}.names.patterns`, selection.value.patterns.length > 0, 'must hold at least one pattern');
      readNamePatterns(`${path}.names.patterns`, selection.value.patterns, fields);
      return { kind: 'names', patterns: selection.value.patterns };
    case 'lora':
      return readLora(selection.value, `${path}.lora`, fields);
    case 'union': {
      const { selections } = selection.value;
      fields.check(`${path}.union`, !insideUnion, 'can not be part of a union; list its selections instead');
      fields.check(`${path}.union.selections`, selections.length >= 2, 'must hold at least two selections');
      if (insideUnion) return { kind: 'union', of: [] };
      return { kind: 'union', of: selections.map((one, i) => readTrainable(one, `${path}.union.selections[${i}]`, fields, true)) };
    }
    case undefined:
      fields.add(path, 'is required: one of full, last_layers, layers, components, names, lora, union');
      return { kind: 'full' };
  }
}

/** Indices and ranges as one list; undefined when both are empty. */
function readLayers(
  path: string,
  layers: readonly number[],
  ranges: readonly proto.LayerRange[],
  fields: Fields,
  rangesPath: string,
): readonly Layers[] | undefined {
  layers.forEach((layer, i) => fields.integer(`${path}[${i}]`, layer, 0, MAX_LAYERS - 1));
  fields.distinct(path, layers);
  ranges.forEach(({ first, last }, i) => {
    const at = `${rangesPath}[${i}]`;
    fields.integer(`${at}.first`, first, 0, MAX_LAYERS - 1);
    fields.integer(`${at}.last`, last, 0, MAX_LAYERS - 1);
    fields.check(at, first <= last, `must end at or after layer ${first}, not at ${last}`);
  });
  return layers.length + ranges.length === 0 ? undefined : [...layers, ...ranges];
}

function readComponents(message: proto.ComponentsSelection, path: string, fields: Fields): TrainableSelection {
  fields.check(`${path}.components`, message.components.length > 0, 'must name at least one component');
  fields.distinct(`${path}.components`, message.components);
  const layers = readLayers(`${path}.layers`, message.layers, message.ranges, fields, `${path}.ranges`);
  const components = message.components.flatMap((component, i) => {
    const known = COMPONENTS[component];
    if (known === undefined)
      fields.add(`${path}.components[${i}]`, 'must be one of ATTENTION, FEED_FORWARD, EMBEDDINGS, NORMS, HEAD, BIASES');
    return known ?? [];
  });
  return { kind: 'components', components, ...(layers === undefined ? {} : { layers }) };
}

function readLora(message: proto.LoraSelection, path: string, fields: Fields): LoraSelection {
  fields.integer(`${path}.rank`, message.rank, 1, 256);
  fields.number(`${path}.alpha`, message.alpha, 0, 4096, { least: true });
  message.targetModules.forEach((module, i) =>
    fields.check(
      `${path}.target_modules[${i}]`,
      LINEAR_MODULES.includes(module),
      `must be one of ${LINEAR_MODULES.join(', ')}, not ${JSON.stringify(module)}`,
    ),
  );
  fields.distinct(`${path}.target_modules`, message.targetModules);
  const layers = readLayers(`${path}.layers`, message.layers, message.ranges, fields, `${path}.ranges`);
  fields.number(`${path}.dropout`, message.dropout, 0, 0.9);
  message.modulePatterns.forEach(({ pattern, rank, alpha }, i) => {
    const at = `${path}.module_patterns[${i}]`;
    fields.check(`${at}.pattern`, NAME_PATTERN.test(pattern), NAME_PATTERN_RULE);
    fields.check(at, rank !== undefined || alpha !== undefined, 'must hold a rank or an alpha');
    fields.integer(`${at}.rank`, rank, 1, 256);
    fields.number(`${at}.alpha`, alpha, 0, 4096, { least: true });
  });
  return defined({
    kind: 'lora' as const,
    rank: message.rank ?? 16,
    alpha: message.alpha,
    targetModules: message.targetModules.length > 0 ? message.targetModules : undefined,
    layers,
    rsLora: message.rsLora,
    dropout: message.dropout,
    dora: message.dora ? true : undefined,
    modulePatterns:
      message.modulePatterns.length > 0
        ? message.modulePatterns.map(({ pattern, rank, alpha }) => defined({ pattern, rank, alpha }))
        : undefined,
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
