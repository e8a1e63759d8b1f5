/**
 * AdamW (Loshchilov & Hutter 2019, PyTorch's form) over ranges of the flat parameter vectors.
 * The moments are kept as m/(1−β₁) and v/(1−β₂), which saves two products per element; bias correction goes into scalars:
 * p ← p·(1 − lr·decay) − k·m'/(√v' + ε'), k = lr·c₁/q, ε' = ε/q, c₁ = (1−β₁)/(1−β₁ᵗ), q = √((1−β₂)/(1−β₂ᵗ)).
 */
import { Graph, ops } from '../onnx/index.js';
import type { Binding, Session, Tensor } from '../runtime/index.js';
import type { CheckpointTensor } from './checkpoint.js';
import { ranges, restoreMoments, type Optimizer } from './optimizer.js';
import type { Parameters } from './parameters.js';
import type { BaseLease } from './training-host.js';

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

/** The scalars that ranges with one rate factor share. */
interface Rate {
  readonly factor: number;
  readonly rate: Tensor;
  readonly keep: Tensor;
}

export class AdamW implements Optimizer {
  private step = 0;

  private constructor(
    private readonly settings: AdamWSettings,
    private readonly parameters: Parameters,
    private readonly session: Session,
    private readonly scalars: Readonly<Record<'gradientScale' | 'epsilon' | 'keepAll', Tensor>>,
    private readonly rates: readonly Rate[],
    private readonly vectors: Readonly<Record<'first' | 'second', Tensor>>,
    private readonly bindings: readonly Binding[],
    private readonly views: readonly Tensor[],
  ) {}

  static async create(lease: BaseLease, parameters: Parameters, settings: AdamWSettings): Promise<AdamW> {
    const { runtime } = lease;
    const session = await lease.session(`adamw:${settings.betas.join(',')}`, () => adamGraph(settings.betas));
    const scalar = (): Tensor => runtime.empty('float32', [1]);
    const scalars = { gradientScale: scalar(), epsilon: scalar(), keepAll: runtime.from([1], 'float32', [1]) };
    const rates = [...new Set(parameters.groups.map((group) => group.rateFactor))].map((factor) => ({ factor, rate: scalar(), keep: scalar() }));
    const vectors = { first: runtime.empty('float32', parameters.values.shape), second: runtime.empty('float32', parameters.values.shape) };
    const views: Tensor[] = [];
    const bindings = ranges(parameters.groups).map(({ start, end, decays, rateFactor }) => {
      const view = (tensor: Tensor): Tensor => {
        const made = tensor.view([end - start], start);
        views.push(made);
        return made;
      };
      const { rate, keep } = rates.find(({ factor }) => factor === rateFactor)!;
      const [p, g, m, v] = [parameters.values, parameters.gradients, vectors.first, vectors.second].map(view) as [Tensor, Tensor, Tensor, Tensor];
      const update = session.binding().input('p', p).input('m', m).input('v', v).input('g', g).output('nextP', p).output('nextM', m).output('nextV', v);
      update.input('gradientScale', scalars.gradientScale).input('epsilon', scalars.epsilon).input('rate', rate);
      return update.input('keep', decays ? keep : scalars.keepAll);
    });
    return new AdamW(settings, parameters, session, scalars, rates, vectors, bindings, views);
  }

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
    for (const binding of this.bindings) await this.session.run(binding, { lane: 'training' });
  }

  moments(): Map<string, CheckpointTensor> {
    const moments = new Map<string, CheckpointTensor>();
    for (const [moment, vector] of Object.entries(this.vectors)) {
      for (const { name, shape, start, elements } of this.parameters.places) {
        moments.set(`adamw/${moment}/${name}`, { shape, data: vector.f32().subarray(start, start + elements) });
      }
    }
    return moments;
  }

  async restore(step: number, read: (moment: string) => Promise<Float32Array>): Promise<void> {
    this.step = step;
    await restoreMoments(this.moments(), read);
  }

  dispose(): void {
    for (const binding of this.bindings) binding.dispose();
    for (const tensor of [...this.views, ...Object.values(this.vectors), ...Object.values(this.scalars), ...this.rates.flatMap(({ rate, keep }) => [rate, keep])]) tensor.dispose();
  }
}
