// What the segments of the training form take, give and leave out. That their numbers are right is test/tuning/golden.test.ts.
import { describe, expect, test } from '@jest/globals';
import type { DecoderConfig } from '../../src/models/config.js';
import type { LinearModule } from '../../src/models/decoder.js';
import { layerForward, layerParameters, layerSegments, type LayerKind } from '../../src/models/training-form.js';
import { embeddingGradientSegment } from '../../src/models/training-form-ends.js';
import { headInputSegment, headLossSegment, headTableSegment, outputBlocks } from '../../src/models/training-form-head.js';
import type { Graph } from '../../src/onnx/index.js';

const CONFIG: DecoderConfig = {
  family: 'llama', vocabSize: 40, hiddenSize: 24, intermediateSize: 32, layers: 2, heads: 6, kvHeads: 2, headDim: 4, maxPositionTokens: 64,
  ropeTheta: 1e4, rmsNormEpsilon: 1e-5, tieWordEmbeddings: true, attentionBias: false, mlpBias: false, eosTokenIds: [2],
};
const inputs = (graph: Graph): string[] => graph.inputs.map((value) => value.name);
const outputs = (graph: Graph): string[] => graph.outputs.map((value) => value.name);
const products = (graph: Graph): number => graph.nodes.filter((node) => ['MatMul', 'FusedMatMul', 'Gemm'].includes(node.operator)).length;
const lora = (...modules: LinearModule[]): LayerKind['lora'] => new Map(modules.map((module) => [module, { rank: 2, scaling: 2 }]));
const kind = (part: Partial<LayerKind>): LayerKind => ({ lora: new Map(), trainable: new Set(), inputGradient: true, saved: 'linear', ...part });
const LORA_Q = new Set(['self_attn.q_proj.lora_A.weight', 'self_attn.q_proj.lora_B.weight']);

test('parameters of a layer, LoRA and biases included', () => {
  const parameters = layerParameters({ ...CONFIG, attentionBias: true }, lora('mlp.down_proj'));
  expect(parameters.get('self_attn.k_proj.weight')).toEqual([8, 24]);
  expect(parameters.get('self_attn.k_proj.bias')).toEqual([8]);
  expect(parameters.get('mlp.down_proj.lora_A.weight')).toEqual([2, 32]);
  expect(parameters.get('mlp.down_proj.lora_B.weight')).toEqual([24, 2]);
  expect(parameters.size).toBe(2 + 7 + 4 + 2);
});

describe('forward', () => {
  test('a layer below everything that is trained hands nothing on', () => {
    const graph = layerForward(CONFIG, { lora: new Map() });
    expect(outputs(graph)).toEqual(['y']);
    expect(inputs(graph).slice(0, 5)).toEqual(['x', 'positions', 'cos', 'sin', 'mask.0']);
  });

  test('a trained layer hands on what its backward segment reads, and nothing else', () => {
    const { forward, backward, saved } = layerSegments(CONFIG, kind({ lora: lora('self_attn.q_proj'), trainable: LORA_Q }));
    const names = saved.map(({ name }) => name);
    expect(outputs(forward)).toEqual(['y', ...names]);
    expect(names).toEqual(expect.arrayContaining(['self_attn.q_proj.output', 'self_attn.output', 'attended', 'mlp.gate_proj.output', 'self_attn.q_proj.lora_A.output']));
    expect(names.every((name) => inputs(backward).includes(name))).toBe(true);
    expect(saved.find(({ name }) => name === 'mlp.up_proj.output')?.shape).toEqual(['B*T', 32]);
  });

  test('recomputing keeps nothing but the layer input', () => {
    const { forward, backward, saved } = layerSegments(CONFIG, kind({ trainable: new Set(['mlp.up_proj.weight']), saved: 'layer' }));
    expect(saved).toEqual([]);
    expect(outputs(forward)).toEqual(['y']);
    expect(inputs(backward)).toEqual(expect.arrayContaining(['x', 'dy', 'positions', 'mask.0']));
  });
});

describe('backward', () => {

  test('gives the gradients asked for, and dx only where something below is trained', () => {
    const both = layerSegments(CONFIG, kind({ lora: lora('self_attn.q_proj'), trainable: LORA_Q }));
    const lowest = layerSegments(CONFIG, kind({ lora: lora('self_attn.q_proj'), trainable: LORA_Q, inputGradient: false }));
    expect(outputs(both.backward)).toEqual(['dx', 'gradient.self_attn.q_proj.lora_A.weight', 'gradient.self_attn.q_proj.lora_B.weight']);
    expect(outputs(lowest.backward)).toEqual(outputs(both.backward).slice(1));
    expect(products(lowest.backward)).toBeLessThan(products(both.backward));
  });

  test('a frozen weight gets no gradient: a layer that only passes dx on has one product per linear layer and four in attention', () => {
    const { backward } = layerSegments(CONFIG, kind({}));
    expect(outputs(backward)).toEqual(['dx']);
    // q·k and P come again from the saved q, k and v; then dV, dP, dQ, dK, and dx of seven linear layers.
    expect(products(backward)).toBe(1 + 4 + 7);
  });

  test('training the down projection alone runs nothing below it', () => {
    const { backward } = layerSegments(CONFIG, kind({ trainable: new Set(['mlp.down_proj.weight']), inputGradient: false }));
    expect(products(backward)).toBe(1);
    expect(inputs(backward).sort()).toEqual(['dy', 'mlp.gate_proj.output', 'mlp.up_proj.output']);
  });

  test('the adding segment takes one sum per gradient, of the same shape', () => {
    const { backwardAdding } = layerSegments(CONFIG, kind({ trainable: new Set(['input_layernorm.weight', 'mlp.up_proj.weight']) }));
    for (const name of ['input_layernorm.weight', 'mlp.up_proj.weight']) {
      expect(backwardAdding.value(`sum.${name}`).shape).toEqual(backwardAdding.value(`gradient.${name}`).shape);
    }
  });
});

describe('head', () => {
  const { vocabSize } = CONFIG;
  const nothing = { inputGradient: false, trainNorm: false, trainNormBias: false };

  test('gives the losses, and on demand what gradients are made of', () => {
    expect(outputs(headLossSegment(CONFIG, vocabSize, false))).toEqual(['losses']);
    expect(outputs(headLossSegment(CONFIG, vocabSize, true))).toEqual(['losses', 'factor', 'difference.0']);
  });

  test('has a product for each gradient, and gradients only of what is trained', () => {
    expect(outputs(headInputSegment(CONFIG, vocabSize, { ...nothing, inputGradient: true }, true))).toEqual(['dx']);
    const both = headInputSegment(CONFIG, vocabSize, { ...nothing, inputGradient: true, trainNorm: true }, true);
    expect(outputs(both)).toEqual(['dx', 'gradient.norm']);
    expect(inputs(both)).toContain('sum.norm');
    expect(inputs(headTableSegment(CONFIG, vocabSize, true))).toContain('sum.head.0');
    expect([headLossSegment(CONFIG, vocabSize, true), both, headTableSegment(CONFIG, vocabSize, false)].map(products)).toEqual([1, 1, 1]);
  });

  test('takes a vocabulary in blocks that cover it, none with rows a multiple of 4,096 bytes apart unless it is the rest', () => {
    for (const count of [2, 6160, 49_152, 151_936]) {
      const blocks = outputBlocks(count);
      expect(blocks.reduce((next, { start, size }) => (start === next ? start + size : Number.NaN), 0)).toBe(count);
      for (const { size } of blocks.slice(0, -1)) expect(size % 1024).not.toBe(0);
    }
  });

  test("the embedding's gradient writes each row of the table once: distinct tokens, no scattered duplicates", () => {
    expect(inputs(embeddingGradientSegment(CONFIG))).toEqual(['tokens', 'distinct', 'dy', 'sum']);
  });
});
