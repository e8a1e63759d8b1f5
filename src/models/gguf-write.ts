/**
 * Writes a model as one GGUF file of its family's architecture, as llama.cpp's converter lays it out: rows of q and k in the
 * converter's order, norms and biases in float32, linear weights and the embedding in the storage asked for. Tensors are read
 * one at a time; the file is whole or absent.
 */
import { LoricaError } from '../common/errors.js';
import { elementCount } from '../tensor/dtype.js';
import type { GgufStorage } from '../tensor/gguf-quantize.js';
import { writeGguf, type GgufField, type GgufTensorContent } from '../tensor/gguf-write.js';
import type { WeightSource } from './checkpoint-types.js';
import { ropeFrequencies } from './config-rope.js';
import { familyOf, weightShapes, type DecoderConfig } from './config.js';
import { ggufArchitecture, ggufName, permuteRows, rotaryHeads } from './gguf-model.js';
import { ggufTokenizerFields } from './tokenizer-gguf-write.js';

export interface GgufModelContent {
  /** `general.name`. */
  readonly name: string;
  readonly config: DecoderConfig;
  /** Every tensor of `weightShapes(config)`. */
  readonly weights: Pick<WeightSource, 'float32'>;
  readonly storage: GgufStorage;
  /** A parsed tokenizer.json. */
  readonly tokenizerJson: unknown;
  /** The chat template's text. */
  readonly chatTemplate?: string;
}

/** `general.file_type` of the GGUF specification. */
const FILE_TYPES: Readonly<Record<GgufStorage, number>> = { F32: 0, F16: 1, Q8_0: 7 };

/**
 * Throws MODEL_UNSUPPORTED for a tokenizer or values that the file can't hold, GRAPH_INVALID for a tensor of another size,
 * STORAGE_FULL or STORAGE_FAILED when it can't be written.
 */
export async function writeGgufModel(path: string, content: GgufModelContent): Promise<void> {
  const { config, tokenizerJson, chatTemplate } = content;
  const metadata = modelFields(content);
  const source = { json: tokenizerJson, eosTokenIds: config.eosTokenIds, vocabSize: config.vocabSize, label: content.name };
  const tokenizer = ggufTokenizerFields({ ...source, ...(config.bosTokenId !== undefined && { bosTokenId: config.bosTokenId }) });
  for (const [key, field] of tokenizer) metadata.set(key, field);
  if (chatTemplate !== undefined) metadata.set('tokenizer.chat_template', { type: 'string', value: chatTemplate });
  const tensors = [...weightShapes(config)].map(([name, shape]) => tensor(content, name, shape));
  const divisors = ropeDivisors(config);
  if (divisors !== undefined) {
    tensors.push({ name: 'rope_freqs.weight', shape: [divisors.length], storage: 'F32', values: () => Promise.resolve(divisors) });
  }
  await writeGguf(path, { metadata, tensors });
}

function tensor({ config, weights, storage }: GgufModelContent, name: string, shape: readonly number[]): GgufTensorContent {
  const columns = shape.at(-1) as number;
  // Rows that are no whole blocks stay float16, as llama.cpp's converter has it.
  const chosen = shape.length === 1 ? 'F32' : storage === 'Q8_0' && columns % 32 !== 0 ? 'F16' : storage;
  return {
    name: ggufName(name),
    shape,
    storage: chosen,
    async values() {
      const values = await weights.float32(name);
      if (values.length !== elementCount(shape)) {
        throw new LoricaError('INTERNAL', 'GRAPH_INVALID', `tensor "${name}" has ${values.length} elements, [${shape.join(',')}] is needed`);
      }
      const heads = rotaryHeads(name, config);
      return heads === undefined ? values : permuteRows(values, heads, config.headDim);
    },
  };
}

function modelFields({ name, config, storage }: GgufModelContent): Map<string, GgufField> {
  const architecture = ggufArchitecture(config);
  const refused = (what: string): LoricaError =>
    new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${what} of the ${familyOf(config).title} family are not written as GGUF`, { hint: 'Export a Hugging Face folder.' });
  if (architecture === undefined) throw refused('models');
  // What llama.cpp does not read in files of these architectures.
  if (architecture !== 'llama' && config.slidingWindowTokens !== undefined) throw refused('sliding windows');
  if (architecture !== 'llama' && config.ropeScaling !== undefined && config.ropeScaling.kind !== 'linear') throw refused(`${config.ropeScaling.kind} rotary scalings`);
  if (config.intermediateSizes !== undefined) {
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', 'llama.cpp reads one feed-forward width for all layers of a llama model');
  }
  const fields = new Map<string, GgufField>([
    ['general.architecture', { type: 'string', value: architecture }],
    ['general.name', { type: 'string', value: name }],
    ['general.file_type', { type: 'uint32', value: FILE_TYPES[storage] }],
    ['general.quantization_version', { type: 'uint32', value: 2 }],
  ]);
  const counts: Record<string, number | undefined> = {
    vocab_size: config.vocabSize,
    context_length: config.maxPositionTokens,
    embedding_length: config.hiddenSize,
    block_count: config.layers,
    feed_forward_length: config.intermediateSize,
    'attention.head_count': config.heads,
    'attention.head_count_kv': config.kvHeads,
    'attention.key_length': config.headDim,
    'attention.value_length': config.headDim,
    'rope.dimension_count': config.headDim,
    'attention.sliding_window': config.slidingWindowTokens,
  };
  for (const [key, value] of Object.entries(counts)) if (value !== undefined) fields.set(`${architecture}.${key}`, { type: 'uint32', value });
  fields.set(`${architecture}.attention.layer_norm_rms_epsilon`, { type: 'float32', value: config.rmsNormEpsilon });
  fields.set(`${architecture}.rope.freq_base`, { type: 'float32', value: config.ropeTheta });
  if (config.ropeScaling?.kind === 'linear') {
    fields.set(`${architecture}.rope.scaling.type`, { type: 'string', value: 'linear' });
    fields.set(`${architecture}.rope.scaling.factor`, { type: 'float32', value: config.ropeScaling.factor });
  }
  return fields;
}

/** Unscaled over scaled frequency, [headDim/2]: the form in which GGUF carries scalings other than a linear one. */
function ropeDivisors(config: DecoderConfig): Float32Array | undefined {
  const { ropeScaling, headDim, ropeTheta } = config;
  if (ropeScaling === undefined || ropeScaling.kind === 'linear') return undefined;
  if (ropeScaling.kind === 'divisors') return Float32Array.from(ropeScaling.divisors);
  const scaled = ropeFrequencies(config);
  return ropeFrequencies({ headDim, ropeTheta }).map((frequency, i) => frequency / (scaled[i] as number));
}
