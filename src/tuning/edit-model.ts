/**
 * Edits of the base before training: architecture first, then embeddings. A function of the base, the first stage, its rows, the word
 * vectors and the seed alone, so that a job that goes on from a checkpoint makes the starting model again instead of keeping it.
 */
import { EMBEDDING_WEIGHT, HEAD_WEIGHT } from '../models/decoder.js';
import { editArchitecture, expectedConfig } from '../models/architecture.js';
import type { Checkpoint } from '../models/checkpoint.js';
import type { DecoderConfig } from '../models/config.js';
import { checkHeadChoice, replaceEmbeddings, tokenTexts, withEmbeddings, type WordVectors } from '../models/pretrained-embeddings.js';
import type { TokenRow } from './batches.js';
import { measureImportance } from './importance.js';
import type { EmbeddingsSpecification, StageSpecification } from './specification.js';
import { bareBase, type StartingModel } from './starting-model.js';
import type { BaseLease } from './training-host.js';

type Edits = Pick<StageSpecification, 'architecture' | 'embeddings'>;

/**
 * The config that a job will train, known before anything is measured: which layers are removed by importance changes no name in it.
 * Throws INVALID_ARGUMENT / INVALID_FIELD with paths below `path`, the stage's.
 */
export function startingConfig({ architecture, embeddings }: Edits, config: DecoderConfig, path: string): DecoderConfig {
  const edited = architecture === undefined ? config : expectedConfig(config, architecture, `${path}.architecture`);
  if (embeddings === undefined) return edited;
  return { ...edited, tieWordEmbeddings: checkHeadChoice(edited, embeddings.head, `${path}.embeddings`) };
}

export interface StartingInput {
  readonly lease: BaseLease;
  readonly checkpoint: Pick<Checkpoint, 'config' | 'weights' | 'tokenizer'>;
  /** The first stage. */
  readonly stage: Edits;
  /** Its rows; asked for only where something is measured on them. */
  readonly rows: () => Promise<readonly TokenRow[]>;
  readonly vectors: (source: EmbeddingsSpecification) => Promise<WordVectors>;
  readonly seed: number;
  readonly signal: AbortSignal | undefined;
}

/** Edits the base. Throws INVALID_ARGUMENT / INVALID_FIELD, CANCELLED, and what `vectors` and reading weights throw. */
export async function startingModel(input: StartingInput, path = 'specification.stages[0]'): Promise<StartingModel> {
  const { checkpoint: { config }, stage: { architecture, embeddings } } = input;
  const edited = architecture === undefined ? bareBase(config) : await withArchitecture(input, architecture, `${path}.architecture`);
  return embeddings === undefined ? edited : withVectors(input, embeddings, edited, `${path}.embeddings`);
}

async function withArchitecture(input: StartingInput, edits: NonNullable<Edits['architecture']>, path: string): Promise<StartingModel> {
  const { checkpoint: { config, weights }, seed, signal } = input;
  const measured = await measureImportance({ ...input, edits });
  const model = await editArchitecture({ config, edits, weights, measured, seed, ...(signal === undefined ? {} : { signal }) }, path);
  return { config: model.config, layerOrigins: model.layers.map(({ base }) => base), unchanged: model.unchanged, made: model.made, dropout: model.dropout };
}

async function withVectors(input: StartingInput, options: EmbeddingsSpecification, start: StartingModel, path: string): Promise<StartingModel> {
  const { checkpoint, seed, signal } = input;
  const { vocabSize, hiddenSize } = start.config;
  const { projection, norm, prefixes, head } = options;
  const original = await checkpoint.weights.float32(EMBEDDING_WEIGHT);
  const { embeddings, report } = await replaceEmbeddings({
    source: await input.vectors(options), texts: tokenTexts(checkpoint.tokenizer, vocabSize), original, hiddenSize, seed,
    counts: countTokens(await input.rows(), vocabSize),
    ...(projection === undefined ? {} : { projection }), ...(norm === undefined ? {} : { norm }), ...(prefixes === undefined ? {} : { prefixes }),
    ...(signal === undefined ? {} : { signal }),
  }, path);
  const { config, tensors } = withEmbeddings({ config: start.config, original, embeddings, ...(head === undefined ? {} : { head }) }, path);
  const unchanged = new Map(start.unchanged);
  unchanged.delete(EMBEDDING_WEIGHT);
  // The head that a tied embedding leaves behind is the base's embedding.
  if (tensors.has(HEAD_WEIGHT)) unchanged.set(HEAD_WEIGHT, EMBEDDING_WEIGHT);
  return { ...start, config, unchanged, made: new Map([...start.made, [EMBEDDING_WEIGHT, embeddings]]), embeddings: report };
}

/** How often each token is fed, [V]. */
function countTokens(rows: readonly TokenRow[], vocabSize: number): Float64Array {
  const counts = new Float64Array(vocabSize);
  for (const { inputs } of rows) for (const token of inputs) counts[token]!++;
  return counts;
}
