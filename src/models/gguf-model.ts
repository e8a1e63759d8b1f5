/**
 * A GGUF file of the `llama`, `qwen2` or `qwen3` architecture as a DecoderConfig and a WeightSource under Hugging Face's names. For
 * `llama`, llama.cpp's converter reorders the rows of q and k for its interleaved rotary embedding; here they come back in the half-rotated
 * order. A tensor or setting that no field of the config stands for is refused by name.
 */
import type { FileHandle } from 'node:fs/promises';
import { LoricaError } from '../common/errors.js';
import type { GgufFile, GgufTensorInfo, GgufValue } from '../tensor/gguf.js';
import { readGgufFloat32 } from '../tensor/gguf-dequantize.js';
import type { WeightSource } from './checkpoint-types.js';
import { checkDecoderConfig } from './config-hf.js';
import { weightShapes, type DecoderConfig, type FamilyName, type RopeScaling } from './config.js';
import { checkShapes } from './weight-check.js';

const LAYER_NAMES: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm', attn_q: 'self_attn.q_proj', attn_k: 'self_attn.k_proj', attn_v: 'self_attn.v_proj', attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm', attn_k_norm: 'self_attn.k_norm', ffn_norm: 'post_attention_layernorm', ffn_gate: 'mlp.gate_proj', ffn_up: 'mlp.up_proj', ffn_down: 'mlp.down_proj',
};
const TOP_NAMES: Readonly<Record<string, string>> = {
  'token_embd.weight': 'model.embed_tokens.weight', 'output_norm.weight': 'model.norm.weight', 'output.weight': 'lm_head.weight',
};
const ROPE_DIVISORS = 'rope_freqs.weight';

function unsupported(path: string, what: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${path}: unsupported ${what}`, { hint: 'Supported: GGUF files of the architectures llama, qwen2 and qwen3, without experts.' });
}

/** The architecture that a family's files name, and whether its converter reorders the rows of q and k. */
const ARCHITECTURES: Partial<Record<FamilyName, { readonly name: string; readonly reordered: boolean }>> = {
  llama: { name: 'llama', reordered: true },
  mistral: { name: 'llama', reordered: true },
  qwen2: { name: 'qwen2', reordered: false },
  qwen3: { name: 'qwen3', reordered: false },
};

/** `general.architecture` of a family's files; undefined for a family that is not read or written as GGUF. */
export function ggufArchitecture(config: Pick<DecoderConfig, 'family'>): string | undefined {
  return ARCHITECTURES[config.family]?.name;
}

/** The GGUF name of one of Hugging Face's; `hfName` undoes it. */
export function ggufName(name: string): string {
  const top = Object.entries(TOP_NAMES).find(([, hf]) => hf === name);
  if (top !== undefined) return top[0];
  const [, layer = '', module = '', kind = ''] = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name) ?? [];
  const part = Object.entries(LAYER_NAMES).find(([, hf]) => hf === module);
  if (part === undefined) throw new LoricaError('INTERNAL', 'GRAPH_INVALID', `tensor "${name}" has no place in a GGUF file`);
  return `blk.${layer}.${part[0]}.${kind}`;
}

/** Hugging Face's name of a GGUF tensor; undefined for one that the Llama family doesn't have. */
export function hfName(name: string): string | undefined {
  if (Object.hasOwn(TOP_NAMES, name)) return TOP_NAMES[name];
  const [, layer = '', part = '', kind = ''] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name) ?? [];
  return Object.hasOwn(LAYER_NAMES, part) ? `model.layers.${Number(layer)}.${LAYER_NAMES[part] as string}.${kind}` : undefined;
}

/** Reads the config off the metadata. Throws MODEL_UNSUPPORTED naming the feature, CHECKPOINT_CORRUPT or INVALID_FIELD. */
export async function readGgufConfig(gguf: GgufFile, file: FileHandle): Promise<DecoderConfig> {
  const architecture = gguf.metadata.get('general.architecture');
  const [family] = Object.entries(ARCHITECTURES).find(([, { name }]) => name === architecture) ?? [];
  if (family === undefined || typeof architecture !== 'string') throw unsupported(gguf.path, `architecture ${JSON.stringify(architecture ?? null)}`);
  const read = (key: string): GgufValue | undefined => gguf.metadata.get(`${architecture}.${key}`);
  const number = (key: string, fallback?: number): number => {
    const value = read(key) ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value) && value > 0 && value <= 2 ** 24) return value;
    if (Array.isArray(value)) throw unsupported(gguf.path, `${architecture}.${key} that differs from layer to layer`);
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${gguf.path}: metadata ${architecture}.${key} is ${value === undefined ? 'missing' : String(value)}`);
  };
  if (((read('expert_count') as number | undefined) ?? 0) > 0) throw unsupported(gguf.path, 'mixture of experts (expert_count)');
  const heads = number('attention.head_count');
  const hiddenSize = number('embedding_length');
  const headDim = number('attention.key_length', number('rope.dimension_count', hiddenSize / heads));
  for (const key of ['attention.value_length', 'rope.dimension_count']) {
    if (number(key, headDim) !== headDim) throw unsupported(gguf.path, `${architecture}.${key} ${number(key)} with heads of ${headDim}`);
  }
  const embedding = tensor(gguf, 'token_embd.weight');
  const id = (name: string): number | undefined => {
    const value = gguf.metadata.get(`tokenizer.ggml.${name}_token_id`);
    return typeof value === 'number' ? value : undefined;
  };
  const bosTokenId = id('bos');
  const maxPositionTokens = number('context_length');
  const slidingWindowTokens = read('attention.sliding_window') === undefined ? undefined : number('attention.sliding_window');
  if (slidingWindowTokens !== undefined && architecture !== 'llama') throw unsupported(gguf.path, `${architecture}.attention.sliding_window ${slidingWindowTokens}`);
  const ropeScaling = await readRopeScaling(gguf, file, architecture, number);
  const config: DecoderConfig = {
    family: slidingWindowTokens !== undefined && slidingWindowTokens < maxPositionTokens ? 'mistral' : (family as FamilyName),
    vocabSize: embedding.shape[0] as number,
    hiddenSize,
    intermediateSize: number('feed_forward_length'),
    layers: number('block_count'),
    heads,
    kvHeads: number('attention.head_count_kv', heads),
    headDim,
    maxPositionTokens,
    ropeTheta: number('rope.freq_base', 10000),
    ...(ropeScaling && { ropeScaling }),
    rmsNormEpsilon: number('attention.layer_norm_rms_epsilon'),
    tieWordEmbeddings: !gguf.tensors.has('output.weight'),
    attentionBias: gguf.tensors.has('blk.0.attn_q.bias'),
    mlpBias: gguf.tensors.has('blk.0.ffn_gate.bias'),
    ...(slidingWindowTokens !== undefined && slidingWindowTokens < maxPositionTokens && { slidingWindowTokens }),
    ...(bosTokenId !== undefined && { bosTokenId }),
    eosTokenIds: [...new Set([id('eos'), id('eot'), id('eom')].filter((value) => value !== undefined))],
  };
  checkDecoderConfig(config);
  return config;
}

function tensor(gguf: GgufFile, name: string): GgufTensorInfo {
  const info = gguf.tensors.get(name);
  if (info === undefined) throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${gguf.path} has no tensor "${name}"`);
  return info;
}

async function readRopeScaling(gguf: GgufFile, file: FileHandle, architecture: string, number: (key: string, fallback?: number) => number): Promise<RopeScaling | undefined> {
  const divisors = gguf.tensors.get(ROPE_DIVISORS);
  if (divisors !== undefined) return { kind: 'divisors', divisors: Array.from(await readGgufFloat32(file, divisors, gguf.path)) };
  const type = gguf.metadata.get(`${architecture}.rope.scaling.type`) ?? 'none';
  if (type === 'linear') return { kind: 'linear', factor: number('rope.scaling.factor') };
  if (type !== 'none') throw unsupported(gguf.path, `${architecture}.rope.scaling.type ${JSON.stringify(type)}`);
  const legacy = number('rope.scale_linear', 1);
  return legacy === 1 ? undefined : { kind: 'linear', factor: legacy };
}

/**
 * The converter's order of rows: row h·D + 2j + i of the file is row h·D + i·D/2 + j of [heads·D, columns] in Hugging Face's
 * half-rotated order. Biases are the case of one column.
 */
function reorderRows(rows: Float32Array, heads: number, headDim: number, toFile: boolean): Float32Array {
  const columns = rows.length / (heads * headDim);
  const out = new Float32Array(rows.length);
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < headDim; row++) {
      const inFile = (head * headDim + row) * columns;
      const inMemory = (head * headDim + (row & 1) * (headDim / 2) + (row >> 1)) * columns;
      const from = toFile ? inMemory : inFile;
      out.set(rows.subarray(from, from + columns), toFile ? inFile : inMemory);
    }
  }
  return out;
}

/** The rows of q and k as llama.cpp's converter writes them. */
export function permuteRows(rows: Float32Array, heads: number, headDim: number): Float32Array {
  return reorderRows(rows, heads, headDim, true);
}

/** Undoes `permuteRows`. */
export function unpermuteRows(rows: Float32Array, heads: number, headDim: number): Float32Array {
  return reorderRows(rows, heads, headDim, false);
}

/** How many heads a tensor's rows are ordered by; undefined for one that isn't a weight or bias of q or k, or of a family whose rows stay as they are. */
export function rotaryHeads(name: string, config: DecoderConfig): number | undefined {
  if (ARCHITECTURES[config.family]?.reordered !== true) return undefined;
  const projection = /\.(q|k)_proj\.(weight|bias)$/.exec(name)?.[1];
  return projection === undefined ? undefined : projection === 'q' ? config.heads : config.kvHeads;
}

/** The tensors of an open file. Throws CHECKPOINT_CORRUPT for a missing or misshapen one, MODEL_UNSUPPORTED for one too many. */
export function ggufWeights(gguf: GgufFile, file: FileHandle, config: DecoderConfig): WeightSource {
  const byName = new Map<string, GgufTensorInfo>();
  for (const info of gguf.tensors.values()) {
    if (info.name === ROPE_DIVISORS) continue;
    const name = hfName(info.name);
    if (name === undefined) throw unsupported(gguf.path, `tensor "${info.name}"`);
    byName.set(name, info);
  }
  const shapes = weightShapes(config);
  checkShapes(gguf.path, shapes, new Map([...byName].map(([name, info]) => [name, info.shape])));
  const find = (name: string): GgufTensorInfo => {
    const info = byName.get(name);
    if (info === undefined) throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${gguf.path} has no tensor for "${name}"`);
    return info;
  };
  return {
    names: () => [...shapes.keys()],
    shape: (name) => find(name).shape,
    storedAs: (name) => find(name).type.name,
    async float32(name) {
      const values = await readGgufFloat32(file, find(name), gguf.path);
      const heads = rotaryHeads(name, config);
      return heads === undefined ? values : unpermuteRows(values, heads, config.headDim);
    },
  };
}
