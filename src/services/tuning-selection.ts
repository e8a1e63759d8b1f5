/** The message of a trainable selection → the tuning layer's type, every rule that needs no model checked and named by its field path. */
import type { Component, Layers, LoraSelection, TrainableSelection } from '../tuning/index.js';
import * as proto from '../gen/lorica/v1/tuning.js';
import { defined } from './defined.js';
import type { Fields } from './fields.js';

const LINEAR_MODULES = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
const MAX_LAYERS = 1000;
/** A pattern on names of parameters. */
export const NAME_PATTERN = /^[\w.*]{1,256}$/;
export const NAME_PATTERN_RULE = 'must be letters, digits, dots, underscores and *, 1 to 256';

const COMPONENTS: Partial<Record<proto.Component, Component>> = {
  [proto.Component.COMPONENT_ATTENTION]: 'attention',
  [proto.Component.COMPONENT_FEED_FORWARD]: 'feedForward',
  [proto.Component.COMPONENT_EMBEDDINGS]: 'embeddings',
  [proto.Component.COMPONENT_NORMS]: 'norms',
  [proto.Component.COMPONENT_HEAD]: 'head',
  [proto.Component.COMPONENT_BIASES]: 'biases',
};

export function readTrainable(
  trainable: proto.Trainable | undefined,
  path: string,
  fields: Fields,
  insideUnion = false,
): TrainableSelection {
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
