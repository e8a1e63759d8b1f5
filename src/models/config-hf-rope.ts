/**
 * Rotary settings of a config.json, as `rope_parameters` (transformers 5), or as `rope_theta` beside `rope_scaling`. Kinds of scaling
 * that the tables don't compute are refused by name.
 */
import { LoricaError } from '../common/errors.js';
import type { DecoderConfig, Rope, RopeScaling } from './config-decoder.js';
import { ConfigFields, type Json } from './config-fields.js';

type Layers = 'full_attention' | 'sliding_attention';

function unsupported(kind: unknown): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `unsupported model: rope_scaling type ${JSON.stringify(kind)}`, {
    hint: 'Supported: default, linear, llama3, yarn, longrope.',
  });
}

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null;

/** The rotary settings of the layers of one kind; `theta` stands in where the config says none. */
export function parseHfRope(config: ConfigFields, layers: Layers, theta: number): Rope {
  const { json } = config;
  const given = [json['rope_parameters'], json['rope_scaling']].find(isObject) ?? {};
  const nested = given[layers];
  // A scaling that isn't given by kind of layer is that of layers without a window.
  const own = isObject(nested) ? nested : layers === 'full_attention' ? given : {};
  const fields = new ConfigFields({ ...own, rope_theta: own['rope_theta'] ?? theta }, {}, 'rope_scaling.');
  const scaling = parseScaling(fields, config);
  const rope = { ropeTheta: fields.number('rope_theta'), ...(scaling && { ropeScaling: scaling }) };
  config.violations.push(...fields.violations);
  return rope;
}

function parseScaling(fields: ConfigFields, config: ConfigFields): RopeScaling | undefined {
  const named = fields.json['rope_type'] ?? fields.json['type'] ?? 'default';
  // The first Phi-3 files call LongRoPE by other names.
  const kind: unknown = named === 'su' || (named === 'yarn' && fields.has('short_factor')) ? 'longrope' : named;
  const maxPositionTokens = config.count('max_position_embeddings');
  const original = (): number =>
    config.has('original_max_position_embeddings') ? config.count('original_max_position_embeddings') : fields.count('original_max_position_embeddings', maxPositionTokens);
  switch (kind) {
    case 'default':
      return undefined;
    case 'linear':
      return { kind, factor: fields.number('factor') };
    case 'llama3': {
      const scaling = {
        kind,
        factor: fields.number('factor'),
        lowFrequencyFactor: fields.number('low_freq_factor'),
        highFrequencyFactor: fields.number('high_freq_factor'),
        originalMaxPositionTokens: fields.count('original_max_position_embeddings'),
      } as const;
      if (scaling.highFrequencyFactor <= scaling.lowFrequencyFactor) fields.fail('high_freq_factor', 'must be above low_freq_factor');
      return scaling;
    }
    case 'yarn': {
      const factor = fields.number('factor');
      return {
        kind,
        factor,
        originalMaxPositionTokens: original(),
        betaFast: fields.number('beta_fast', 32),
        betaSlow: fields.number('beta_slow', 1),
        wholeRange: fields.boolean('truncate', true),
        magnitude: fields.has('attention_factor') ? fields.number('attention_factor') : yarnMagnitude(fields, factor),
      };
    }
    case 'longrope': {
      const originalMaxPositionTokens = original();
      const factor = fields.number('factor', maxPositionTokens / originalMaxPositionTokens);
      const magnitude = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositionTokens));
      return {
        kind: 'longrope',
        shortDivisors: fields.numbers('short_factor'),
        longDivisors: fields.numbers('long_factor'),
        originalMaxPositionTokens,
        magnitude: fields.number('attention_factor', magnitude),
      };
    }
    default:
      throw unsupported(kind);
  }
}

/** YaRN's 0.1·m·ln(factor) + 1 (Peng et al. 2023, section 3.4), or the ratio of two of them. */
function yarnMagnitude(fields: ConfigFields, factor: number): number {
  const of = (m: number): number => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1);
  return fields.has('mscale') && fields.has('mscale_all_dim') ? of(fields.number('mscale')) / of(fields.number('mscale_all_dim')) : of(1);
}

/** `rope_theta` and `rope_scaling` as older and newer readers take them, or `rope_parameters` by kind of layer. */
export function writeHfRope(config: DecoderConfig): Json {
  if (config.localRope !== undefined) {
    const written = (rope: Rope): Json => ({ rope_type: 'default', ...writtenScaling(rope.ropeScaling), rope_theta: rope.ropeTheta });
    return { rope_parameters: { full_attention: written(config), sliding_attention: written(config.localRope) } };
  }
  return { rope_theta: config.ropeTheta, rope_scaling: writtenScaling(config.ropeScaling) };
}

function writtenScaling(scaling: RopeScaling | undefined): Json | null {
  switch (scaling?.kind) {
    case undefined:
      return null;
    case 'linear':
      return { rope_type: 'linear', factor: scaling.factor };
    case 'llama3':
      return {
        rope_type: 'llama3',
        factor: scaling.factor,
        low_freq_factor: scaling.lowFrequencyFactor,
        high_freq_factor: scaling.highFrequencyFactor,
        original_max_position_embeddings: scaling.originalMaxPositionTokens,
      };
    case 'yarn':
      return {
        rope_type: 'yarn',
        factor: scaling.factor,
        original_max_position_embeddings: scaling.originalMaxPositionTokens,
        beta_fast: scaling.betaFast,
        beta_slow: scaling.betaSlow,
        truncate: scaling.wholeRange,
        attention_factor: scaling.magnitude,
      };
    case 'longrope':
      return {
        rope_type: 'longrope',
        short_factor: scaling.shortDivisors,
        long_factor: scaling.longDivisors,
        original_max_position_embeddings: scaling.originalMaxPositionTokens,
        attention_factor: scaling.magnitude,
      };
    case 'divisors':
      throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', 'unsupported model: rotary divisors of a GGUF file in a Hugging Face folder', {
        hint: 'Write a GGUF file instead.',
      });
  }
}
