/**
 * The trainable parameters of a stage: values, gradients and AdamW's two moments in four flat vectors with one layout, so that the
 * optimizer runs over plain ranges and every tensor is a view. Invariant: a tensor starts at a multiple of 64 bytes; the gaps are
 * zero and stay zero. Parameters with weight decay come first.
 */
import type { Runtime, Tensor } from '../runtime/index.js';

export interface ParameterSpecification {
  readonly name: string;
  readonly shape: readonly number[];
  readonly decays: boolean;
}

const ALIGNMENT_ELEMENTS = 16;

export class Parameters {
  readonly values: Tensor;
  readonly gradients: Tensor;
  readonly firstMoments: Tensor;
  readonly secondMoments: Tensor;
  /** Elements in all, gaps included; those before `decayed` decay. */
  readonly size: number;
  readonly decayed: number;
  readonly names: readonly string[];
  private readonly valueViews = new Map<string, Tensor>();
  private readonly gradientViews = new Map<string, Tensor>();

  constructor(runtime: Runtime, specifications: readonly ParameterSpecification[]) {
    const ordered = [...specifications].sort((a, b) => Number(b.decays) - Number(a.decays));
    const offsets: number[] = [];
    let size = 0;
    let decayed = 0;
    for (const { shape, decays } of ordered) {
      offsets.push(size);
      size += Math.ceil(shape.reduce((n, d) => n * d, 1) / ALIGNMENT_ELEMENTS) * ALIGNMENT_ELEMENTS;
      if (decays) decayed = size;
    }
    this.size = size;
    this.decayed = decayed;
    this.names = ordered.map(({ name }) => name);
    this.values = runtime.empty('float32', [size]);
    this.gradients = runtime.empty('float32', [size]);
    this.firstMoments = runtime.empty('float32', [size]);
    this.secondMoments = runtime.empty('float32', [size]);
    ordered.forEach(({ name, shape }, i) => {
      this.valueViews.set(name, this.values.view(shape, offsets[i]));
      this.gradientViews.set(name, this.gradients.view(shape, offsets[i]));
    });
  }

  has(name: string): boolean {
    return this.valueViews.has(name);
  }

  /** Throws for a name that is not trained; ask `has` first. */
  value(name: string): Tensor {
    return found(this.valueViews, name);
  }

  gradient(name: string): Tensor {
    return found(this.gradientViews, name);
  }

  /** Frees gradients and moments; the values live on in the views that others hold. */
  disposeState(): void {
    for (const view of this.gradientViews.values()) view.dispose();
    for (const tensor of [this.gradients, this.firstMoments, this.secondMoments]) tensor.dispose();
  }
}

function found(views: ReadonlyMap<string, Tensor>, name: string): Tensor {
  const view = views.get(name);
  if (view === undefined) throw new Error(`${name} is not a parameter of this stage`);
  return view;
}
