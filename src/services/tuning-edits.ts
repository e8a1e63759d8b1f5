/**
 * Changes of the model before training: messages → the tuning layer's types, with the rules that need no model, and the report of
 * replaced embeddings back. Defaults are the layers' below: what a message leaves out stays out.
 */
import type { EmbeddingReport, EmbeddingsSpecification, StageSpecification } from '../tuning/index.js';
import type { Identity } from '../tenants/index.js';
import * as proto from '../gen/lorica/v1/architecture.js';
import { defined } from './defined.js';
import type { Fields } from './fields.js';
import { parseName } from './names.js';

type Architecture = NonNullable<StageSpecification['architecture']>;

const MAX_LAYERS = 1000;
const MAX_NEURONS = 1_000_000;
const MAX_WORDS = 100_000_000;

/** A value for each member of an enum; UNSPECIFIED stands for the default and stays out. */
function choice<T>(value: string, values: Readonly<Record<string, T>>, path: string, fields: Fields): T | undefined {
  const known = values[value];
  if (known === undefined && !value.endsWith('_UNSPECIFIED')) fields.add(path, 'is not one of the values of its enum');
  return known;
}

const INITIALIZATIONS = {
  [proto.LayerInitialization.LAYER_INITIALIZATION_COPY]: 'copy',
  [proto.LayerInitialization.LAYER_INITIALIZATION_FRESH]: 'fresh',
} as const;

const IMPORTANCES = {
  [proto.NeuronImportance.NEURON_IMPORTANCE_MAGNITUDE]: 'magnitude',
  [proto.NeuronImportance.NEURON_IMPORTANCE_ACTIVATION]: 'activation',
} as const;

const PROJECTIONS = {
  [proto.EmbeddingProjection.EMBEDDING_PROJECTION_RIDGE]: 'ridge',
  [proto.EmbeddingProjection.EMBEDDING_PROJECTION_ORTHOGONAL]: 'orthogonal',
  [proto.EmbeddingProjection.EMBEDDING_PROJECTION_IDENTITY]: 'identity',
} as const;

const NORMS = {
  [proto.EmbeddingNorm.EMBEDDING_NORM_ROW]: 'row',
  [proto.EmbeddingNorm.EMBEDDING_NORM_MEAN]: 'mean',
  [proto.EmbeddingNorm.EMBEDDING_NORM_NONE]: 'none',
} as const;

const HEADS = {
  [proto.EmbeddingHead.EMBEDDING_HEAD_KEEP]: 'original',
  [proto.EmbeddingHead.EMBEDDING_HEAD_TIED]: 'embeddings',
} as const;

export function readArchitecture(message: proto.ArchitectureEdits | undefined, path: string, fields: Fields): Architecture | undefined {
  if (message === undefined) return undefined;
  const layer = (field: string, value: number | undefined): void => fields.integer(`${path}.${field}`, value, 0, MAX_LAYERS);
  const neurons = (field: string, value: number): void => fields.integer(`${path}.${field}.neurons`, value, 1, MAX_NEURONS);
  message.remove.forEach((index, i) => layer(`remove[${i}]`, index));
  fields.integer(`${path}.remove_least_important`, message.removeLeastImportant, 1, MAX_LAYERS);
  const insert = message.insert.map(({ at, count, initialize, copyOf }, i) => {
    layer(`insert[${i}].at`, at);
    fields.integer(`${path}.insert[${i}].count`, count, 1, MAX_LAYERS);
    layer(`insert[${i}].copy_of`, copyOf);
    return defined({ at, count, copyOf, initialize: choice(initialize, INITIALIZATIONS, `${path}.insert[${i}].initialize`, fields) });
  });
  const growFeedForward = message.growFeedForward.map((growth, i) => {
    neurons(`grow_feed_forward[${i}]`, growth.neurons);
    return defined({ neurons: growth.neurons, layers: listed(growth.layers) });
  });
  const pruneFeedForward = message.pruneFeedForward.map((pruning, i) => {
    const at = `prune_feed_forward[${i}]`;
    neurons(at, pruning.neurons);
    const importance = choice(pruning.importance, IMPORTANCES, `${path}.${at}.importance`, fields);
    return defined({ neurons: pruning.neurons, layers: listed(pruning.layers), importance });
  });
  for (const rate of ['attention', 'residual', 'embedding'] as const)
    fields.number(`${path}.dropout.${rate}`, message.dropout?.[rate], 0, 1, { most: true });
  const edits = defined({
    insert: listed(insert),
    remove: listed(message.remove),
    removeLeastImportant: message.removeLeastImportant,
    growFeedForward: listed(growFeedForward),
    pruneFeedForward: listed(pruneFeedForward),
    dropout: message.dropout === undefined ? undefined : { ...message.dropout },
  });
  fields.check(path, Object.keys(edits).length > 0, 'must hold at least one edit');
  return edits;
}

export function readEmbeddings(
  message: proto.EmbeddingReplacement | undefined,
  path: string,
  identity: Identity,
  fields: Fields,
): EmbeddingsSpecification | undefined {
  if (message === undefined) return undefined;
  fields.integer(`${path}.max_words`, message.maxWords, 1, MAX_WORDS);
  return defined({
    source: parseName('embeddings', `${path}.source`, message.source, identity, fields)?.name ?? '',
    projection: choice(message.projection, PROJECTIONS, `${path}.projection`, fields),
    norm: choice(message.norm, NORMS, `${path}.norm`, fields),
    prefixes: message.prefixes,
    head: choice(message.head, HEADS, `${path}.head`, fields),
    maxWords: message.maxWords,
  });
}

function listed<T>(values: readonly T[]): readonly T[] | undefined {
  return values.length > 0 ? values : undefined;
}

const PROJECTIONS_USED = {
  ridge: proto.EmbeddingProjection.EMBEDDING_PROJECTION_RIDGE,
  orthogonal: proto.EmbeddingProjection.EMBEDDING_PROJECTION_ORTHOGONAL,
  identity: proto.EmbeddingProjection.EMBEDDING_PROJECTION_IDENTITY,
} as const;

export function embeddingReportMessage({ source, tokens, dataShares, projection, heldOut }: EmbeddingReport): proto.EmbeddingReport {
  return {
    words: source.words,
    continuations: source.continuations,
    dimension: source.dimension,
    tokens: { ...tokens },
    dataShares: dataShares === undefined ? undefined : { ...dataShares },
    projection: PROJECTIONS_USED[projection],
    fit:
      heldOut === undefined
        ? undefined
        : { tokens: heldOut.tokens, cosine: heldOut.cosine, baselineCosine: heldOut.meanRowCosine, vectorCosine: heldOut.centredCosine },
  };
}
