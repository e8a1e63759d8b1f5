/**
 * Gradients' memory lent to activations. A layer's gradients are written by its backward run, when the activations of the layers above it are done
 * with; where a step has one micro-batch they mean nothing from one update to the next backward run. So activations may lie there until then.
 * Invariant: what is lent until a layer's backward run lies where only lower layers' gradients are written, and never over a gap between tensors. What
 * gets written there must be written whole, not added.
 */
import type { Tensor } from '../runtime/index.js';

/** Elements of one parameter in the flat vector of gradients, and the layer that it lies in. */
export interface LayerPlace {
  readonly start: number;
  readonly elements: number;
  readonly layer: number;
}

interface Segment {
  readonly start: number;
  readonly end: number;
  readonly layer: number;
}

/** Activations begin where tensors may: at multiples of 64 bytes. */
const ALIGNMENT_ELEMENTS = 16;

export class LentMemory {
  /** Not lent, ascending. */
  private free: Segment[] = [];

  /** `gradients` is the flat vector, float32. */
  constructor(private readonly gradients: Tensor, private readonly places: readonly LayerPlace[]) {
    this.takeBack();
  }

  /** Everything may be lent again. */
  takeBack(): void {
    this.free = this.places.map(({ start, elements, layer }) => ({ start, end: start + elements, layer })).sort((a, b) => a.start - b.start);
  }

  /** [rows,width] that keeps what it holds until layer `until` has run backward; undefined where no stretch is long enough. */
  lend(rows: number, width: number, until: number): Tensor | undefined {
    const elements = Math.ceil((rows * width) / ALIGNMENT_ELEMENTS) * ALIGNMENT_ELEMENTS;
    const start = this.firstFit(elements, until);
    if (start === undefined) return undefined;
    this.cut(start, start + elements);
    return this.gradients.view([rows, width], start);
  }

  private firstFit(elements: number, until: number): number | undefined {
    let [start, end] = [0, -1];
    for (const segment of this.free) {
      if (segment.layer >= until) continue;
      if (segment.start !== end) start = segment.start;
      ({ end } = segment);
      if (end - start >= elements) return start;
    }
    return undefined;
  }

  private cut(start: number, end: number): void {
    this.free = this.free.flatMap((segment) => {
      const kept = [{ ...segment, end: Math.min(segment.end, start) }, { ...segment, start: Math.max(segment.start, end) }];
      return kept.filter((one) => one.end > one.start);
    });
  }
}
