/** Writes a model as a Hugging Face folder that transformers and `openCheckpoint` read. Each file is whole or absent; config.json comes last. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import { float32ToBfloat16, float32ToFloat16 } from '../tensor/half.js';
import { toFloat32, type HostTensor } from '../tensor/host-tensor.js';
import { storageError, writeAtomically, writeSafetensors } from '../tensor/safetensors-write.js';
import { toHfConfig, weightShapes, type DecoderConfig } from './config.js';

export interface HfFolderContent {
  readonly config: DecoderConfig;
  /** Every tensor of `weightShapes(config)`. */
  readonly tensors: ReadonlyMap<string, Float32Array | HostTensor>;
  readonly dtype: 'float32' | 'float16' | 'bfloat16';
  readonly tokenizerJson: unknown;
  readonly tokenizerConfig: unknown;
}

/** Throws GRAPH_INVALID when a tensor is missing or of another size, STORAGE_FULL or STORAGE_FAILED when it can't be written. */
export async function writeHfFolder(path: string, content: HfFolderContent): Promise<void> {
  const tensors = new Map<string, HostTensor>();
  for (const [name, shape] of weightShapes(content.config)) {
    const given = content.tensors.get(name);
    const values = given === undefined || given instanceof Float32Array ? given : toFloat32(given);
    if (values?.length !== shape.reduce((product, dim) => product * dim, 1)) {
      throw new LoricaError('INTERNAL', 'GRAPH_INVALID', `tensor "${name}" has ${values?.length ?? 'no'} elements, [${shape.join(',')}] is needed`);
    }
    const data = content.dtype === 'float32' ? values : content.dtype === 'float16' ? float32ToFloat16(values) : float32ToBfloat16(values);
    tensors.set(name, { dtype: content.dtype, shape, data });
  }
  const json = (name: string, value: unknown): Promise<void> => writeAtomically(join(path, name), [Buffer.from(JSON.stringify(value, null, 2) + '\n')]);
  await mkdir(path, { recursive: true }).catch((cause: unknown) => {
    throw storageError(path, cause);
  });
  await writeSafetensors(join(path, 'model.safetensors'), tensors, { format: 'pt' });
  await json('tokenizer.json', content.tokenizerJson);
  await json('tokenizer_config.json', content.tokenizerConfig);
  await json('config.json', toHfConfig(content.config, content.dtype));
}
