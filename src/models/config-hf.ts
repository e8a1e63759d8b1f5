/**
 * Hugging Face's config.json to and from DecoderConfig. Defaults are those of the reference classes (LlamaConfig,
 * MistralConfig); a field whose value changes the computation in a way the graphs don't know is refused by name.
 */
import { invalidFields, LoricaError, type FieldViolation } from '../common/errors.js';
import type { DecoderConfig, RopeScaling } from './config-decoder.js';
import { parseQuantization } from './hf-quantized.js';

type Json = Record<string, unknown>;

const FAMILIES: Readonly<Record<string, { readonly kvHeads?: number; readonly maxPositionTokens: number; readonly slidingWindow: number | null }>> = {
  llama: { maxPositionTokens: 2048, slidingWindow: null },
  mistral: { kvHeads: 8, maxPositionTokens: 131072, slidingWindow: 4096 },
};

/** Builds a config from named numbers and collects what is wrong with them. */
class Fields {
  readonly violations: FieldViolation[] = [];
  constructor(private readonly json: Json, private readonly prefix = '') {}

  fail(field: string, description: string): void {
    this.violations.push({ field: this.prefix + field, description });
  }

  number(field: string, fallback?: number): number {
    const value = this.json[field] ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    this.fail(field, value === undefined ? 'is missing' : `must be a positive number, not ${JSON.stringify(value)}`);
    return 1;
  }

  count(field: string, fallback?: number, most = 2 ** 24): number {
    const value = this.number(field, fallback);
    if (Number.isInteger(value) && value <= most) return value;
    this.fail(field, `must be a whole number of at most ${most}, not ${value}`);
    return 1;
  }

  boolean(field: string, fallback: boolean): boolean {
    const value = this.json[field] ?? fallback;
    if (typeof value === 'boolean') return value;
    this.fail(field, `must be true or false, not ${JSON.stringify(value)}`);
    return fallback;
  }
}

function unsupported(what: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `unsupported model: ${what}`, {
    hint: 'Supported: the Llama family (Llama 2 and 3, SmolLM2, TinyLlama, Mistral) with SiLU and full, linear or llama3-scaled rotary positions.',
  });
}

function refuseUnsupported(json: Json): void {
  const type = json['model_type'];
  const architectures = json['architectures'];
  const named = Array.isArray(architectures) ? architectures.map(String).join(', ') : undefined;
  if (typeof type !== 'string' || !Object.hasOwn(FAMILIES, type)) throw unsupported(`architecture ${JSON.stringify(type ?? named ?? null)}`);
  if (named !== undefined && !/^(Llama|Mistral)ForCausalLM$/.test(named)) throw unsupported(`architecture "${named}"`);
  const activation = json['hidden_act'] ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') throw unsupported(`hidden_act ${JSON.stringify(activation)}`);
  parseQuantization(json);
  if ((json['partial_rotary_factor'] ?? 1) !== 1) throw unsupported(`partial_rotary_factor ${String(json['partial_rotary_factor'])}`);
}

function parseRope(json: Json, violations: FieldViolation[]): { theta: number; scaling?: RopeScaling } {
  const given = json['rope_parameters'] ?? json['rope_scaling'];
  const rope = (typeof given === 'object' && given !== null ? given : {}) as Json;
  const fields = new Fields({ ...rope, rope_theta: rope['rope_theta'] ?? json['rope_theta'] ?? 10000 }, 'rope_scaling.');
  const theta = fields.number('rope_theta');
  const kind = rope['rope_type'] ?? rope['type'] ?? 'default';
  let scaling: RopeScaling | undefined;
  if (kind === 'linear') scaling = { kind, factor: fields.number('factor') };
  else if (kind === 'llama3') {
    scaling = {
      kind,
      factor: fields.number('factor'),
      lowFrequencyFactor: fields.number('low_freq_factor'),
      highFrequencyFactor: fields.number('high_freq_factor'),
      originalMaxPositionTokens: fields.count('original_max_position_embeddings'),
    };
    if (scaling.highFrequencyFactor <= scaling.lowFrequencyFactor) fields.fail('high_freq_factor', 'must be above low_freq_factor');
  } else if (kind !== 'default') throw unsupported(`rope_scaling type ${JSON.stringify(kind)}`);
  violations.push(...fields.violations);
  return { theta, ...(scaling && { scaling }) };
}

function tokenIds(value: unknown): number[] {
  const list = Array.isArray(value) ? value : value == null ? [] : [value];
  return list.filter((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0);
}

/** Reads a config.json. Throws MODEL_UNSUPPORTED naming the feature, or INVALID_FIELD listing every impossible field. */
export function parseHfConfig(value: unknown): DecoderConfig {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalidFields([{ field: 'config.json', description: 'is not a JSON object' }]);
  }
  const json = value as Json;
  refuseUnsupported(json);
  const family = FAMILIES[json['model_type'] as string] as (typeof FAMILIES)[string];
  const fields = new Fields(json);
  const rope = parseRope(json, fields.violations);
  const heads = fields.count('num_attention_heads');
  const hiddenSize = fields.count('hidden_size');
  const maxPositionTokens = fields.count('max_position_embeddings', family.maxPositionTokens);
  const window = json['sliding_window'] === undefined ? family.slidingWindow : json['sliding_window'];
  const slidingWindowTokens = window === null ? undefined : fields.count('sliding_window', window as number);
  const bosTokenId = tokenIds(json['bos_token_id'])[0];
  const config: DecoderConfig = {
    family: 'llama',
    vocabSize: fields.count('vocab_size'),
    hiddenSize,
    intermediateSize: fields.count('intermediate_size'),
    layers: fields.count('num_hidden_layers', undefined, 4096),
    heads,
    kvHeads: fields.count('num_key_value_heads', family.kvHeads ?? heads),
    headDim: fields.count('head_dim', hiddenSize / heads),
    maxPositionTokens,
    ropeTheta: rope.theta,
    ...(rope.scaling && { ropeScaling: rope.scaling }),
    rmsNormEpsilon: fields.number('rms_norm_eps', 1e-6),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    attentionBias: fields.boolean('attention_bias', false),
    mlpBias: fields.boolean('mlp_bias', false),
    ...(slidingWindowTokens !== undefined && slidingWindowTokens < maxPositionTokens && { slidingWindowTokens }),
    ...(bosTokenId !== undefined && { bosTokenId }),
    eosTokenIds: tokenIds(json['eos_token_id']),
  };
  checkDecoderConfig(config, fields.violations);
  return config;
}

/** Checks what holds between the fields. Throws INVALID_FIELD listing these and the violations found before. */
export function checkDecoderConfig(config: DecoderConfig, before: readonly FieldViolation[] = []): void {
  const violations = [...before];
  if (config.heads % config.kvHeads !== 0) {
    violations.push({ field: 'num_key_value_heads', description: `${config.kvHeads} does not divide num_attention_heads ${config.heads}` });
  }
  const sizes = config.intermediateSizes;
  if (sizes !== undefined && (sizes.length !== config.layers || !sizes.every((f) => Number.isInteger(f) && f > 0) || Math.max(...sizes) !== config.intermediateSize)) {
    violations.push({ field: 'intermediate_sizes', description: `must hold ${config.layers} whole numbers above 0, the greatest of them ${config.intermediateSize}` });
  }
  if (config.headDim % 2 !== 0) violations.push({ field: 'head_dim', description: `must be even, not ${config.headDim}` });
  const divisors = config.ropeScaling?.kind === 'divisors' ? config.ropeScaling.divisors : undefined;
  if (divisors !== undefined && (divisors.length !== config.headDim / 2 || !divisors.every((d) => d > 0))) {
    violations.push({ field: 'rope_freqs', description: `must hold ${config.headDim / 2} positive divisors` });
  }
  for (const id of [config.bosTokenId ?? 0, ...config.eosTokenIds]) {
    if (id >= config.vocabSize) violations.push({ field: 'eos_token_id', description: `token ${id} is outside the vocabulary of ${config.vocabSize}` });
  }
  if (violations.length > 0) throw invalidFields(violations, 'The config of the checkpoint is damaged or hand-edited; fetch it again.');
}

/**
 * A config.json that `parseHfConfig` and transformers read back to the same config. Divisors and layers that differ in width have no
 * counterpart there and are refused.
 */
export function toHfConfig(config: DecoderConfig, dtype: 'float32' | 'float16' | 'bfloat16'): Json {
  if (config.intermediateSizes !== undefined) throw unsupported('feed-forward units that differ in width in a Hugging Face folder');
  const windowed = config.slidingWindowTokens !== undefined;
  return {
    architectures: [windowed ? 'MistralForCausalLM' : 'LlamaForCausalLM'],
    model_type: windowed ? 'mistral' : 'llama',
    torch_dtype: dtype,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    max_position_embeddings: config.maxPositionTokens,
    hidden_act: 'silu',
    rms_norm_eps: config.rmsNormEpsilon,
    rope_theta: config.ropeTheta,
    rope_scaling: hfRopeScaling(config.ropeScaling),
    tie_word_embeddings: config.tieWordEmbeddings,
    attention_bias: config.attentionBias,
    mlp_bias: config.mlpBias,
    ...(windowed && { sliding_window: config.slidingWindowTokens }),
    bos_token_id: config.bosTokenId ?? null,
    eos_token_id: config.eosTokenIds.length === 1 ? config.eosTokenIds[0] : config.eosTokenIds,
  };
}

function hfRopeScaling(scaling: RopeScaling | undefined): Json | null {
  if (scaling === undefined) return null;
  if (scaling.kind === 'linear') return { rope_type: 'linear', factor: scaling.factor };
  if (scaling.kind === 'divisors') throw unsupported('rotary divisors of a GGUF file in a Hugging Face folder');
  return {
    rope_type: 'llama3',
    factor: scaling.factor,
    low_freq_factor: scaling.lowFrequencyFactor,
    high_freq_factor: scaling.highFrequencyFactor,
    original_max_position_embeddings: scaling.originalMaxPositionTokens,
  };
}
