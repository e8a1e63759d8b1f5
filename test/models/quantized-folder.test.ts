import { afterEach, describe, expect, test } from '@jest/globals';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { HostTensor } from '../../src/tensor/host-tensor.js';
import { dequantizeLinear } from '../../src/tensor/quantized-linear.js';
import { encodeSafetensors, parseSafetensors } from '../../src/tensor/safetensors.js';
import { GOLDEN } from '../golden/smollm2.js';
import { temporaryFolder } from '../tensor/temporary-folder.js';

const root = temporaryFolder();
const opened: Checkpoint[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((checkpoint) => checkpoint.close()));
});

interface Parts {
  config: { quantization_config: Record<string, unknown> };
  tensors: Map<string, HostTensor>;
}
let made = 0;

/** A folder of a golden model's weights, changed by `change`, with the tokenizer of tiny-llama. */
async function open(name: string, change: (parts: Parts) => void = () => undefined): Promise<Checkpoint> {
  const parts: Parts = {
    config: JSON.parse(readFileSync(join(GOLDEN, 'int4', `${name}.json`), 'utf8')) as Parts['config'],
    tensors: parseSafetensors(readFileSync(join(GOLDEN, 'int4', `${name}.safetensors`))),
  };
  change(parts);
  const path = join(root, `${name}-${made++}`);
  mkdirSync(path);
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) cpSync(join(GOLDEN, 'tiny-llama', file), join(path, file));
  writeFileSync(join(path, 'config.json'), JSON.stringify(parts.config));
  writeFileSync(join(path, 'model.safetensors'), encodeSafetensors(parts.tensors));
  const checkpoint = await openCheckpoint(path);
  opened.push(checkpoint);
  return checkpoint;
}

const expected = (name: string): Map<string, HostTensor> => parseSafetensors(readFileSync(join(GOLDEN, 'int4', `${name}-expected.safetensors`)));
const UP = 'model.layers.0.mlp.up_proj';
const DOWN = 'model.layers.0.mlp.down_proj';

describe('a folder of small integers', () => {
  test.each([
    ['gptq', 4, { up: 16, down: 16 }],
    ['gptq-8bit-whole', 8, { up: 32, down: 32 }],
    ['awq', 4, { up: 32, down: 32 }],
  ] as const)('%s is read without requantizing: every value is what the reference packing stands for', async (name, bits, blocks) => {
    const checkpoint = await open(name);
    const wanted = expected(name);
    expect(wanted.size).toBe(7);
    for (const [tensor, { shape, data }] of wanted) {
      expect(checkpoint.weights.shape(tensor)).toEqual(shape);
      expect(checkpoint.weights.storedAs(tensor)).toBe(`INT${bits}`);
      expect({ tensor, values: await checkpoint.weights.float32(tensor) }).toEqual({ tensor, values: data });
      const linear = await checkpoint.weights.quantized?.(tensor);
      if (linear === undefined) throw new Error(`${tensor} is not quantized`);
      expect([linear.rows, linear.columns, linear.bits]).toEqual([...shape, bits]);
      expect(linear.packed).toHaveLength((linear.rows * linear.columns * bits) / 8);
      expect(await dequantizeLinear(linear)).toEqual(data);
    }
    const block = async (layer: string): Promise<number | undefined> => (await checkpoint.weights.quantized?.(`${layer}.weight`))?.blockSize;
    expect({ up: await block(UP), down: await block(DOWN) }).toEqual(blocks);
    expect(checkpoint.weights.quantized?.('model.norm.weight')).toBeUndefined();
    expect(checkpoint.weights.storedAs('model.embed_tokens.weight')).toBe('F16');
  });

  test('the second version of GPTQ stores zero points as they are', async () => {
    const checkpoint = await open('gptq', ({ config, tensors }) => {
      config.quantization_config['checkpoint_format'] = 'gptq_v2';
      // Nibbles of stored zero points are 0 to 14: adding one to each never carries.
      for (const [name, { data }] of tensors) if (name.endsWith('.qzeros')) (data as Int32Array).forEach((word, i) => (data[i] = (word + 0x11111111) | 0));
    });
    for (const [tensor, { data }] of expected('gptq')) expect(await checkpoint.weights.float32(tensor)).toEqual(data);
  });

  test('a scale that is not a number is refused when its tensor is read', async () => {
    const checkpoint = await open('gptq', ({ tensors }) => ((tensors.get(`${UP}.scales`) as HostTensor).data[5] = 0x7e00));
    await expect(checkpoint.weights.float32(`${UP}.weight`)).rejects.toMatchObject({ reason: 'CHECKPOINT_CORRUPT', message: expect.stringContaining('up_proj') });
  });

  const set = (key: string, value: unknown) => ({ config }: Parts): void => void (config.quantization_config[key] = value);
  const reshape = (name: string, shape: number[]) => ({ tensors }: Parts): void => void tensors.set(name, { ...(tensors.get(name) as HostTensor), shape });
  test.each<[string, string, (parts: Parts) => void, string, RegExp]>([
    ['another method', 'gptq', set('quant_method', 'bitsandbytes'), 'MODEL_UNSUPPORTED', /bitsandbytes/],
    ['3 bits', 'gptq', set('bits', 3), 'MODEL_UNSUPPORTED', /3 bits/],
    ['8 bits of AWQ', 'awq', set('bits', 8), 'MODEL_UNSUPPORTED', /8 bits/],
    ['groups that are no blocks', 'gptq', set('group_size', 24), 'MODEL_UNSUPPORTED', /group_size 24/],
    ['groups of nothing', 'gptq', set('group_size', 0), 'MODEL_UNSUPPORTED', /group_size 0/],
    ['settings by layer', 'gptq', set('dynamic', { '+:.*down.*': { bits: 8 } }), 'MODEL_UNSUPPORTED', /dynamic/],
    ['a Marlin layout', 'gptq', set('checkpoint_format', 'marlin'), 'MODEL_UNSUPPORTED', /marlin/],
    ['AWQ for GEMV', 'awq', set('version', 'gemv'), 'MODEL_UNSUPPORTED', /gemv/],
    ['AWQ without zero points', 'awq', set('zero_point', false), 'MODEL_UNSUPPORTED', /zero_point/],
    ['another group size than the scales', 'gptq', set('group_size', 32), 'CHECKPOINT_CORRUPT', /qzeros" is \[/],
    ['no scales', 'gptq', ({ tensors }) => void tensors.delete(`${UP}.scales`), 'CHECKPOINT_CORRUPT', /up_proj\.scales" is missing/],
    ['no integers', 'awq', ({ tensors }) => void tensors.delete(`${UP}.qweight`), 'CHECKPOINT_CORRUPT', /up_proj\.qweight" is missing/],
    ['misshapen integers', 'gptq', reshape(`${UP}.qweight`, [2, 192]), 'CHECKPOINT_CORRUPT', /up_proj/],
    ['scales of another shape', 'awq', reshape(`${DOWN}.scales`, [96]), 'CHECKPOINT_CORRUPT', /down_proj\.scales" is \[96\]/],
    ['scales that are integers', 'gptq', ({ tensors }) => void tensors.set(`${UP}.scales`, { dtype: 'int32', shape: [2, 96], data: new Int32Array(192) }), 'CHECKPOINT_CORRUPT', /stored as I32/],
    ['a layer twice', 'gptq', ({ tensors }) => void tensors.set(`${UP}.weight`, { dtype: 'float32', shape: [96, 32], data: new Float32Array(96 * 32) }), 'CHECKPOINT_CORRUPT', /twice/],
    ['integers of an unquantized model', 'gptq', ({ config }) => Reflect.deleteProperty(config, 'quantization_config'), 'MODEL_UNSUPPORTED', /as I32/],
  ])('is refused with %s', async (_title, name, change, reason, why) => {
    await expect(open(name, change)).rejects.toMatchObject({ name: 'LoricaError', reason, message: expect.stringMatching(why) });
  });

  test.each<[string, (parts: Parts) => void, RegExp]>([
    ['inputs reordered by activation', ({ tensors }) => void (tensors.get(`${UP}.g_idx`) as HostTensor).data.reverse(), /desc_act.*up_proj/],
    ['a zero point of 16', ({ tensors }) => void ((tensors.get(`${UP}.qzeros`) as HostTensor).data[3] = -1), /up_proj has the zero point 16/],
  ])('refuses %s by name when the layer is read', async (_title, change, why) => {
    const checkpoint = await open('gptq', change);
    await expect(checkpoint.weights.float32(`${UP}.weight`)).rejects.toMatchObject({ reason: 'MODEL_UNSUPPORTED', message: expect.stringMatching(why) });
    expect(await checkpoint.weights.float32(`${DOWN}.weight`)).toEqual(expected('gptq').get(`${DOWN}.weight`)?.data);
  });
});
