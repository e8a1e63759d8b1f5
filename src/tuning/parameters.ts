/**
 * The trainable parameters of a stage: values, gradients and AdamW's two moments in four flat vectors with one layout, so that the
 * optimizer runs over plain ranges and every tensor is a view. Invariant: a tensor starts at a multiple of 64 bytes; the gaps are
 * zero and stay zero. Parameters with weight decay come first; within these two, those with one rate factor lie together.
 */
import type { Runtime, Tensor } from '../runtime/index.js';

export interface ParameterSpecification {
  readonly name: string;
  readonly shape: readonly number[];
  readonly decays: boolean;
  /** What the learning rate is multiplied by. */
  readonly rateFactor: number;
}

/** Elements [start, end) that the optimizer treats alike. */
export interface ParameterGroup {
  readonly start: number;
  readonly end: number;
  readonly decays: boolean;
  readonly rateFactor: number;
}

const ALIGNMENT_ELEMENTS = 16;

export class Parameters {
  readonly values: Tensor;
  readonly gradients: Tensor;
  readonly firstMoments: Tensor;
  readonly secondMoments: Tensor;
  /** All elements, gaps included, in order. */
  readonly groups: readonly ParameterGroup[];
  readonly names: readonly string[];
  private readonly valueViews = new Map<string, Tensor>();
  private readonly gradientViews = new Map<string, Tensor>();

  constructor(runtime: Runtime, specifications: readonly ParameterSpecification[]) {
    const ordered = [...specifications].sort((a, b) => Number(b.decays) - Number(a.decays) || b.rateFactor - a.rateFactor);
    const offsets: number[] = [];
    let size = 0;
    const groups: ParameterGroup[] = [];
    for (const { shape, decays, rateFactor } of ordered) {
      offsets.push(size);
      size += Math.ceil(shape.reduce((n, d) => n * d, 1) / ALIGNMENT_ELEMENTS) * ALIGNMENT_ELEMENTS;
      const last = groups.at(-1);
      const alike = last?.decays === decays && last.rateFactor === rateFactor;
      if (alike) groups.pop();
      groups.push({ start: alike ? last.start : offsets.at(-1)!, end: size, decays, rateFactor });
    }
    this.groups = groups;
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
