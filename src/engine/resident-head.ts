/** A target's classification head in memory. Immutable; it goes with the adapter or variant that it came with. */
import type { ClassificationHead } from '../adapters/index.js';
import type { Runtime, Tensor } from '../runtime/index.js';

export class ResidentHead {
  readonly labels: readonly string[];
  readonly template: string;
  /** [labels, C]. */
  readonly weight: Tensor;

  constructor(runtime: Runtime, { labels, template, weight }: ClassificationHead) {
    this.labels = labels;
    this.template = template;
    this.weight = runtime.from(weight, 'float32', [labels.length, weight.length / labels.length]);
  }

  get bytes(): number {
    return this.weight.byteLength;
  }

  dispose(): void {
    this.weight.dispose();
  }
}
