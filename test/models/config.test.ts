import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseHfConfig, ropeTables, toHfConfig, weightShapes, type DecoderConfig } from '../../src/models/config.js';
import { GOLDEN } from '../golden/smollm2.js';

const LLAMA3 = {
  architectures: ['LlamaForCausalLM'], model_type: 'llama', vocab_size: 128256, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16,
  num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64, max_position_embeddings: 131072, hidden_act: 'silu', rms_norm_eps: 1e-5, rope_theta: 500000,
  rope_scaling: { rope_type: 'llama3', factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 },
  tie_word_embeddings: true, attention_bias: false, mlp_bias: false, bos_token_id: 128000, eos_token_id: [128001, 128008, 128009],
};
const MISTRAL = {
  architectures: ['MistralForCausalLM'], model_type: 'mistral', vocab_size: 32000, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32,
  num_attention_heads: 32, num_key_value_heads: 8, max_position_embeddings: 32768, rms_norm_eps: 1e-5, rope_theta: 10000, sliding_window: 4096,
  bos_token_id: 1, eos_token_id: 2,
};

describe('parseHfConfig', () => {
  test('Llama 3.2', () => {
    expect(parseHfConfig(LLAMA3)).toEqual({
      family: 'llama', vocabSize: 128256, hiddenSize: 2048, intermediateSize: 8192, layers: 16, heads: 32, kvHeads: 8, headDim: 64, maxPositionTokens: 131072,
      ropeTheta: 500000, ropeScaling: { kind: 'llama3', factor: 32, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalMaxPositionTokens: 8192 },
      rmsNormEpsilon: 1e-5, tieWordEmbeddings: true, attentionBias: false, mlpBias: false, bosTokenId: 128000, eosTokenIds: [128001, 128008, 128009],
    });
  });

  test('Mistral, with its window; a null window or one as long as the context is none', () => {
    expect(parseHfConfig(MISTRAL)).toMatchObject({ headDim: 128, kvHeads: 8, slidingWindowTokens: 4096, tieWordEmbeddings: false });
    expect(parseHfConfig({ ...MISTRAL, sliding_window: null }).slidingWindowTokens).toBeUndefined();
    expect(parseHfConfig({ ...MISTRAL, sliding_window: 32768 }).slidingWindowTokens).toBeUndefined();
    const { sliding_window: _, ...absent } = MISTRAL;
    expect(parseHfConfig(absent).slidingWindowTokens).toBe(4096);
  });

  test('Llama 2: defaults of the reference class', () => {
    const llama2 = { model_type: 'llama', vocab_size: 32000, hidden_size: 64, intermediate_size: 172, num_hidden_layers: 2, num_attention_heads: 8, eos_token_id: 2 };
    expect(parseHfConfig(llama2)).toEqual({
      family: 'llama', vocabSize: 32000, hiddenSize: 64, intermediateSize: 172, layers: 2, heads: 8, kvHeads: 8, headDim: 8, maxPositionTokens: 2048,
      ropeTheta: 10000, rmsNormEpsilon: 1e-6, tieWordEmbeddings: false, attentionBias: false, mlpBias: false, eosTokenIds: [2],
    });
  });

  test('rotary settings where transformers 5 puts them', () => {
    const config = parseHfConfig({ ...LLAMA3, rope_theta: undefined, rope_scaling: undefined, rope_parameters: { rope_type: 'linear', rope_theta: 1234, factor: 2 } });
    expect(config).toMatchObject({ ropeTheta: 1234, ropeScaling: { kind: 'linear', factor: 2 } });
  });

  test.each<[string, object, RegExp]>([
    ['another architecture', { model_type: 'falcon' }, /architecture "falcon"/],
    ['a class of another family', { model_type: 'qwen2' }, /architecture "LlamaForCausalLM"/],
    ['no architecture', { model_type: undefined }, /architecture/],
    ['a class that is no language model', { architectures: ['LlamaForSequenceClassification'] }, /"LlamaForSequenceClassification"/],
    ['another activation', { hidden_act: 'gelu' }, /hidden_act "gelu"/],
    ['quantized weights', { quantization_config: { quant_method: 'bitsandbytes' } }, /quantization_config \(bitsandbytes\)/],
    ['mrope', { rope_scaling: { type: 'mrope' } }, /rope_scaling type "mrope"/],
    ['dynamic scaling', { rope_scaling: { rope_type: 'dynamic', factor: 4 } }, /"dynamic"/],
    ['partial rotary', { partial_rotary_factor: 0.5 }, /partial_rotary_factor 0.5/],
  ])('refuses %s by name', (_name, change, why) => {
    expect(() => parseHfConfig({ ...LLAMA3, ...change })).toThrow(expect.objectContaining({ reason: 'MODEL_UNSUPPORTED', message: expect.stringMatching(why) }));
  });

  const QWEN2 = { ...LLAMA3, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', rope_scaling: null };
  const GEMMA3 = {
    architectures: ['Gemma3ForCausalLM'], model_type: 'gemma3_text', vocab_size: 262144, hidden_size: 1152, intermediate_size: 6912, num_hidden_layers: 26, num_attention_heads: 4,
    num_key_value_heads: 1, head_dim: 256, max_position_embeddings: 32768, rope_theta: 1000000, rope_local_base_freq: 10000, rope_scaling: null, sliding_window: 512,
    sliding_window_pattern: 6, query_pre_attn_scalar: 256, attn_logit_softcapping: null, final_logit_softcapping: null, hidden_activation: 'gelu_pytorch_tanh', bos_token_id: 2, eos_token_id: [1, 106],
  };
  const GPT2 = { model_type: 'gpt2', architectures: ['GPT2LMHeadModel'], vocab_size: 50257, n_embd: 768, n_layer: 12, n_head: 12, n_positions: 1024, n_ctx: 1024, activation_function: 'gelu_new', layer_norm_epsilon: 1e-5, bos_token_id: 50256, eos_token_id: 50256 };
  const PHI4 = {
    ...LLAMA3, architectures: ['Phi3ForCausalLM'], model_type: 'phi3', vocab_size: 200064, hidden_size: 3072, num_attention_heads: 24, head_dim: undefined, partial_rotary_factor: 0.75,
    max_position_embeddings: 131072, original_max_position_embeddings: 4096, sliding_window: 262144,
    rope_scaling: { type: 'longrope', short_factor: new Array<number>(48).fill(1), long_factor: new Array<number>(48).fill(2) },
  };

  test('Gemma 3 as published: every sixth layer sees all', () => {
    const config = parseHfConfig(GEMMA3);
    expect(config).toMatchObject({ family: 'gemma3', activation: 'geluTanh', tieWordEmbeddings: true, ropeTheta: 1e6, localRope: { ropeTheta: 1e4 }, slidingWindowTokens: 512, rmsNormEpsilon: 1e-6 });
    expect(config.localLayers?.flatMap((local, i) => (local ? [] : [i]))).toEqual([5, 11, 17, 23]);
    expect(config.attentionScale).toBeUndefined();
    expect(config.embeddingMultiplier).toBeCloseTo(Math.sqrt(1152), 5);
  });

  test('GPT-2 as published: its own names, an inner width of four times the hidden one, no rope', () => {
    expect(parseHfConfig(GPT2)).toEqual({
      family: 'gpt2', vocabSize: 50257, hiddenSize: 768, intermediateSize: 3072, layers: 12, heads: 12, kvHeads: 12, headDim: 64, maxPositionTokens: 1024, ropeTheta: 0,
      rmsNormEpsilon: 1e-5, tieWordEmbeddings: true, attentionBias: true, mlpBias: true, activation: 'geluTanh', bosTokenId: 50256, eosTokenIds: [50256],
    });
  });

  test('Phi-4-mini as published: three quarters of each head, LongRoPE, a window beyond its context', () => {
    const config = parseHfConfig(PHI4);
    expect(config).toMatchObject({ family: 'phi3', headDim: 128, rotaryDim: 96, ropeScaling: { kind: 'longrope', originalMaxPositionTokens: 4096 } });
    expect(config.ropeScaling).toHaveProperty('magnitude', Math.sqrt(1 + Math.log(32) / Math.log(4096)));
    expect(config.slidingWindowTokens).toBeUndefined();
    const short = ropeTables({ ...config }, 8);
    expect(short.cos).toHaveLength(8 * 48);
  });

  test.each<[string, object, RegExp]>([
    ['biases of the feed-forward unit in Qwen2', { ...QWEN2, mlp_bias: true }, /mlp_bias true in the Qwen2 family/],
    ['a window of some layers in Llama', { ...LLAMA3, layer_types: new Array<string>(16).fill('sliding_attention') }, /layer_types .* in the Llama family/],
    ['a part of a head in Qwen2, in the new spelling', { ...QWEN2, rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.5 } }, /partial_rotary_factor 0.5 in the Qwen2 family/],
    ['multipliers outside Granite', { ...LLAMA3, residual_multiplier: 0.2 }, /residual_multiplier 0.2 in the Llama family/],
    ['experts', { ...QWEN2, num_experts: 60 }, /num_experts 60/],
    ['attention scaled by layer in GPT-2', { ...GPT2, scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx true in the GPT-2 family/],
    ['attention in both directions', { ...GEMMA3, use_bidirectional_attention: true }, /use_bidirectional_attention true in the Gemma 3 family/],
    ['caps of scores in Gemma 3, which transformers ignores', { ...GEMMA3, attn_logit_softcapping: 50 }, /attn_logit_softcapping 50 in the Gemma 3 family/],
    ['Gemma 3 with a vision tower', { ...GEMMA3, model_type: 'gemma3', architectures: ['Gemma3ForConditionalGeneration'] }, /architecture "gemma3"/],
    ['an activation that no form computes', { ...GPT2, activation_function: 'relu' }, /activation_function "relu"/],
    ['packed 4-bit weights of stacked modules', { ...PHI4, quantization_config: { quant_method: 'gptq', bits: 4, group_size: 128, desc_act: false } }, /quantization_config in the Phi-3 family/],
  ])('refuses %s by name', (_name, json, why) => {
    expect(() => parseHfConfig(json)).toThrow(expect.objectContaining({ reason: 'MODEL_UNSUPPORTED', message: expect.stringMatching(why) }));
  });

  test('lists impossible fields of a family under its own keys', () => {
    const fields = (json: object): string[] => {
      try {
        parseHfConfig(json);
      } catch (error) {
        return (error as { violations: { field: string }[] }).violations.map(({ field }) => field);
      }
      return [];
    };
    expect(fields({ ...GPT2, n_embd: 'wide', n_head: 0 })).toEqual(expect.arrayContaining(['n_embd', 'n_head']));
    expect(fields({ ...GEMMA3, layer_types: ['full_attention'] })).toContain('layer_types');
    expect(fields({ ...PHI4, rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1] } })).toEqual(expect.arrayContaining(['rope_scaling.short_factor', 'rope_scaling.long_factor']));
    expect(fields({ ...PHI4, partial_rotary_factor: 0.001 })).toContain('partial_rotary_factor');
  });

  test.each<[string, unknown, string[]]>([
    ['no object', [], ['config.json']],
    ['missing and impossible sizes, all at once', { ...LLAMA3, hidden_size: -1, vocab_size: 'many', num_hidden_layers: undefined, rms_norm_eps: 0 }, ['num_hidden_layers', 'hidden_size', 'vocab_size', 'rms_norm_eps']],
    ['heads that do not divide', { ...LLAMA3, num_key_value_heads: 5 }, ['num_key_value_heads']],
    ['an odd head', { ...LLAMA3, head_dim: 63 }, ['head_dim']],
    ['a fractional head', { ...LLAMA3, head_dim: undefined, num_attention_heads: 33, num_key_value_heads: 33 }, ['head_dim']],
    ['an eos outside the vocabulary', { ...LLAMA3, eos_token_id: 128256 }, ['eos_token_id']],
    ['llama3 scaling without its numbers', { ...LLAMA3, rope_scaling: { rope_type: 'llama3' } }, ['rope_scaling.factor', 'rope_scaling.low_freq_factor']],
    ['a flag that is no flag', { ...LLAMA3, tie_word_embeddings: 'yes' }, ['tie_word_embeddings']],
    ['a window of nothing', { ...MISTRAL, sliding_window: 0 }, ['sliding_window']],
  ])('lists every impossible field: %s', (_name, json, fields) => {
    let found: string[] = [];
    try {
      parseHfConfig(json);
    } catch (error) {
      expect(error).toMatchObject({ reason: 'INVALID_FIELD' });
      found = (error as { violations: { field: string }[] }).violations.map((violation) => violation.field);
    }
    expect(found).toEqual(expect.arrayContaining(fields));
  });

  test('toHfConfig is its inverse', () => {
    for (const json of [LLAMA3, MISTRAL]) {
      const config = parseHfConfig(json);
      expect(parseHfConfig(JSON.parse(JSON.stringify(toHfConfig(config, 'float32'))))).toEqual(config);
    }
    const divisors: DecoderConfig = { ...parseHfConfig(LLAMA3), ropeScaling: { kind: 'divisors', divisors: new Array<number>(32).fill(1) } };
    expect(() => toHfConfig(divisors, 'float32')).toThrow(/divisors/);
  });
});

describe('ropeTables', () => {
  interface GoldenRope { kind: string; rope_parameters: Record<string, unknown>; positions: number[]; cos: number[][]; sin: number[][] }
  const golden = JSON.parse(readFileSync(join(GOLDEN, 'rope.json'), 'utf8')) as GoldenRope[];

  test.each(golden)("$kind agrees with transformers' tables", ({ rope_parameters: rope, positions, cos, sin }) => {
    const { ropeScaling, ropeTheta } = parseHfConfig({ ...LLAMA3, rope_scaling: undefined, rope_theta: undefined, rope_parameters: rope });
    const tables = ropeTables({ headDim: 64, ropeTheta, ...(ropeScaling && { ropeScaling }) }, 4096);
    expect(tables.cos).toHaveLength(4096 * 32);
    positions.forEach((position, row) => {
      for (let i = 0; i < 32; i++) {
        // One rounding of a frequency moves an angle of 4,095 by up to 2.5e-4.
        const tolerance = 2e-7 + position * 7e-8;
        expect(Math.abs((tables.cos[position * 32 + i] as number) - (cos[row]?.[i] as number))).toBeLessThanOrEqual(tolerance);
        expect(Math.abs((tables.sin[position * 32 + i] as number) - (sin[row]?.[i] as number))).toBeLessThanOrEqual(tolerance);
      }
    });
  });

  test('divisors divide frequencies', () => {
    const plain = ropeTables({ headDim: 4, ropeTheta: 100 }, 3);
    const divided = ropeTables({ headDim: 4, ropeTheta: 100, ropeScaling: { kind: 'divisors', divisors: [1, 2] } }, 3);
    expect(divided.sin[2 * 2]).toBe(plain.sin[2 * 2]);
    expect(divided.sin[2 * 2 + 1]).toBeCloseTo(plain.sin[1 * 2 + 1] as number, 7);
  });
});

test('weightShapes names every tensor once', () => {
  const shapes = weightShapes(parseHfConfig(LLAMA3));
  expect(shapes.size).toBe(2 + 16 * 9);
  expect(shapes.get('model.layers.15.self_attn.k_proj.weight')).toEqual([512, 2048]);
  expect(shapes.get('model.layers.0.mlp.down_proj.weight')).toEqual([2048, 8192]);
  expect(shapes.has('lm_head.weight')).toBe(false);
  const biased = weightShapes(parseHfConfig({ ...LLAMA3, tie_word_embeddings: false, attention_bias: true, mlp_bias: true }));
  expect(biased.get('lm_head.weight')).toEqual([128256, 2048]);
  expect(biased.get('model.layers.3.self_attn.k_proj.bias')).toEqual([512]);
  expect(biased.size).toBe(3 + 16 * 16);
});
