/**
 * One container of prepacked weights: kernels of different sessions over the same initializer tensor share one packed copy.
 * It outlives every session that was loaded with it, however early it is disposed.
 */
import { LoricaError } from '../common/errors.js';
import type { Api } from './library.js';
import { trimNativeHeap } from './native-heap.js';
import { create } from './status.js';

export class PrepackedWeights {
  /** OrtPrepackedWeightsContainer*. */
  readonly pointer: bigint;
  private users = 1;
  private disposed = false;

  constructor(private readonly api: Api) {
    this.pointer = create(api, 'CreatePrepackedWeightsContainer');
  }

  retain(): void {
    if (this.disposed) throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_FAILED', 'the container of prepacked weights is disposed');
    this.users++;
  }

  release(): void {
    if (--this.users > 0) return;
    this.api.ReleasePrepackedWeightsContainer(this.pointer);
    void trimNativeHeap();
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.release();
  }
}
