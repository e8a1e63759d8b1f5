/**
 * GPTQ and AWQ folders: what the quantization_config of a config.json says, and the linear layers stored as qweight, qzeros, scales
 * and g_idx. Settings whose layout isn't read are refused by name; nothing is requantized.
 */
import { LoricaError } from '../common/errors.js';
import { toFloat32, type HostTensor } from '../tensor/host-tensor.js';
import { checkFinite } from '../tensor/read-float32.js';
import { blockOf, fromAwq, fromGptq, type PackedLinear, type QuantizedLinear } from '../tensor/quantized-linear.js';

type Json = Record<string, unknown>;

export interface Quantization {
  readonly method: 'gptq' | 'awq';
  readonly bits: 4 | 8;
  /** Inputs per scale; undefined for one scale per output. */
  readonly groupSize: number | undefined;
  /** What the format took off each zero point that it stores. */
  readonly storedMinus: 0 | 1;
}

const PARTS = ['qweight', 'qzeros', 'scales', 'g_idx'] as const;
type Part = (typeof PARTS)[number];
/** Shapes of the parts of a layer that a folder holds. */
export type LayerParts = ReadonlyMap<string, { readonly shape: readonly number[]; readonly storedAs: string }>;

function unsupported(what: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `unsupported model: quantization_config ${what}`, {
    hint: 'Supported: gptq with 4 or 8 bits and without desc_act, awq with 4 bits in its gemm version; otherwise use float weights or a GGUF file.',
  });
}

/** Reads a config.json's quantization_config; undefined when there is none. Throws MODEL_UNSUPPORTED naming the setting. */
export function parseQuantization(config: unknown): Quantization | undefined {
  const json = (config as { quantization_config?: Json | null } | null)?.quantization_config;
  if (json == null) return undefined;
  const says = (key: string): string => `${key} ${JSON.stringify(json[key])}`;
  const method = json['quant_method'];
  if (method !== 'gptq' && method !== 'awq') throw unsupported(`(${String(method)})`);
  const bits = json['bits'] ?? json['w_bit'];
  if (bits !== 4 && !(bits === 8 && method === 'gptq')) throw unsupported(`(${method}) with ${String(bits)} bits`);
  if (json['dynamic'] != null && Object.keys(json['dynamic']).length > 0) throw unsupported('with settings that differ by layer (dynamic)');
  const group = json['group_size'] ?? json['q_group_size'] ?? 128;
  const whole = group === -1;
  if (!whole && (typeof group !== 'number' || !Number.isInteger(group) || group <= 0 || blockOf(group) < 16)) throw unsupported(`with group_size ${JSON.stringify(group)}`);
  const groupSize = whole ? undefined : group;
  if (method === 'awq') {
    if (!['gemm', 'GEMM', undefined].includes(json['version'] as string | undefined)) throw unsupported(`with ${says('version')}`);
    if (json['zero_point'] === false) throw unsupported(`with ${says('zero_point')}`);
    return { method, bits, groupSize, storedMinus: 0 };
  }
  const format = json['checkpoint_format'] ?? 'gptq';
  if ((format !== 'gptq' && format !== 'gptq_v2') || json['is_marlin_format'] === true) throw unsupported(`with ${says('checkpoint_format')} or a Marlin layout`);
  return { method, bits, groupSize, storedMinus: format === 'gptq' ? 1 : 0 };
}

/** `model.layers.0.mlp.up_proj.qweight` as its layer and part; undefined for another tensor. */
export function layerPart(name: string): { readonly layer: string; readonly part: Part } | undefined {
  const dot = name.lastIndexOf('.');
  const part = PARTS.find((candidate) => candidate === name.slice(dot + 1));
  return part === undefined ? undefined : { layer: name.slice(0, dot), part };
}

/** The weight's shape [out, in] that the parts stand for. Throws CHECKPOINT_CORRUPT when they don't fit together. */
export function layerShape(quantization: Quantization, layer: string, parts: LayerParts): [number, number] {
  const { method, bits } = quantization;
  const perWord = 32 / bits;
  const [first = 0, second = 0] = parts.get('qweight')?.shape ?? [];
  const [rows, columns] = method === 'gptq' ? [second, first * perWord] : [second * perWord, first];
  const groupSize = quantization.groupSize ?? columns;
  const groups = columns / groupSize;
  const expected: [Part, readonly number[]][] = [
    ['qweight', method === 'gptq' ? [columns / perWord, rows] : [columns, rows / perWord]],
    ['qzeros', [groups, rows / perWord]],
    ['scales', [groups, rows]],
    ...(parts.has('g_idx') ? [['g_idx', [columns]] as [Part, number[]]] : []),
  ];
  for (const [part, shape] of expected) {
    const found = parts.get(part);
    const type = part === 'scales' ? ['F16', 'BF16', 'F32'] : ['I32'];
    const why =
      found === undefined ? 'is missing'
      : !type.includes(found.storedAs) ? `is stored as ${found.storedAs}`
      : rows * columns === 0 || !Number.isInteger(groups) || found.shape.join() !== shape.join() ? `is [${found.shape.join()}], which doesn't fit the layer`
      : undefined;
    if (why !== undefined) throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `"${layer}.${part}" ${why}`);
  }
  if (blockOf(groupSize) < 16) throw unsupported(`with groups of ${groupSize} inputs ("${layer}")`);
  return [rows, columns];
}

/** Reads a layer through `read`, which brings the tensor of a part. Throws MODEL_UNSUPPORTED for inputs in another order (desc_act), CHECKPOINT_CORRUPT for a scale that is no number. */
export async function readLayer(
  quantization: Quantization,
  layer: string,
  [rows, columns]: readonly [number, number],
  read: (part: Part) => Promise<HostTensor | undefined>,
): Promise<QuantizedLinear> {
  const groupSize = quantization.groupSize ?? columns;
  const order = (await read('g_idx'))?.data as Int32Array | undefined;
  if (order !== undefined && !order.every((group, input) => group === Math.floor(input / groupSize))) {
    throw unsupported(`with inputs reordered by activation (desc_act; "${layer}.g_idx")`);
  }
  const part = async (name: Part): Promise<HostTensor> => (await read(name)) as HostTensor;
  const scales = toFloat32(await part('scales'));
  checkFinite(scales, `${layer}.scales`, 'the quantized weights');
  const packed: PackedLinear = {
    qweight: (await part('qweight')).data as Int32Array,
    qzeros: (await part('qzeros')).data as Int32Array,
    scales,
    rows, columns, groupSize, bits: quantization.bits,
  };
  return quantization.method === 'gptq' ? fromGptq(packed, quantization.storedMinus, layer) : fromAwq(packed);
}
