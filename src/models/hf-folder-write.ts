/**
 * Writes a model as a Hugging Face folder that transformers and `openCheckpoint` read. Tensors are converted one at a time.
 * Each file is whole or absent; config.json comes last.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import { elementCount, type TypedArray } from '../tensor/dtype.js';
import { float32ToBfloat16, float32ToFloat16 } from '../tensor/half.js';
import { toFloat32, type HostTensor } from '../tensor/host-tensor.js';
import { storageError, streamSafetensors, writeAtomically, type TensorLayout } from '../tensor/safetensors-write.js';
import type { WeightSource } from './checkpoint-types.js';
import { CLASSIFICATION_HEAD_WEIGHT, HEAD_WEIGHT } from './decoder.js';
import { storedTensors, transpose, type StoredTensor } from './checkpoint-layout.js';
import { toHfConfig, weightShapes, type DecoderConfig } from './config.js';

/** Rows of scores of labels from the last token's hidden state, [labels, C]. */
export interface LabelHead {
  readonly labels: readonly string[];
  readonly weight: Float32Array;
}

export interface HfFolderContent {
  readonly config: DecoderConfig;
  /** Every tensor of `weightShapes(config)`, at hand or read when its turn comes. */
  readonly tensors: ReadonlyMap<string, Float32Array | HostTensor> | Pick<WeightSource, 'float32'>;
  readonly dtype: 'float32' | 'float16' | 'bfloat16';
  readonly tokenizerJson: unknown;
  readonly tokenizerConfig: unknown;
  /** Makes it a model for sequence classification (`score.weight`), without the language model's head where that is a tensor of its own. */
  readonly head?: LabelHead;
}

/** Throws MODEL_UNSUPPORTED for what the format can't say, GRAPH_INVALID when a tensor is missing or of another size, STORAGE_FULL or STORAGE_FAILED when it can't be written. */
export async function writeHfFolder(path: string, content: HfFolderContent): Promise<void> {
  const { config, dtype, head } = content;
  const settings = toHfConfig(config, dtype, head?.labels);
  const shapes = weightShapes(config);
  const left = head === undefined ? undefined : HEAD_WEIGHT;
  const stored = new Map(storedTensors(config).filter(({ parts }) => parts[0] !== left).map((tensor) => [tensor.name, tensor]));
  const shapeOfHead = head === undefined ? [] : [[CLASSIFICATION_HEAD_WEIGHT, { shape: [head.labels.length, config.hiddenSize] }] as const];
  const layout: TensorLayout = new Map([...stored, ...shapeOfHead].map(([name, { shape }]) => [name, { dtype, shape }]));
  const read = async (name: string): Promise<TypedArray> => {
    const tensor = stored.get(name);
    const values = tensor === undefined ? head!.weight : await joined(content.tensors, tensor, shapes);
    return dtype === 'float32' ? values : dtype === 'float16' ? float32ToFloat16(values) : float32ToBfloat16(values);
  };
  const json = (name: string, value: unknown): Promise<void> => writeAtomically(join(path, name), [Buffer.from(JSON.stringify(value, null, 2) + '\n')]);
  await mkdir(path, { recursive: true }).catch((cause: unknown) => {
    throw storageError(path, cause);
  });
  await streamSafetensors(join(path, 'model.safetensors'), layout, read, { format: 'pt' });
  await json('tokenizer.json', content.tokenizerJson);
  await json('tokenizer_config.json', content.tokenizerConfig);
  await json('config.json', settings);
}

/** A stored tensor made of its parts. */
async function joined(tensors: HfFolderContent['tensors'], { parts, shape, transposed }: StoredTensor, shapes: ReadonlyMap<string, readonly number[]>): Promise<Float32Array> {
  const one = (part: string): Promise<Float32Array> => valuesOf(tensors, part, shapes.get(part) as readonly number[]);
  if (parts.length === 1 && !transposed) return one(parts[0]!);
  const whole = new Float32Array(elementCount(shape));
  let at = 0;
  for (const part of parts) {
    const values = await one(part);
    whole.set(values, at);
    at += values.length;
  }
  return transposed ? transpose(whole, shape[1]!, shape[0]!) : whole;
}

async function valuesOf(tensors: HfFolderContent['tensors'], name: string, shape: readonly number[]): Promise<Float32Array> {
  const given = 'float32' in tensors ? await tensors.float32(name) : tensors.get(name);
  const values = given === undefined || given instanceof Float32Array ? given : toFloat32(given);
  if (values?.length !== elementCount(shape)) {
    throw new LoricaError('INTERNAL', 'GRAPH_INVALID', `tensor "${name}" has ${values?.length ?? 'no'} elements, [${shape.join(',')}] is needed`);
  }
  return values;
}
