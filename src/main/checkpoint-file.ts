/**
 * A training checkpoint as one safetensors file: the state is the header's metadata, tensors go out piece by piece as views of live
 * memory and come back one at a time. What keeps the bytes (src/jobs) knows neither.
 */
import { LoricaError } from '../common/errors.js';
import type { HostTensor } from '../tensor/host-tensor.js';
import { readSafetensorsHeader, readTensor, safetensorsPieces } from '../tensor/safetensors.js';
import type { CheckpointState, StoredCheckpoint, TrainingCheckpoint } from '../tuning/index.js';

const STATE = 'lorica.training';

/** The file's bytes in order, without copying a tensor. */
export function checkpointPieces({ state, tensors }: TrainingCheckpoint): Generator<Uint8Array> {
  const host = new Map<string, HostTensor>(
    [...tensors].map(([name, { shape, data }]) => [name, { dtype: data instanceof Float64Array ? 'float64' : 'float32', shape, data }]),
  );
  return safetensorsPieces(host, { [STATE]: JSON.stringify(state) });
}

/**
 * Opens a file that `checkpointPieces` made. Of a state whose format is not CHECKPOINT_FORMAT only `format` may be relied on: a job passes it over.
 * Throws CHECKPOINT_MISSING or CHECKPOINT_CORRUPT, the latter also where there is no state.
 */
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
  const state = json === undefined ? undefined : parsed(json);
  if (typeof state?.format === 'number') return state as CheckpointState;
  throw new LoricaError('FAILED_PRECONDITION', 'CHECKPOINT_CORRUPT', `${name} has no training state`);
}

function parsed(json: string): Partial<CheckpointState> | undefined {
  try {
    return (JSON.parse(json) as Partial<CheckpointState> | null) ?? undefined;
  } catch {
    return undefined;
  }
}
