import { describe, expect, test } from '@jest/globals';
import type { DecoderConfig } from '../../src/models/config.js';
import { checkServable, servingGraph, type ServingSessionKind } from '../../src/models/serving-form.js';
import { fillStacked, loraLayout, loraModules, packLora, stackedTensors } from '../../src/models/serving-form-lora.js';
import { servingWeightGroups } from '../../src/models/serving-form-weights.js';

const config: DecoderConfig = {
  family: 'llama', vocabSize: 96, hiddenSize: 64, intermediateSize: 80, layers: 1, heads: 4, kvHeads: 2, headDim: 16, maxPositionTokens: 128,
  ropeTheta: 10_000, rmsNormEpsilon: 1e-5, tieWordEmbeddings: true, attentionBias: false, mlpBias: false, eosTokenIds: [2],
};
const LAYER = 'model.layers.0';

describe('graphs', () => {
  test('one decode step: inputs, and the fused operators of a layer', () => {
    const graph = servingGraph('decode.none', { config, form: 'int8', contextTokens: 32 });
    expect(graph.inputs.map(({ name, shape }) => `${name} [${shape.join(',')}]`)).toEqual([
      'tokens [B,1]', 'last_index [B]', 'longest []', 'past.0.key [B,2,32,16]', 'past.0.value [B,2,32,16]',
    ]);
    expect(graph.outputs.map(({ name, shape }) => `${name} [${shape.join(',')}]`)).toEqual(['present.0.key [B,2,32,16]', 'present.0.value [B,2,32,16]', 'logits [B,96]']);
    expect(graph.nodes.map((node) => node.operator)).toEqual([
      'GatherBlockQuantized', 'SimplifiedLayerNormalization', 'MatMulNBits', 'GroupQueryAttention', 'MatMulNBits', 'SkipSimplifiedLayerNormalization',
      'MatMulNBits', 'Split', 'QuickGelu', 'Mul', 'MatMulNBits', 'Reshape', 'Reshape', 'SkipSimplifiedLayerNormalization', 'MatMulNBits',
    ]);
  });

  test('every kind asks only for weights that the groups make, with their shapes', () => {
    const kinds: ServingSessionKind[] = ['decode.none', 'decode.shared', 'decode.rows', 'chunk.none', 'chunk.shared', 'batch.none', 'batch.shared', 'head', 'score'];
    for (const variation of [config, { ...config, tieWordEmbeddings: false, attentionBias: true, mlpBias: true }, { ...config, hiddenSize: 48 }, { ...config, layers: 2, intermediateSizes: [48, 80] }]) {
      for (const form of ['int4', 'int8', 'float32'] as const) {
        const made = new Map(servingWeightGroups(variation, form, 32).flatMap((group) => group.tensors).map((t) => [t.name, `${t.dtype} ${t.shape.join()}`]));
        const used = new Set<string>();
        for (const kind of kinds) {
          for (const weight of servingGraph(kind, { config: variation, form, contextTokens: 32 }).weights) {
            expect(made.get(weight.name)).toBe(`${weight.dtype} ${weight.shape.join()}`);
            used.add(weight.name);
          }
        }
        expect([...used].sort()).toEqual([...made.keys()].sort());
      }
    }
  });

  test('heads that the fused attention cannot take are refused by name', () => {
    expect(() => checkServable({ ...config, headDim: 24 })).toThrow(expect.objectContaining({ reason: 'MODEL_UNSUPPORTED' }));
  });
});

describe('weights', () => {
  test('a tied, quantized table is made once for head and embedding', async () => {
    const [group] = servingWeightGroups(config, 'int8', 32);
    const parts = await group!.make(() => Promise.resolve(new Float32Array(96 * 64).fill(0.5)));
    expect(group!.tensors.map((t) => t.name)).toEqual(['head.values', 'head.scales', 'embedding.values', 'embedding.scales']);
    expect(parts[2]).toBe(parts[0]);
    expect(parts[3]).toBe(parts[1]);
  });

  test('merged layers stack their sources\' rows in order', async () => {
    const group = servingWeightGroups(config, 'float32', 32).find(({ name }) => name === `${LAYER}.self_attn.qkv`)!;
    expect(group.sources).toEqual(['q', 'k', 'v'].map((m) => `${LAYER}.self_attn.${m}_proj.weight`));
    const [weight] = await group.make((source) => Promise.resolve(new Float32Array(source.includes('q_proj') ? 64 * 64 : 32 * 64).fill(source.charCodeAt(`${LAYER}.self_attn.`.length))));
    expect(weight!.length).toBe(128 * 64);
    expect([weight![0], weight![64 * 64], weight![96 * 64], weight!.at(-1)]).toEqual(['q', 'k', 'v', 'v'].map((c) => c.charCodeAt(0)));
  });
});

describe('adapters in rows', () => {
  test('a lower rank is padded with zeros, blocks hold their module\'s columns, an absent module is zero', async () => {
    const rank = 2;
    const modules = new Map([`${LAYER}.self_attn.q_proj`, `${LAYER}.self_attn.v_proj`].map((module) => {
      const { inputs, outputs } = loraModules(config).find((sizes) => sizes.module === module)!;
      return [module, { rank, scaling: 2, a: Float32Array.from({ length: rank * inputs }, (_, i) => i + 1), b: Float32Array.from({ length: outputs * rank }, (_, i) => i + 1) }];
    }));
    const layout = loraLayout(config, rank);
    const packed = new Float32Array(layout.elements);
    await packLora(config, rank, modules, packed);
    const offsets = new Map(layout.tensors.map((t) => [t.name, t.offset]));
    const wide = 3;
    const [a, b] = stackedTensors(config, wide).filter(({ linear }) => linear.name.endsWith('qkv'));
    expect([a!.shape, b!.shape]).toEqual([[3 * wide, 64], [4, wide, 32]]);
    const aRow = new Float32Array(9 * 64).fill(9);
    fillStacked(a!, wide, packed, rank, offsets, aRow);
    // q at rows 0–1, padding at 2, k absent at 3–5, v at 6–7, padding at 8.
    expect([0, 1, 2, 3, 5, 6, 7, 8].map((row) => aRow[row * 64])).toEqual([1, 65, 0, 0, 0, 1, 65, 0]);
    const bRow = new Float32Array(4 * wide * 32).fill(9);
    fillStacked(b!, wide, packed, rank, offsets, bRow);
    const at = (block: number, r: number, column: number): number => bRow[(block * wide + r) * 32 + column]!;
    // b[out, r] = out·2 + r + 1, times the scaling 2; q's second block starts at its column 32.
    expect([at(0, 0, 0), at(0, 1, 5), at(1, 0, 0), at(1, 1, 31), at(0, 2, 0), at(2, 0, 0), at(3, 0, 1)]).toEqual([2, 24, 130, 256, 0, 0, 6]);
  });
});
