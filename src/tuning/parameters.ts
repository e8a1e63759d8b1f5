/**
 * The trainable parameters of a stage: values and gradients in two flat vectors with one layout, which an optimizer may give to vectors of
 * its own, so that it runs over plain ranges and every tensor is a view. Invariant: a tensor starts at a multiple of 64 bytes; the gaps are
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

/** Where a parameter lies in the flat vectors. */
export interface ParameterPlace extends ParameterSpecification {
  readonly start: number;
  readonly elements: number;
}

const ALIGNMENT_ELEMENTS = 16;

export class Parameters {
  readonly values: Tensor;
  readonly gradients: Tensor;
  /** All elements, gaps included, in order. */
  readonly groups: readonly ParameterGroup[];
  /** In order. */
  readonly places: readonly ParameterPlace[];
  readonly names: readonly string[];
  private readonly valueViews = new Map<string, Tensor>();
  private readonly gradientViews = new Map<string, Tensor>();

  constructor(runtime: Runtime, specifications: readonly ParameterSpecification[]) {
    const ordered = [...specifications].sort((a, b) => Number(b.decays) - Number(a.decays) || b.rateFactor - a.rateFactor);
    const places: ParameterPlace[] = [];
    let size = 0;
    const groups: ParameterGroup[] = [];
    for (const specification of ordered) {
      const { shape, decays, rateFactor } = specification;
      const elements = shape.reduce((n, d) => n * d, 1);
      places.push({ ...specification, start: size, elements });
      size += Math.ceil(elements / ALIGNMENT_ELEMENTS) * ALIGNMENT_ELEMENTS;
      const last = groups.at(-1);
      const alike = last?.decays === decays && last.rateFactor === rateFactor;
      if (alike) groups.pop();
      groups.push({ start: alike ? last.start : places.at(-1)!.start, end: size, decays, rateFactor });
    }
    this.groups = groups;
    this.places = places;
    this.names = ordered.map(({ name }) => name);
    this.values = runtime.empty('float32', [size]);
    this.gradients = runtime.empty('float32', [size]);
    for (const { name, shape, start } of places) {
      this.valueViews.set(name, this.values.view(shape, start));
      this.gradientViews.set(name, this.gradients.view(shape, start));
    }
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

  /** Frees the gradients; the values live on in the views that others hold. */
  disposeGradients(): void {
    for (const view of this.gradientViews.values()) view.dispose();
    this.gradients.dispose();
  }
}

function found(views: ReadonlyMap<string, Tensor>, name: string): Tensor {
  const view = views.get(name);
  if (view === undefined) throw new Error(`${name} is not a parameter of this stage`);
  return view;
}
