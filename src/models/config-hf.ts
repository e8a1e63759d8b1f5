/**
 * Hugging Face's config.json to and from DecoderConfig. Defaults are those of the reference classes; a field whose value changes the
 * computation in a way the family's graphs don't know is refused by name.
 */
import { invalidFields, LoricaError, type FieldViolation } from '../common/errors.js';
import { rotaryWidth, type Activation, type DecoderConfig, type RopeScaling } from './config-decoder.js';
import { ConfigFields, type Json } from './config-fields.js';
import { parseHfRope, writeHfRope } from './config-hf-rope.js';
import { FAMILIES, familyOf } from './families/index.js';
import type { Family } from './family.js';
import { parseQuantization } from './hf-quantized.js';

/** Names of activations in config.json. The first of a kind is the one that is written. */
const ACTIVATIONS: Readonly<Record<string, Activation>> = { silu: 'silu', swish: 'silu', gelu_pytorch_tanh: 'geluTanh', gelu_new: 'geluTanh' };

/**
 * What some families compute and others don't: key of config.json → values that mean no more than its absence. A family lists the
 * keys that its graphs know.
 */
const FEATURES: Readonly<Record<string, readonly unknown[]>> = {
  add_cross_attention: [false],
  alibi: [false],
  attention_bias: [false],
  attention_multiplier: [],
  attn_logit_softcapping: [],
  clip_qkv: [],
  dim_model_base: [],
  embedding_multiplier: [1],
  final_logit_softcapping: [],
  is_encoder_decoder: [false],
  layer_types: [],
  logit_scale: [1],
  logits_scaling: [1],
  max_window_layers: [],
  mlp_bias: [false],
  moe_intermediate_size: [],
  n_routed_experts: [0],
  no_rope_layers: [[]],
  num_experts: [0, 1],
  num_local_experts: [0, 1],
  partial_rotary_factor: [1],
  qk_layernorm: [false],
  query_pre_attn_scalar: [],
  residual_multiplier: [1],
  rope_interleaved: [false],
  rope_local_base_freq: [],
  scale_attn_by_inverse_layer_idx: [false],
  scale_attn_weights: [true],
  scale_depth: [],
  scale_emb: [1],
  sliding_window: [],
  sliding_window_pattern: [],
  use_bidirectional_attention: [false],
  use_parallel_residual: [false],
  use_qk_norm: [false],
  use_sliding_window: [false],
};

const SUPPORTED = `Supported: ${[...new Set(Object.values(FAMILIES).map(({ title }) => title))].join(', ')}, as docs/models.md says.`;

function unsupported(what: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `unsupported model: ${what}`, { hint: SUPPORTED });
}

function familyFor(json: Json): Family {
  const type = json['model_type'];
  const architectures = json['architectures'];
  const named = Array.isArray(architectures) ? architectures.map(String).join(', ') : undefined;
  const family = Object.values(FAMILIES).find(({ hf }) => hf.modelType === type);
  if (family === undefined) throw unsupported(`architecture ${JSON.stringify(type ?? named ?? null)}`);
  if (named !== undefined && named !== family.hf.className) throw unsupported(`architecture "${named}"`);
  return family;
}

function refuseUnknown(json: Json, { title, hf, norm }: Family): void {
  const says = (key: string): unknown => {
    if (key === 'partial_rotary_factor') return rotaryFactor(json);
    const value = json[key];
    return key === 'layer_types' && Array.isArray(value) && value.every((type) => type === 'full_attention') ? undefined : value;
  };
  for (const [key, neutral] of Object.entries(FEATURES)) {
    const value = says(key);
    const neutrally = value == null || neutral.some((same) => JSON.stringify(same) === JSON.stringify(value));
    if (!neutrally && hf.features?.includes(key) !== true) throw unsupported(`${key} ${JSON.stringify(value)} in the ${title} family`);
  }
  if (hf.layout?.fused !== undefined && parseQuantization(json) !== undefined) throw unsupported(`quantization_config in the ${title} family, whose files stack modules`);
  if (norm === 'layer' && json['rope_scaling'] != null) throw unsupported(`rope_scaling in the ${title} family`);
}

function readActivation(fields: ConfigFields): Activation {
  const name = fields.value('hidden_act') ?? 'silu';
  const activation = typeof name === 'string' && Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (activation === undefined) throw unsupported(`${fields.key('hidden_act')} ${JSON.stringify(name)}`);
  return activation;
}

function tokenIds(value: unknown): number[] {
  const list = Array.isArray(value) ? value : value == null ? [] : [value];
  return list.filter((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0);
}

function rotaryFactor(json: Json): unknown {
  return (json['rope_parameters'] as Json | null | undefined)?.['partial_rotary_factor'] ?? json['partial_rotary_factor'] ?? 1;
}

/** How many dimensions of each head are rotated, where not all are. */
function rotaryPart(fields: ConfigFields, headDim: number): Pick<DecoderConfig, 'rotaryDim'> {
  const factor = new ConfigFields({ partial_rotary_factor: rotaryFactor(fields.json) }).number('partial_rotary_factor');
  const rotaryDim = Math.trunc(headDim * factor);
  if (rotaryDim < 2 || rotaryDim > headDim || rotaryDim % 2 !== 0) fields.fail('partial_rotary_factor', `${factor} of ${headDim} is no even part of a head`);
  return rotaryDim === headDim ? {} : { rotaryDim };
}

/** Reads a config.json. Throws MODEL_UNSUPPORTED naming the feature, or INVALID_FIELD listing every impossible field. */
export function parseHfConfig(value: unknown): DecoderConfig {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalidFields([{ field: 'config.json', description: 'is not a JSON object' }]);
  }
  const json = value as Json;
  const family = familyFor(json);
  parseQuantization(json);
  refuseUnknown(json, family);
  const fields = new ConfigFields(json, family.hf);
  const heads = fields.count('num_attention_heads');
  const hiddenSize = fields.count('hidden_size');
  const headDim = fields.count('head_dim', hiddenSize / heads);
  const activation = readActivation(fields);
  const rotary = family.positions === 'rotary';
  const theta = fields.number('rope_theta', 10000);
  const bosTokenId = tokenIds(json['bos_token_id'])[0];
  const config: DecoderConfig = {
    family: family.name,
    vocabSize: fields.count('vocab_size'),
    hiddenSize,
    intermediateSize: fields.count('intermediate_size'),
    layers: fields.count('num_hidden_layers', undefined, 4096),
    heads,
    kvHeads: fields.count('num_key_value_heads', heads),
    headDim,
    maxPositionTokens: fields.count('max_position_embeddings'),
    ...(rotary ? { ...parseHfRope(fields, 'full_attention', theta), ...rotaryPart(fields, headDim) } : { ropeTheta: 0 }),
    rmsNormEpsilon: fields.number('rms_norm_eps', 1e-6),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    attentionBias: fields.boolean('attention_bias', false),
    mlpBias: fields.boolean('mlp_bias', false),
    ...(activation !== 'silu' && { activation }),
    ...family.hf.read?.(fields),
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
  if (config.localLayers !== undefined && config.localLayers.length !== config.layers) violations.push({ field: 'layer_types', description: `must name ${config.layers} layers` });
  if (config.headDim % 2 !== 0) violations.push({ field: 'head_dim', description: `must be even, not ${config.headDim}` });
  violations.push(...checkDivisors(config.ropeScaling, rotaryWidth(config) / 2), ...checkDivisors(config.localRope?.ropeScaling, rotaryWidth(config) / 2));
  for (const id of [config.bosTokenId ?? 0, ...config.eosTokenIds]) {
    if (id >= config.vocabSize) violations.push({ field: 'eos_token_id', description: `token ${id} is outside the vocabulary of ${config.vocabSize}` });
  }
  if (violations.length > 0) throw invalidFields(violations, 'The config of the checkpoint is damaged or hand-edited; fetch it again.');
}

function checkDivisors(scaling: RopeScaling | undefined, count: number): FieldViolation[] {
  const lists: Readonly<Record<string, readonly number[]>> =
    scaling?.kind === 'divisors' ? { rope_freqs: scaling.divisors }
    : scaling?.kind === 'longrope' ? { 'rope_scaling.short_factor': scaling.shortDivisors, 'rope_scaling.long_factor': scaling.longDivisors }
    : {};
  return Object.entries(lists).filter(([, list]) => list.length !== count || !list.every((divisor) => divisor > 0))
    .map(([field]) => ({ field, description: `must hold ${count} positive divisors` }));
}

/**
 * A config.json that `parseHfConfig` and transformers read back to the same config. Divisors and layers that differ in width have no
 * counterpart there and are refused. With `labels` it is the config of the family's class for sequence classification, which pads with the
 * end of text; MODEL_UNSUPPORTED where transformers has no such class.
 */
export function toHfConfig(config: DecoderConfig, dtype: 'float32' | 'float16' | 'bfloat16', labels?: readonly string[]): Json {
  const { hf, positions, title } = familyOf(config);
  if (config.intermediateSizes !== undefined) throw unsupported('feed-forward units that differ in width in a Hugging Face folder');
  if (labels !== undefined && hf.classifierName === undefined) throw unsupported(`a classification head in the ${title} family, for which transformers has no class,`);
  const has = (feature: string): boolean => hf.features?.includes(feature) === true;
  if (config.slidingWindowTokens !== undefined && !has('sliding_window')) throw unsupported(`a sliding window in the ${title} family`);
  const key = (usual: string): string => hf.keys?.[usual] ?? usual;
  const activation = Object.entries(ACTIVATIONS).find(([name, kind]) => kind === (config.activation ?? 'silu') && (hf.defaults?.['hidden_act'] ?? name) === name);
  return {
    architectures: [labels === undefined ? hf.className : hf.classifierName],
    model_type: hf.modelType,
    torch_dtype: dtype,
    vocab_size: config.vocabSize,
    [key('hidden_size')]: config.hiddenSize,
    [key('intermediate_size')]: config.intermediateSize,
    [key('num_hidden_layers')]: config.layers,
    [key('num_attention_heads')]: config.heads,
    [key('max_position_embeddings')]: config.maxPositionTokens,
    [key('hidden_act')]: activation?.[0],
    [key('rms_norm_eps')]: config.rmsNormEpsilon,
    ...(positions === 'rotary' && { num_key_value_heads: config.kvHeads, head_dim: config.headDim, ...writeHfRope(config) }),
    tie_word_embeddings: config.tieWordEmbeddings,
    ...(has('attention_bias') && { attention_bias: config.attentionBias }),
    ...(has('mlp_bias') && { mlp_bias: config.mlpBias }),
    ...hf.write?.(config),
    bos_token_id: config.bosTokenId ?? null,
    eos_token_id: config.eosTokenIds.length === 1 ? config.eosTokenIds[0] : config.eosTokenIds,
    ...(labels !== undefined && {
      id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])),
      label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
      problem_type: 'single_label_classification',
      pad_token_id: config.eosTokenIds[0] ?? null,
    }),
  };
}
