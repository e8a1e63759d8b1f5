/**
 * The real SmolLM2 and its reference logits, for any test. The model comes through the catalogue like a user's; where it can't be
 * had the test fails, saying every source that was tried.
 */
import { join } from 'node:path';
import { pullModel } from '../../src/models/catalogue.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { readSafetensorsHeader, readTensor } from '../../src/tensor/safetensors.js';

export const GOLDEN = join(process.cwd(), 'test', 'golden');

export async function openSmollm2(): Promise<Checkpoint> {
  const { path, digest } = await pullModel('smollm2-135m-instruct');
  return openCheckpoint(path, { id: 'smollm2-135m-instruct', knownDigest: digest });
}

export interface GoldenLogits {
  readonly prompt: string;
  /** [T] */
  readonly tokens: readonly number[];
  /** All logits of the last position, [V]. */
  readonly last: Float32Array;
  /** Chosen columns of the vocabulary, [K]. */
  readonly columns: readonly number[];
  /** Logits of all positions at those columns, [T,K]. */
  readonly atColumns: Float32Array;
  /** [T] */
  readonly argmax: readonly number[];
}

export async function readGoldenLogits(name: 'chat' | 'review'): Promise<GoldenLogits> {
  const file = await readSafetensorsHeader(join(GOLDEN, 'smollm2', `logits-${name}.safetensors`));
  const integers = async (tensor: string): Promise<number[]> => Array.from((await readTensor(file, tensor)).data as BigInt64Array, Number);
  const floats = async (tensor: string): Promise<Float32Array> => (await readTensor(file, tensor)).data as Float32Array;
  return {
    prompt: file.metadata['prompt'] as string,
    tokens: await integers('tokens'),
    last: await floats('last'),
    columns: await integers('columns'),
    atColumns: await floats('at_columns'),
    argmax: await integers('argmax'),
  };
}
