/**
 * A training checkpoint as one safetensors file: the state is the header's metadata, tensors go out piece by piece as views of live
 * memory and come back one at a time. What keeps the bytes (src/jobs) knows neither.
 */
import { LoricaError } from '../common/errors.js';
import type { HostTensor } from '../tensor/host-tensor.js';
import { readSafetensorsHeader, readTensor, safetensorsPieces } from '../tensor/safetensors.js';
import { CHECKPOINT_FORMAT, type CheckpointState, type StoredCheckpoint, type TrainingCheckpoint } from '../tuning/index.js';

const STATE = 'lorica.training';

/** The file's bytes in order, without copying a tensor. */
export function checkpointPieces({ state, tensors }: TrainingCheckpoint): Generator<Uint8Array> {
  const host = new Map<string, HostTensor>(
    [...tensors].map(([name, { shape, data }]) => [name, { dtype: data instanceof Float64Array ? 'float64' : 'float32', shape, data }]),
  );
  return safetensorsPieces(host, { [STATE]: JSON.stringify(state) });
}

/** Opens a file that `checkpointPieces` made. Throws CHECKPOINT_MISSING or CHECKPOINT_CORRUPT, the latter also for another format's state. */
export async function openCheckpointFile(name: string, path: string): Promise<StoredCheckpoint> {
  const file = await readSafetensorsHeader(path);
  const state = readState(name, file.metadata[STATE]);
  return {
    name,
    state,
    shapes: new Map([...file.tensors].map(([tensor, { shape }]) => [tensor, shape])),
    read: async (tensor) => (await readTensor(file, tensor)).data as Float32Array | Float64Array,
  };
}

function readState(name: string, json: string | undefined): CheckpointState {
  const state = json === undefined ? undefined : (JSON.parse(json) as CheckpointState);
  if (state?.format === CHECKPOINT_FORMAT) return state;
  throw new LoricaError(
    'FAILED_PRECONDITION',
    'CHECKPOINT_CORRUPT',
    `${name} has a training state of format ${state?.format ?? 'none'}, not ${CHECKPOINT_FORMAT}`,
  );
}
