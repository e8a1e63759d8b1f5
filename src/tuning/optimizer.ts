/**
 * AdamW (Loshchilov & Hutter 2019, PyTorch's form) and the global gradient norm, as sessions over ranges of the flat parameter
 * vectors, written in place. Ranges are short enough to stay in cache and to let generation run in between.
 * The moments are kept as m/(1−β₁) and v/(1−β₂), which saves two products per element; bias correction goes into scalars:
 * p ← p·(1 − lr·decay) − k·m'/(√v' + ε'), k = lr·c₁/q, ε' = ε/q, c₁ = (1−β₁)/(1−β₁ᵗ), q = √((1−β₂)/(1−β₂ᵗ)).
 */
import { Graph, ops } from '../onnx/index.js';
import type { Binding, Session, Tensor } from '../runtime/index.js';
import type { ParameterGroup, Parameters } from './parameters.js';
import type { BaseLease } from './training-host.js';

/** Elements of one run: four such ranges fit a second-level cache. */
const RANGE_ELEMENTS = 2 ** 18;

export interface AdamWSettings {
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  readonly weightDecay: number;
}

function adamGraph([beta1, beta2]: readonly [number, number]): Graph {
  const graph = new Graph('adamw');
  const vector = (name: string) => graph.input(name, 'float32', ['n']);
  const scalar = (name: string) => graph.input(name, 'float32', [1]);
  const [p, m, v] = [vector('p'), vector('m'), vector('v')];
  const g = ops.mul(vector('g'), scalar('gradientScale'));
  const nextM = ops.add(ops.mul(m, beta1), g);
  const nextV = ops.add(ops.mul(v, beta2), ops.mul(g, g));
  const update = ops.mul(ops.div(nextM, ops.add(ops.sqrt(nextV), scalar('epsilon'))), scalar('rate'));
  graph.output(ops.sub(ops.mul(p, scalar('keep')), update), 'nextP');
  graph.output(nextM, 'nextM');
  graph.output(nextV, 'nextV');
  return graph;
}

/** g [n] → the sum of its squares [1]. */
function squaredNormGraph(): Graph {
  const graph = new Graph('squared-norm');
  const g = graph.input('g', 'float32', ['n']);
  graph.output(ops.reduceSum(ops.mul(g, g), [0]), 'sum');
  return graph;
}

/** The groups cut into pieces of at most `length` elements. */
export function ranges(groups: readonly ParameterGroup[], length = RANGE_ELEMENTS): ParameterGroup[] {
  return groups.flatMap((group) =>
    Array.from({ length: Math.ceil((group.end - group.start) / length) }, (_, i) => ({ ...group, start: group.start + i * length, end: Math.min(group.end, group.start + (i + 1) * length) })),
  );
}

interface Range {
  readonly adam: Binding;
  readonly norm: Binding;
}

/** The scalars that ranges with one rate factor share. */
interface Rate {
  readonly factor: number;
  readonly rate: Tensor;
  readonly keep: Tensor;
}

export class AdamW {
  private step = 0;

  private constructor(
    private readonly settings: AdamWSettings,
    private readonly sessions: { readonly adam: Session; readonly norm: Session },
    private readonly scalars: Readonly<Record<'gradientScale' | 'epsilon' | 'keepAll', Tensor>>,
    private readonly rates: readonly Rate[],
    private readonly sums: Tensor,
    private readonly ranges: readonly Range[],
    private readonly views: readonly Tensor[],
  ) {}

  static async create(lease: BaseLease, parameters: Parameters, settings: AdamWSettings): Promise<AdamW> {
    const { runtime } = lease;
    const adam = await lease.session(`adamw:${settings.betas.join(',')}`, () => adamGraph(settings.betas));
    const norm = await lease.session('squared-norm', squaredNormGraph);
    const scalar = (): Tensor => runtime.empty('float32', [1]);
    const scalars = { gradientScale: scalar(), epsilon: scalar(), keepAll: runtime.from([1], 'float32', [1]) };
    const rates = [...new Set(parameters.groups.map((group) => group.rateFactor))].map((factor) => ({ factor, rate: scalar(), keep: scalar() }));
    const parts = ranges(parameters.groups);
    const sums = runtime.empty('float32', [Math.max(1, parts.length)]);
    const views: Tensor[] = [];
    const bound = parts.map(({ start, end, decays, rateFactor }, i) => {
      const view = (tensor: Tensor): Tensor => {
        const made = tensor.view([end - start], start);
        views.push(made);
        return made;
      };
      const { rate, keep } = rates.find(({ factor }) => factor === rateFactor)!;
      const [p, g, m, v] = [parameters.values, parameters.gradients, parameters.firstMoments, parameters.secondMoments].map(view) as [Tensor, Tensor, Tensor, Tensor];
      const sum = sums.view([1], i);
      views.push(sum);
      const update = adam.binding().input('p', p).input('m', m).input('v', v).input('g', g).output('nextP', p).output('nextM', m).output('nextV', v);
      update.input('gradientScale', scalars.gradientScale).input('epsilon', scalars.epsilon).input('rate', rate);
      update.input('keep', decays ? keep : scalars.keepAll);
      return { adam: update, norm: norm.binding().input('g', g).output('sum', sum) };
    });
    return new AdamW(settings, { adam, norm }, scalars, rates, sums, bound, views);
  }

  /** The 2-norm of all gradients; partial sums of squares are added in float64 in a fixed order. */
  async gradientNorm(signal: AbortSignal | undefined): Promise<number> {
    for (const range of this.ranges) await this.sessions.norm.run(range.norm, { lane: 'training', signal });
    return Math.sqrt(this.sums.f32().reduce((total, sum) => total + sum, 0));
  }

  /** One update at this rate (times a parameter's factor) with gradients times `gradientScale`. It is not cancelled half-way: a range either way belongs to the same step. */
  async update(learningRate: number, gradientScale: number): Promise<void> {
    this.step += 1;
    const [beta1, beta2] = this.settings.betas;
    const q = Math.sqrt((1 - beta2) / (1 - beta2 ** this.step));
    this.scalars.gradientScale.f32()[0] = gradientScale;
    this.scalars.epsilon.f32()[0] = this.settings.epsilon / q;
    for (const { factor, rate, keep } of this.rates) {
      rate.f32()[0] = (factor * learningRate * ((1 - beta1) / (1 - beta1 ** this.step))) / q;
      keep.f32()[0] = 1 - factor * learningRate * this.settings.weightDecay;
    }
    for (const range of this.ranges) await this.sessions.adam.run(range.adam, { lane: 'training' });
  }

  dispose(): void {
    for (const { adam, norm } of this.ranges) {
      adam.dispose();
      norm.dispose();
    }
    for (const view of this.views) view.dispose();
    for (const tensor of [this.sums, ...Object.values(this.scalars), ...this.rates.flatMap(({ rate, keep }) => [rate, keep])]) tensor.dispose();
  }
}
