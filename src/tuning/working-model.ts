/**
 * The model while a job works on it: the base plus what earlier stages changed. A stage begins with its trainable parameters laid
 * out flat, initialized from the current state; what it trained becomes the state that the next stage begins with.
 * Rules across stages: LoRA that a later stage selects with the same rank and scaling is trained on, other LoRA stays as it is and
 * frozen; where a later stage trains a weight whole, or by LoRA of another shape, the old LoRA is merged into it first.
 */
import type { LoraInput, LoraModule, VariantInput } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import { weightShapes } from '../models/config.js';
import { loraA, loraB } from '../models/training-form.js';
import { Graph, ops } from '../onnx/index.js';
import type { Tensor } from '../runtime/index.js';
import type { LoraTensors, StageModel } from './layer-pass.js';
import { Parameters, type ParameterSpecification } from './parameters.js';
import { fillUniform, randomStream } from './random.js';
import type { LoraSettings, TrainablePlan } from './selection.js';
import type { BaseLease } from './training-host.js';

/** weight [O,I] + scaling · b [O,R] · a [R,I] → merged [O,I]. */
function mergeGraph(scaling: number): Graph {
  const graph = new Graph('merge');
  const weight = graph.input('weight', 'float32', ['O', 'I']);
  const a = graph.input('a', 'float32', ['R', 'I']);
  const b = graph.input('b', 'float32', ['O', 'R']);
  graph.output(ops.gemm(b, a, weight, { alpha: scaling }), 'merged');
  return graph;
}

export class WorkingModel {
  private readonly shapes: ReadonlyMap<string, readonly number[]>;
  private readonly changed = new Map<string, Tensor>();
  private readonly lora = new Map<string, LoraTensors>();

  /** `signal` stops the reading of weights between two tensors, with CANCELLED. */
  constructor(private readonly lease: BaseLease, private readonly signal?: AbortSignal) {
    this.shapes = weightShapes(lease.config);
  }

  /** Starts from LoRA made elsewhere, instead of from the bare base. Copies the matrices. */
  load(adapter: LoraInput): void {
    const { runtime } = this.lease;
    for (const [module, { rank, scaling, a, b }] of adapter.modules) {
      const [out, input] = this.shapes.get(`${module}.weight`)! as readonly [number, number];
      this.lora.set(module, { rank, scaling, a: runtime.from(a, 'float32', [rank, input]), b: runtime.from(b, 'float32', [out, rank]) });
    }
  }

  /**
   * Lays out the parameters of a stage. New LoRA begins with A uniform in ±1/√in (Kaiming with a = √5, as PEFT does) from the stream
   * of (seed, module) and B zero, so that it starts as no change. `decayNorms`: one-dimensional parameters decay too.
   */
  async begin(plan: TrainablePlan, seed: number, decayNorms: boolean): Promise<StageModel & { readonly parameters: Parameters }> {
    for (const name of plan.tensors) if (name.endsWith('.weight')) await this.merge(name.slice(0, -'.weight'.length));
    for (const [module, settings] of plan.lora) if (!continues(this.lora.get(module), settings)) await this.merge(module);
    const parameters = new Parameters(this.lease.runtime, this.specifications(plan, decayNorms));
    for (const name of plan.tensors) {
      this.refuseWhenAborted();
      const earlier = this.changed.get(name);
      parameters.value(name).f32().set(earlier === undefined ? await this.lease.initial(name) : earlier.f32());
      this.changed.set(name, parameters.value(name));
    }
    for (const [module, settings] of plan.lora) {
      const [a, b] = [parameters.value(loraA(module)), parameters.value(loraB(module))];
      const earlier = this.lora.get(module);
      if (earlier === undefined) fillUniform(a.f32(), 1 / Math.sqrt(a.shape[1]!), randomStream(seed, `lora_A/${module}`));
      else {
        a.f32().set(earlier.a.f32());
        b.f32().set(earlier.b.f32());
      }
      this.lora.set(module, { rank: settings.rank, scaling: settings.scaling, a, b });
    }
    return { tensor: (name) => this.tensor(name), lora: this.lora, parameters };
  }

  /** The state as it is, for a pass without gradients. It reads what a stage is training. */
  frozen(): StageModel {
    return { tensor: (name) => this.tensor(name), lora: this.lora, parameters: undefined };
  }

  /** What the job made: LoRA modules where nothing else changed, else all changed tensors with LoRA merged into them. */
  async content(): Promise<LoraInput | VariantInput> {
    if (this.changed.size === 0) {
      const modules = new Map<string, LoraModule>();
      for (const [module, { rank, scaling, a, b }] of this.lora) modules.set(module, { module, rank, scaling, a: a.f32(), b: b.f32() });
      return { kind: 'lora', modules };
    }
    return this.variant();
  }

  /** All changed tensors, LoRA merged into them. */
  async variant(): Promise<VariantInput> {
    for (const module of [...this.lora.keys()]) await this.merge(module);
    return { kind: 'variant', tensors: new Map([...this.changed].map(([name, { shape, dtype, data }]) => [name, { dtype, shape, data }])) };
  }

  private async tensor(name: string): Promise<Tensor> {
    this.refuseWhenAborted();
    return this.changed.get(name) ?? this.lease.weight(name);
  }

  private refuseWhenAborted(): void {
    if (this.signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', 'tuning was cancelled', { cause: this.signal.reason });
  }

  private specifications(plan: TrainablePlan, decayNorms: boolean): ParameterSpecification[] {
    const specifications = [...plan.tensors].map((name) => {
      const shape = this.shapes.get(name)!;
      return { name, shape, decays: decayNorms || shape.length > 1 };
    });
    for (const [module, { rank }] of plan.lora) {
      const [out, input] = this.shapes.get(`${module}.weight`)! as readonly [number, number];
      specifications.push({ name: loraA(module), shape: [rank, input], decays: true }, { name: loraB(module), shape: [out, rank], decays: true });
    }
    return specifications;
  }

  /** Adds a module's LoRA to its weight; nothing where it has none. */
  private async merge(module: string): Promise<void> {
    const lora = this.lora.get(module);
    if (lora === undefined) return;
    const name = `${module}.weight`;
    const session = await this.lease.session(`merge:${lora.scaling}`, () => mergeGraph(lora.scaling));
    const merged = this.lease.runtime.empty('float32', this.shapes.get(name)!);
    const binding = session.binding().input('weight', await this.tensor(name)).input('a', lora.a).input('b', lora.b).output('merged', merged);
    await session.run(binding, { lane: 'training' });
    binding.dispose();
    this.changed.set(name, merged);
    this.lora.delete(module);
  }
}

function continues(earlier: LoraTensors | undefined, settings: LoraSettings): boolean {
  return earlier === undefined || (earlier.rank === settings.rank && earlier.scaling === settings.scaling);
}
