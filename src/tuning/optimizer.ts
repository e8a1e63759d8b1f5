/**
 * What the training loop sees of an optimizer, and the global norm of the gradients. An optimizer is sessions over short ranges of the
 * flat parameter vectors, written in place: short enough to stay in cache and to let generation run in between.
 */
import { Graph, ops } from '../onnx/index.js';
import type { Binding, Session, Tensor } from '../runtime/index.js';
import type { CheckpointTensor } from './checkpoint.js';
import type { ParameterGroup, Parameters } from './parameters.js';
import type { BaseLease } from './training-host.js';

export interface Optimizer {
  /**
   * One update at this rate (times a parameter's factor) with gradients times `gradientScale`. It is not cancelled half-way: a range
   * either way belongs to the same step.
   */
  update(learningRate: number, gradientScale: number): Promise<void>;
  /** What it remembers between steps, as views: `{optimizer}/{moment}/{parameter}`. */
  moments(): ReadonlyMap<string, CheckpointTensor>;
  /** Goes on after `step` updates with moments that were read from a checkpoint. */
  restore(step: number, read: (moment: string) => Promise<Float32Array>): Promise<void>;
  dispose(): void;
}

/** Elements of one run: four such ranges fit a second-level cache. */
export const RANGE_ELEMENTS = 2 ** 18;

/** The groups cut into pieces of at most `length` elements. */
export function ranges(groups: readonly ParameterGroup[], length = RANGE_ELEMENTS): ParameterGroup[] {
  return groups.flatMap((group) =>
    Array.from({ length: Math.ceil((group.end - group.start) / length) }, (_, i) => ({ ...group, start: group.start + i * length, end: Math.min(group.end, group.start + (i + 1) * length) })),
  );
}

/** Copies what was read over the moments that `moments()` shows. */
export async function restoreMoments(moments: ReadonlyMap<string, CheckpointTensor>, read: (moment: string) => Promise<Float32Array>): Promise<void> {
  for (const [name, { data }] of moments) data.set(await read(name));
}

/** g [n] → the sum of its squares [1]. */
function squaredNormGraph(): Graph {
  const graph = new Graph('squared-norm');
  const g = graph.input('g', 'float32', ['n']);
  graph.output(ops.reduceSum(ops.mul(g, g), [0]), 'sum');
  return graph;
}

/** The 2-norm of all gradients of a stage. */
export class GradientNorm {
  private constructor(private readonly session: Session, private readonly sums: Tensor, private readonly bindings: readonly Binding[], private readonly views: readonly Tensor[]) {}

  static async create(lease: BaseLease, parameters: Parameters): Promise<GradientNorm> {
    const session = await lease.session('squared-norm', squaredNormGraph);
    const parts = ranges(parameters.groups);
    const sums = lease.runtime.empty('float32', [Math.max(1, parts.length)]);
    const views: Tensor[] = [];
    const bindings = parts.map(({ start, end }, i) => {
      const [g, sum] = [parameters.gradients.view([end - start], start), sums.view([1], i)];
      views.push(g, sum);
      return session.binding().input('g', g).output('sum', sum);
    });
    return new GradientNorm(session, sums, bindings, views);
  }

  /** Partial sums of squares are added in float64 in a fixed order. */
  async measure(signal: AbortSignal | undefined): Promise<number> {
    for (const binding of this.bindings) await this.session.run(binding, { lane: 'training', signal });
    return Math.sqrt(this.sums.f32().reduce((total, sum) => total + sum, 0));
  }

  dispose(): void {
    for (const binding of this.bindings) binding.dispose();
    for (const tensor of [...this.views, this.sums]) tensor.dispose();
  }
}
