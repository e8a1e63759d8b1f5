/**
 * A Hugging Face model folder: config.json, one or several safetensors (model.safetensors.index.json), tokenizer.json and,
 * if there are, generation_config.json, tokenizer_config.json and chat_template.jinja. File names from the index never leave
 * the folder. Pickled weights are refused.
 */
import { open, readFile, stat, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import { blockOf, dequantizeLinear, type QuantizedLinear } from '../tensor/quantized-linear.js';
import { readSafetensorsHeader, readTensor, readTensorFloat32, type SafetensorsEntry, type SafetensorsFile } from '../tensor/safetensors.js';
import type { WeightSource } from './checkpoint-types.js';
import { nameInFile, storedPlaces, storedTensors, transpose } from './checkpoint-layout.js';
import { weightShapes, type DecoderConfig } from './config.js';
import { layerPart, layerShape, parseQuantization, readLayer, type Quantization } from './hf-quantized.js';
import { checkShapes } from './weight-check.js';

const INDEX = 'model.safetensors.index.json';
const SINGLE = 'model.safetensors';
/** Text files beside the weights are small; tokenizer.json of a large vocabulary is the largest. */
const MAX_JSON_BYTES = 128 * 1024 * 1024;

export interface HfFolder {
  readonly path: string;
  readonly config: unknown;
  readonly generationConfig: Readonly<Record<string, unknown>>;
  readonly tokenizer: unknown;
  readonly tokenizerConfig: Readonly<Record<string, unknown>>;
  readonly chatTemplate: string | undefined;
  readonly shards: readonly SafetensorsFile[];
  /** Names of all files read, sorted. */
  readonly files: readonly string[];
}

async function readText(path: string): Promise<string | undefined> {
  try {
    const { size } = await stat(path);
    if (size > MAX_JSON_BYTES) throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${path} has ${size} bytes, more than ${MAX_JSON_BYTES}`);
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function parse(path: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
}

function missing(path: string, hint: string): LoricaError {
  return new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${path} does not exist`, { hint });
}

/** Reads everything but the weights' data. Throws CHECKPOINT_MISSING, CHECKPOINT_CORRUPT or MODEL_UNSUPPORTED. */
export async function readHfFolder(path: string): Promise<HfFolder> {
  const files: string[] = [];
  const text = async (name: string): Promise<string | undefined> => {
    const found = await readText(join(path, name));
    if (found !== undefined) files.push(name);
    return found;
  };
  const required = async (name: string, hint: string): Promise<unknown> => {
    const found = await text(name);
    if (found === undefined) throw missing(join(path, name), hint);
    return parse(join(path, name), found);
  };
  const optional = async (name: string): Promise<Record<string, unknown>> => {
    const found = await text(name);
    const value = found === undefined ? {} : parse(join(path, name), found);
    if (typeof value !== 'object' || value === null) throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${join(path, name)} is not an object`);
    return value as Record<string, unknown>;
  };
  const config = await required('config.json', 'A model folder holds config.json, safetensors and tokenizer.json.');
  const generationConfig = await optional('generation_config.json');
  const tokenizer = await required('tokenizer.json', 'Save the tokenizer with transformers (a "fast" tokenizer), which writes tokenizer.json.');
  const tokenizerConfig = await optional('tokenizer_config.json');
  const chatTemplate = (await text('chat_template.jinja')) ?? namedTemplate(tokenizerConfig['chat_template']);
  const shards = await readShards(path, files);
  return { path, config, generationConfig, tokenizer, tokenizerConfig, chatTemplate, shards, files: files.sort() };
}

function namedTemplate(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const entry = (value as { name?: unknown; template?: unknown }[]).find((candidate) => candidate.name === 'default');
  return typeof entry?.template === 'string' ? entry.template : undefined;
}

async function readShards(path: string, files: string[]): Promise<SafetensorsFile[]> {
  const text = await readText(join(path, INDEX));
  if (text === undefined) {
    const single = await stat(join(path, SINGLE)).catch(() => undefined);
    if (single === undefined) {
      if (await stat(join(path, 'pytorch_model.bin')).catch(() => undefined)) {
        throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${path} holds pickled weights (pytorch_model.bin)`, { hint: 'Save them as safetensors.' });
      }
      throw missing(join(path, SINGLE), `Nor is there ${INDEX}.`);
    }
    files.push(SINGLE);
    return [await readSafetensorsHeader(join(path, SINGLE))];
  }
  files.push(INDEX);
  const index = parse(join(path, INDEX), text) as { weight_map?: unknown } | null;
  const map = index?.weight_map;
  const corrupt = (why: string): LoricaError => new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${join(path, INDEX)}: ${why}`);
  if (typeof map !== 'object' || map === null) throw corrupt('weight_map is missing');
  const names = [...new Set(Object.values(map as Record<string, unknown>))].sort();
  const shards: SafetensorsFile[] = [];
  for (const name of names) {
    if (typeof name !== 'string' || !/^[\w.-]+\.safetensors$/.test(name)) throw corrupt(`${JSON.stringify(name)} is no safetensors file of this folder`);
    files.push(name);
    shards.push(await readSafetensorsHeader(join(path, name)));
  }
  for (const [tensor, name] of Object.entries(map as Record<string, string>)) {
    if (!shards[names.indexOf(name)]?.tensors.has(tensor)) throw corrupt(`"${tensor}" is not in ${name}`);
  }
  return shards;
}

interface Place {
  readonly file: SafetensorsFile;
  readonly entry: SafetensorsEntry;
  /** As the file spells it. */
  readonly name: string;
}

/** A linear layer in quantized parts. */
interface StoredLayer {
  readonly layer: string;
  readonly shape: [number, number];
  readonly parts: ReadonlyMap<string, Place>;
}

/** Opens the shards. Throws as `checkShapes`, and MODEL_UNSUPPORTED for a dtype that isn't floating point. */
export async function openHfWeights(folder: HfFolder, config: DecoderConfig): Promise<{ weights: WeightSource; close: () => Promise<void> }> {
  const quantization = parseQuantization(folder.config);
  const found = new Map<string, Place>();
  const layers = new Map<string, Map<string, Place>>();
  for (const file of folder.shards) {
    for (const [name, entry] of file.tensors) {
      const part = quantization && layerPart(name);
      if (part !== undefined) {
        const parts = layers.get(part.layer) ?? new Map<string, Place>();
        layers.set(part.layer, parts.set(part.part, { file, entry, name }));
        continue;
      }
      const stored = nameInFile(name, config);
      if (stored === undefined) continue;
      if (found.has(stored)) throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${file.path} holds "${name}", which another file holds too`);
      if (!['F32', 'F16', 'BF16'].includes(entry.storedAs)) {
        throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${file.path} stores "${name}" as ${entry.storedAs}`, { hint: 'Supported: F32, F16, BF16.' });
      }
      found.set(stored, { file, entry, name });
    }
  }
  const shapes = weightShapes(config);
  const present = new Map([...found].map(([name, { entry }]) => [name, entry.shape]));
  const quantizedLayers = new Map<string, StoredLayer>();
  for (const [layer, parts] of layers) {
    const shape = layerShape(quantization as Quantization, layer, new Map([...parts].map(([part, { entry }]) => [part, entry])));
    if (present.has(`${layer}.weight`)) throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${folder.path} holds "${layer}" twice, as floats and quantized`);
    present.set(`${layer}.weight`, shape);
    quantizedLayers.set(`${layer}.weight`, { layer, shape, parts });
  }
  checkShapes(folder.path, new Map(storedTensors(config).map(({ name, shape }) => [name, shape])), present);
  const places = storedPlaces(config);
  const handles = new Map<SafetensorsFile, FileHandle>();
  const close = async (): Promise<void> => {
    await Promise.all([...handles.values()].map((handle) => handle.close()));
  };
  try {
    for (const file of folder.shards) handles.set(file, await open(file.path, 'r'));
  } catch (error) {
    await close();
    throw error;
  }
  const find = (name: string): { place: Place; firstRow: number; transposed: boolean } => {
    const stored = places.get(name);
    const place = stored && found.get(stored.stored.name);
    if (stored === undefined || place === undefined) throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${folder.path} has no tensor "${name}"`);
    return { place, firstRow: stored.firstRow, transposed: stored.stored.transposed };
  };
  const quantized = (name: string): Promise<QuantizedLinear> | undefined => {
    const layer = quantizedLayers.get(name);
    if (layer === undefined) return undefined;
    return readLayer(quantization as Quantization, layer.layer, layer.shape, async (part) => {
      const place = layer.parts.get(part);
      return place && readTensor(place.file, `${layer.layer}.${part}`, handles.get(place.file));
    });
  };
  const weights: WeightSource = {
    names: () => [...shapes.keys()],
    shape: (name) => quantizedLayers.get(name)?.shape ?? (find(name), shapes.get(name)!),
    storedAs: (name) => (quantizedLayers.has(name) ? `INT${(quantization as Quantization).bits}` : find(name).place.entry.storedAs),
    async float32(name) {
      const linear = await quantized(name);
      if (linear !== undefined) return dequantizeLinear(linear);
      const { place: { file, entry, name: spelt }, firstRow, transposed } = find(name);
      const handle = handles.get(file) as FileHandle;
      const [rows, columns = 1] = shapes.get(name)! as [number, number?];
      if (!transposed) return readTensorFloat32(file, spelt, handle, { first: firstRow * columns, count: rows * columns });
      const whole = await readTensorFloat32(file, spelt, handle);
      return transpose(whole, columns, entry.shape[1]!).subarray(firstRow * columns, (firstRow + rows) * columns).slice();
    },
    quantizedAs(name) {
      const layer = quantizedLayers.get(name);
      if (layer === undefined) return undefined;
      const { bits, groupSize } = quantization as Quantization;
      return { bits, blockSize: blockOf(groupSize ?? layer.shape[1]) };
    },
    quantized,
  };
  return { weights, close };
}
