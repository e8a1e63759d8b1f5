/**
 * What differs between devices: how a session is put on it, where its tensors live, and how bytes get there and back.
 * The CPU device is here; cuda-device.ts has the other. Device tensors of the CPU are host tensors.
 */
import { LoricaError } from '../common/errors.js';
import type { Environment } from './environment.js';
import { HostStorage, type Storage } from './host-memory.js';
import type { Tensor } from './tensor.js';
import type { DeviceName } from './types.js';

export interface Device {
  readonly name: DeviceName;
  /** True where host tensors are copied to the device when they are bound, so that they must be bound anew before every run. */
  readonly copiesHostInputs: boolean;
  /** Adds the execution provider to OrtSessionOptions. */
  configure(sessionOptions: bigint): void;
  /** Zero-filled memory for device tensors. */
  allocate(byteLength: number): Storage;
  /** An OrtValue over the tensor, wherever it is. The caller releases it. */
  valueOver(tensor: Tensor): bigint;
  /** Copies all bytes; both tensors are alive and of equal byte length. */
  copy(from: Tensor, to: Tensor): Promise<void>;
  dispose(): void;
}

export class CpuDevice implements Device {
  readonly name = 'cpu';
  readonly copiesHostInputs = false;

  constructor(private readonly environment: Environment) {}

  configure(): void {}

  allocate(byteLength: number): Storage {
    return HostStorage.allocate(byteLength);
  }

  valueOver(tensor: Tensor): bigint {
    return this.environment.valueOver(tensor);
  }

  copy(from: Tensor, to: Tensor): Promise<void> {
    copyOnHost(from, to);
    return Promise.resolve();
  }

  dispose(): void {}
}

/** Bytes between two host tensors; overlapping memory is copied as if through a buffer. */
export function copyOnHost(from: Tensor, to: Tensor): void {
  hostBytes(to).set(hostBytes(from));
}

export function hostBytes(tensor: Tensor): Uint8Array {
  const { data } = tensor;
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** 'cuda:3' -> 3. Throws INVALID_ARGUMENT for anything else. */
export function cudaIndex(name: DeviceName): number {
  const match = /^cuda:(\d{1,3})$/.exec(name);
  if (match === null) {
    throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `device "${name}" is unknown`, { hint: 'Use cpu or cuda:0, cuda:1, …' });
  }
  return Number(match[1]);
}
