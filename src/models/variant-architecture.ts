/**
 * The model that a variant is, where its architecture is not its base's: its config, its tensors, and which of them are the base's
 * under what name. Invariant: the description and the base's config say everything; no file of the variant is read here.
 */
import { LoricaError } from '../common/errors.js';
import { feedForwardSize, localLayersOf, weightShapes, type DecoderConfig } from './config.js';
import { EMBEDDING_WEIGHT, HEAD_WEIGHT, layerPrefix } from './decoder.js';

/** As the adapter registry keeps it (src/adapters/adapter.ts). */
export interface VariantArchitecture {
  /** Of every layer the base's layer whose tensors it has where the variant holds none of its own. */
  readonly layerOrigins: readonly number[];
  /** F of every layer. */
  readonly intermediateSizes: readonly number[];
  readonly tieWordEmbeddings: boolean;
}

const MAX_LAYERS = 1024;
const MAX_INTERMEDIATE_SIZE = 2 ** 24;

/** The variant's config; the base's where there is no architecture. Throws INVALID_ARGUMENT / ADAPTER_INCOMPATIBLE where it can't be of this base. */
export function variantConfig(base: DecoderConfig, architecture: VariantArchitecture | undefined): DecoderConfig {
  if (architecture === undefined) return base;
  const { layerOrigins, intermediateSizes, tieWordEmbeddings } = architecture;
  const problem = problemOf(base, architecture);
  if (problem !== undefined) throw new LoricaError('INVALID_ARGUMENT', 'ADAPTER_INCOMPATIBLE', `the variant's architecture does not fit the base: ${problem}`);
  const { intermediateSizes: _, ...rest } = base;
  const intermediateSize = Math.max(...intermediateSizes);
  const alike = intermediateSizes.every((size) => size === intermediateSize);
  return { ...rest, layers: layerOrigins.length, intermediateSize, ...(alike ? {} : { intermediateSizes }), ...localLayersOf(base, layerOrigins), tieWordEmbeddings };
}

function problemOf(base: DecoderConfig, { layerOrigins, intermediateSizes, tieWordEmbeddings }: VariantArchitecture): string | undefined {
  const { length } = layerOrigins;
  if (length < 1 || length > MAX_LAYERS) return `${length} layers, possible are 1 to ${MAX_LAYERS}`;
  if (intermediateSizes.length !== length) return `${intermediateSizes.length} feed-forward widths for ${length} layers`;
  const origin = layerOrigins.find((layer) => !Number.isInteger(layer) || layer < 0 || layer >= base.layers);
  if (origin !== undefined) return `layer ${origin} of a base with ${base.layers}`;
  const width = intermediateSizes.find((size) => !Number.isInteger(size) || size < 1 || size > MAX_INTERMEDIATE_SIZE);
  if (width !== undefined) return `a feed-forward width of ${width}`;
  return tieWordEmbeddings && !base.tieWordEmbeddings ? 'a tied head, the base has one of its own' : undefined;
}

const LAYER_TENSOR = /^model\.layers\.(\d+)\./;

/** Name in the base of a tensor that the variant does not hold: its layer's origin's, and the embedding for the head that a tied base leaves. */
export function variantOrigin(base: DecoderConfig, architecture: VariantArchitecture | undefined, name: string): string {
  if (architecture === undefined) return name;
  if (name === HEAD_WEIGHT && base.tieWordEmbeddings) return EMBEDDING_WEIGHT;
  const layer = LAYER_TENSOR.exec(name)?.[1];
  if (layer === undefined) return name;
  return layerPrefix(architecture.layerOrigins[Number(layer)]!) + name.slice(layerPrefix(Number(layer)).length);
}

/** Every tensor of a variant's model, and those that it must hold itself because its base has none of their shape. */
export interface VariantFit {
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  readonly required: ReadonlySet<string>;
}

/** What variants of a base may and must hold, by architecture; throws as `variantConfig`. */
export function variantFit(base: DecoderConfig): (architecture: VariantArchitecture | undefined) => VariantFit {
  return (architecture) => {
    const own = weightShapes(base);
    const shapes = weightShapes(variantConfig(base, architecture));
    const required = [...shapes].filter(([name, shape]) => own.get(variantOrigin(base, architecture, name))?.join() !== shape.join());
    return { shapes, required: new Set(required.map(([name]) => name)) };
  };
}

/** Whether an architecture says nothing but what the base is. */
export function isOfBase(base: DecoderConfig, { layerOrigins, intermediateSizes, tieWordEmbeddings }: VariantArchitecture): boolean {
  return layerOrigins.length === base.layers && tieWordEmbeddings === base.tieWordEmbeddings
    && layerOrigins.every((origin, layer) => origin === layer && intermediateSizes[layer] === feedForwardSize(base, layer));
}
