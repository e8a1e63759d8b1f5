/**
 * Host memory of tensors: 64-byte aligned blocks inside ArrayBuffers of their own, counted, and given back at the last release
 * (the buffer is detached, so that a typed array kept beyond that is empty instead of dangling). Must not know about ONNX Runtime.
 */
import { MessageChannel } from 'node:worker_threads';
import koffi from 'koffi';
import { LoricaError } from '../common/errors.js';

/** Vector loads of every kernel are aligned at this many bytes. */
export const ALIGNMENT_BYTES = 64;

/** Memory that tensors and their views share. Created with one reference. */
export interface Storage {
  readonly where: 'host' | 'device';
  readonly address: bigint;
  readonly byteLength: number;
  /** False once released, or once somebody else detached the buffer: then native code must not see the address. */
  readonly alive: boolean;
  retain(): void;
  release(): void;
}

const drain = new MessageChannel();
drain.port2.close();

export class HostStorage implements Storage {
  readonly where = 'host';
  readonly address: bigint;
  readonly byteLength: number;
  private references = 1;

  private constructor(readonly bytes: Uint8Array, private readonly owned: boolean) {
    this.byteLength = bytes.byteLength;
    this.address = koffi.address(bytes);
  }

  /** Zero-filled. The block is never on V8's moving heap because its buffer is at least 64 bytes long. */
  static allocate(byteLength: number): HostStorage {
    let buffer: ArrayBuffer;
    try {
      buffer = new ArrayBuffer(byteLength + 2 * ALIGNMENT_BYTES);
    } catch (error) {
      throw new LoricaError('RESOURCE_EXHAUSTED', 'RUNTIME_FAILED', `no memory for a tensor of ${byteLength} bytes`, { cause: error });
    }
    const misaligned = Number(koffi.address(new Uint8Array(buffer)) % BigInt(ALIGNMENT_BYTES));
    const offset = misaligned === 0 ? 0 : ALIGNMENT_BYTES - misaligned;
    return new HostStorage(new Uint8Array(buffer, offset, byteLength), true);
  }

  /** Memory that belongs to somebody else: kept alive, never detached. */
  static adopt(data: ArrayBufferView): HostStorage {
    const { buffer } = data;
    if (!(buffer instanceof ArrayBuffer) || (buffer as { resizable?: boolean }).resizable === true || buffer.byteLength < ALIGNMENT_BYTES) {
      throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `only a view of an ArrayBuffer of fixed length and at least ${ALIGNMENT_BYTES} bytes can be adopted`);
    }
    return new HostStorage(new Uint8Array(buffer, data.byteOffset, data.byteLength), false);
  }

  get alive(): boolean {
    return this.references > 0 && this.bytes.byteLength === this.byteLength;
  }

  retain(): void {
    this.references++;
  }

  release(): void {
    if (--this.references > 0 || !this.owned) return;
    const { buffer } = this.bytes;
    if (buffer.byteLength > 0) drain.port1.postMessage(null, [buffer as ArrayBuffer]);
  }
}
