/**
 * The tensors of the serving form and how each is made from the checkpoint's. q/k/v and gate/up are merged along their outputs so
 * that one product reads the input once. A group is the unit of making and of sharing: a variant makes anew exactly the groups whose
 * sources it changes and shares all others with its base. Nothing here touches a runtime.
 */
import { attentionKinds, familyOf, linearShapes, normShapes, ropeTables, rotaryWidth, weightShapes, type AttentionKind, type DecoderConfig } from './config.js';
import { EMBEDDING_WEIGHT, FINAL_NORM_BIAS, FINAL_NORM_WEIGHT, HEAD_WEIGHT, layerPrefix, POSITION_WEIGHT, type LinearModule } from './decoder.js';
import { toFloat32, type HostTensor } from '../tensor/host-tensor.js';
import type { QuantizedLinear } from '../tensor/quantized-linear.js';
import { quantizeInt8, QUANTIZATION_BLOCK } from './quantize.js';
import { quantizeInt4 } from './quantize-int4.js';
import { linearFormat, NOTHING_STORED, packedBytes, storedFormats, type LinearFormat, type QuantizedAs, type ServingForm, type StoredFormats } from './serving-formats.js';

export { NOTHING_STORED, type ServingForm, type StoredFormats } from './serving-formats.js';

/** Gives a source as float32. */
export type ReadFloat32 = (source: string) => Promise<Float32Array>;
/** Gives a source as the integers that the checkpoint stores; asked only for layers in `StoredFormats`. */
export type ReadQuantized = (source: string) => Promise<QuantizedLinear> | undefined;

export interface ServingTensor {
  readonly name: string;
  readonly dtype: 'float32' | 'uint8';
  readonly shape: readonly number[];
}

export interface ServingWeightGroup {
  readonly name: string;
  /** Hugging Face names that it is made of. */
  readonly sources: readonly string[];
  readonly tensors: readonly ServingTensor[];
  /** The tensors' elements, in the order of `tensors`; equal objects share memory. `quantized` is needed where formats are stored. */
  make(read: ReadFloat32, quantized?: ReadQuantized): Promise<readonly (Float32Array | Uint8Array)[]>;
}

/** One linear layer of the serving form: what it is called, what it merges, and its sizes. */
export interface MergedLinear {
  readonly name: string;
  /** Module names without '.weight'. */
  readonly modules: readonly string[];
  /** K */
  readonly inputs: number;
  /** N, per module. */
  readonly outputs: readonly number[];
  readonly bias: boolean;
}

/** The four linear layers of a decoder layer, in order. */
export function mergedLinears(config: DecoderConfig, layer: number): { qkv: MergedLinear; o: MergedLinear; gateUp: MergedLinear; down: MergedLinear } {
  const prefix = layerPrefix(layer);
  const shapes = linearShapes(config, layer);
  const linear = (name: string, candidates: readonly LinearModule[]): MergedLinear => {
    const modules = candidates.filter((module) => shapes.has(module));
    const merged = modules.map((module) => shapes.get(module)!);
    const { inputs, bias } = merged[0]!;
    return { name: `${prefix}.${name}`, modules: modules.map((module) => `${prefix}.${module}`), inputs, outputs: merged.map(({ outputs }) => outputs), bias };
  };
  return {
    qkv: linear('self_attn.qkv', ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj']),
    o: linear('self_attn.o', ['self_attn.o_proj']),
    gateUp: linear('mlp.gate_up', ['mlp.gate_proj', 'mlp.up_proj']),
    down: linear('mlp.down', ['mlp.down_proj']),
  };
}

export function headLinear(config: DecoderConfig): MergedLinear {
  const source = config.tieWordEmbeddings ? EMBEDDING_WEIGHT : HEAD_WEIGHT;
  return { name: 'head', modules: [source.replace(/\.weight$/, '')], inputs: config.hiddenSize, outputs: [config.vocabSize], bias: false };
}

/** Blocks must not straddle rows of the table, so that one quantized table can serve the head's product and the embedding's Gather. */
export function embeddingIsQuantized(config: DecoderConfig, form: ServingForm): boolean {
  return form !== 'float32' && config.hiddenSize % QUANTIZATION_BLOCK === 0;
}

export const EMBEDDING = 'embedding';
/** Rotary tables [contextTokens, rotaryWidth/2] of a kind of layers. */
export const ropeNames = ({ name }: Pick<AttentionKind, 'name'>): { cos: string; sin: string } => ({ cos: `rope.${name}.cos`, sin: `rope.${name}.sin` });

/** The formats of the layers whose integers are the checkpoint's own; `quantizedAs` tells how a source is stored. */
export function storedLinears(config: DecoderConfig, form: ServingForm, quantizedAs: QuantizedAs): StoredFormats {
  const layers = Array.from({ length: config.layers }, (_, layer) => Object.values(mergedLinears(config, layer))).flat();
  return storedFormats(config.tieWordEmbeddings ? layers : [...layers, headLinear(config)], form, quantizedAs);
}

/** Names and shapes of a linear layer's tensors in a format. */
export function linearTensors(linear: MergedLinear, format: LinearFormat): readonly ServingTensor[] {
  const rows = sum(linear.outputs);
  const bias: ServingTensor[] = linear.bias ? [{ name: `${linear.name}.bias`, dtype: 'float32', shape: [rows] }] : [];
  if (format === 'float32') return [{ name: `${linear.name}.weight`, dtype: 'float32', shape: [rows, linear.inputs] }, ...bias];
  const { bits, blockSize } = format;
  const blocks = Math.ceil(linear.inputs / blockSize);
  const zeroPoints: ServingTensor[] = format.zeroPoints ? [{ name: `${linear.name}.zero_points`, dtype: 'uint8', shape: [rows, packedBytes(blocks, bits)] }] : [];
  return [
    { name: `${linear.name}.values`, dtype: 'uint8', shape: [rows, blocks, packedBytes(blockSize, bits)] },
    { name: `${linear.name}.scales`, dtype: 'float32', shape: [rows, blocks] },
    ...zeroPoints, ...bias,
  ];
}

/** Names and shapes of the embedding's tensors in this form. */
export function embeddingTensors(config: DecoderConfig, form: ServingForm): readonly ServingTensor[] {
  const { vocabSize, hiddenSize } = config;
  if (!embeddingIsQuantized(config, form)) return [{ name: `${EMBEDDING}.weight`, dtype: 'float32', shape: [vocabSize, hiddenSize] }];
  return [
    { name: `${EMBEDDING}.values`, dtype: 'uint8', shape: [vocabSize, hiddenSize] },
    { name: `${EMBEDDING}.scales`, dtype: 'float32', shape: [vocabSize, hiddenSize / QUANTIZATION_BLOCK] },
  ];
}

/** All groups of a model, in the order in which they are best read. `contextTokens` is the length of the rotary tables. */
export function servingWeightGroups(
  config: DecoderConfig, form: ServingForm, contextTokens: number, stored: StoredFormats = NOTHING_STORED,
): readonly ServingWeightGroup[] {
  const groups: ServingWeightGroup[] = [...embeddingAndHead(config, form, stored)];
  for (let layer = 0; layer < config.layers; layer++) {
    for (const [name, shape] of normShapes(config)) groups.push(normGroup(`${layerPrefix(layer)}.${name}`, shape, config));
    for (const linear of Object.values(mergedLinears(config, layer))) groups.push(linearGroup(linear, form, stored));
  }
  const shapes = weightShapes(config);
  for (const name of [FINAL_NORM_WEIGHT, FINAL_NORM_BIAS]) if (shapes.has(name)) groups.push(normGroup(name, shapes.get(name)!, config));
  if (shapes.has(POSITION_WEIGHT)) groups.push(plainGroup(POSITION_WEIGHT, shapes.get(POSITION_WEIGHT)!));
  else for (const kind of attentionKinds(config)) groups.push(ropeGroup(config, kind, contextTokens));
  return groups;
}

function embeddingAndHead(config: DecoderConfig, form: ServingForm, stored: StoredFormats): readonly ServingWeightGroup[] {
  const head = linearGroup(headLinear(config), form, stored);
  const table = embeddingTensors(config, form);
  const quantized = embeddingIsQuantized(config, form);
  if (config.tieWordEmbeddings) {
    const shares = form === 'float32' || quantized;
    return [{
      name: EMBEDDING, sources: [EMBEDDING_WEIGHT], tensors: [...head.tensors, ...table],
      make: async (read) => {
        const weight = await read(EMBEDDING_WEIGHT);
        const parts = await head.make(() => Promise.resolve(weight));
        return [...parts, ...(shares ? parts : [weight])];
      },
    }];
  }
  const asLinear: MergedLinear = { name: EMBEDDING, modules: [EMBEDDING], inputs: config.hiddenSize, outputs: [config.vocabSize], bias: false };
  const own = linearGroup(asLinear, quantized ? 'int8' : 'float32', NOTHING_STORED);
  return [{ name: EMBEDDING, sources: [EMBEDDING_WEIGHT], tensors: table, make: (read) => own.make(() => read(EMBEDDING_WEIGHT)) }, head];
}

function linearGroup(linear: MergedLinear, form: ServingForm, stored: StoredFormats): ServingWeightGroup {
  const rows = sum(linear.outputs);
  const weights = linear.modules.map((module) => `${module}.weight`);
  const biases = linear.bias ? linear.modules.map((module) => `${module}.bias`) : [];
  const format = linearFormat(linear, form, stored);
  return {
    name: linear.name, sources: [...weights, ...biases], tensors: linearTensors(linear, format),
    make: async (read, quantized) => {
      const bias = linear.bias ? [await merged(biases, read)] : [];
      if (stored.has(linear.name)) return [...(await mergedIntegers(weights, quantized)), ...bias];
      const weight = await merged(weights, read);
      if (format === 'float32') return [weight, ...bias];
      const { values, scales } = await (format.bits === 4 ? quantizeInt4 : quantizeInt8)(weight, rows, linear.inputs);
      return [values, scales, ...bias];
    },
  };
}

/** Packed integers, scales and zero points of stored layers, rows one under the other; nothing is changed. */
async function mergedIntegers(sources: readonly string[], quantized: ReadQuantized | undefined): Promise<[Uint8Array, Float32Array, Uint8Array]> {
  const parts: QuantizedLinear[] = [];
  for (const source of sources) {
    const part = await quantized?.(source);
    if (part === undefined) throw new Error(`${source} is not stored as integers`);
    parts.push(part);
  }
  const joined = <T extends Uint8Array | Float32Array>(pick: (part: QuantizedLinear) => T, create: (length: number) => T): T => {
    if (parts.length === 1) return pick(parts[0]!);
    const whole = create(sum(parts.map((part) => pick(part).length)));
    parts.reduce((at, part) => {
      whole.set(pick(part), at);
      return at + pick(part).length;
    }, 0);
    return whole;
  };
  return [
    joined(({ packed }) => packed, (length) => new Uint8Array(length)),
    joined(({ scales }) => scales, (length) => new Float32Array(length)),
    joined(({ zeroPoints }) => zeroPoints, (length) => new Uint8Array(length)),
  ];
}

async function merged(sources: readonly string[], read: ReadFloat32): Promise<Float32Array> {
  const parts: Float32Array[] = [];
  for (const source of sources) parts.push(await read(source));
  if (parts.length === 1) return parts[0]!;
  const whole = new Float32Array(sum(parts.map((part) => part.length)));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A norm's gain or bias. A gain that is one plus the weight is made so here, once. */
function normGroup(name: string, shape: readonly number[], config: DecoderConfig): ServingWeightGroup {
  const plain = plainGroup(name, shape);
  if (familyOf(config).norm !== 'rmsPlusOne') return plain;
  return { ...plain, make: async (read) => [(await read(name)).map((weight) => 1 + weight)] };
}

function plainGroup(name: string, shape: readonly number[]): ServingWeightGroup {
  return { name, sources: [name], tensors: [{ name, dtype: 'float32', shape }], make: async (read) => [await read(name)] };
}

function ropeGroup(config: DecoderConfig, kind: AttentionKind, contextTokens: number): ServingWeightGroup {
  const shape = [contextTokens, rotaryWidth(config) / 2];
  const names = ropeNames(kind);
  return {
    name: `rope.${kind.name}`, sources: [],
    tensors: [{ name: names.cos, dtype: 'float32', shape }, { name: names.sin, dtype: 'float32', shape }],
    make: () => {
      const { cos, sin } = ropeTables({ headDim: config.headDim, rotaryDim: rotaryWidth(config), ...kind.rope }, contextTokens);
      return Promise.resolve([cos, sin]);
    },
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** Reads a variant's changed tensors first and the base's for the rest. The result is never the memory of `changed`. */
export function overlaid(
  base: ReadFloat32, changed: ReadonlyMap<string, HostTensor>,
): ReadFloat32 {
  return (source) => {
    const tensor = changed.get(source);
    return tensor === undefined ? base(source) : Promise.resolve(toFloat32(tensor).slice());
  };
}
