/**
 * One decoder layer of a pass: the sessions of its kind with this layer's tensors bound once. Layers of the same kind share sessions;
 * activations are bound anew only when the micro-batch's size changes.
 */
import { attentionKind, configOfLayer, type AttentionKind, type DecoderConfig } from '../models/config.js';
import { layerPrefix, LINEAR_MODULES, type LinearModule } from '../models/decoder.js';
import { ACTIVATION, layerForward, layerParameters, layerSegments, type LayerKind, type LayerSegments } from '../models/training-form.js';
import { ATTENTION_DROPOUT_MASK, residualDropoutMask, type LayerDropout } from '../models/training-form-dropout.js';
import { dropoutMask, loraA, loraB, loraMagnitude, type LoraKind } from '../models/training-form-linear.js';
import type { Binding, Session, Tensor } from '../runtime/index.js';
import type { Activations, ShapeInputs } from './activations.js';
import { probabilitiesPlace, residualPlace, type DropoutMasks } from './dropout.js';
import { frozenForms, integerTensors } from './frozen-weights.js';
import type { BaseLease } from './training-host.js';
import type { Parameters } from './parameters.js';

export interface LoraTensors {
  readonly rank: number;
  readonly scaling: number;
  /** [rank, in] and [out, rank]. */
  readonly a: Tensor;
  readonly b: Tensor;
  /** [out]; with it this is DoRA. */
  readonly magnitude: Tensor | undefined;
}

/** The model as a stage sees it: every tensor in its current state, and what of it is trained. */
export interface StageModel {
  /** The base's, or that of the base edited. */
  readonly config: DecoderConfig;
  /** A tensor by its checkpoint name: trained here, changed by an earlier stage, or the base's. */
  tensor(name: string): Promise<Tensor>;
  /** Name in the base of a tensor that is the base's, neither trained nor changed. */
  baseName(name: string): string | undefined;
  /** LoRA by full module name, trained here or frozen from an earlier stage. */
  readonly lora: ReadonlyMap<string, LoraTensors>;
  /** Undefined for a pass that computes no gradients. */
  readonly parameters: Parameters | undefined;
  /** Share of values that gradients are computed without, by place (dropout.ts): LoRA modules and the model's own; absent places drop nothing. */
  readonly dropout: ReadonlyMap<string, number>;
}

/** As in LayerKind. */
export interface LayerOptions extends Required<Pick<LayerKind, 'saved' | 'packed' | 'queryBlocks'>> {
  /** A pass without gradients also gives what enters down_proj, [M,F]. */
  readonly activation?: boolean;
}

interface Step {
  readonly session: Session;
  readonly binding: Binding;
}

const bind = (session: Session): Step => ({ session, binding: session.binding() });
const lane = 'training';

export class LayerPass {
  private constructor(
    private readonly index: number,
    private readonly attention: AttentionKind['name'],
    private readonly hiddenSize: number,
    private readonly forwardStep: Step,
    private readonly backwardStep: Step | undefined,
    private readonly addingStep: Step | undefined,
    private readonly saved: LayerSegments['saved'],
    private readonly inputGradient: boolean,
    private readonly masks: DropoutMasks,
    /** F, where what enters down_proj is wanted. */
    private readonly activationWidth: number | undefined,
  ) {}

  /** `lowest`: index of the lowest layer below which nothing is trained (−1 when the embedding is); layers under it run forward only. */
  static async create(lease: BaseLease, model: StageModel, index: number, lowest: number, options: LayerOptions, masks: DropoutMasks): Promise<LayerPass> {
    const config = configOfLayer(model.config, index);
    const attention = attentionKind(model.config, index).name;
    const kind = kindOf(config, lease, model, index, lowest, options, masks);
    const tensors = await layerTensors(config, lease, model, index, kind);
    const dropout = `${kind.dropout?.attention ?? ''}/${kind.dropout?.residual ?? ''}`;
    const frozen = [...(kind.frozen ?? [])].map(([module, forms]) => `${module}/${forms.join('/')}`).join(',');
    const lora = [...kind.lora].map(([module, { rank, scaling, dora, dropoutScale }]) => `${module}/${rank}/${scaling}/${dora === true ? 'dora' : ''}/${dropoutScale ?? ''}`).join(',');
    const form = `${options.packed}/${options.queryBlocks}`;
    const withWeights = (step: Step): Step => {
      for (const { name } of step.session.inputs) {
        const tensor = tensors.get(name);
        if (tensor !== undefined) step.binding.input(name, tensor);
      }
      return step;
    };
    if (index < lowest || model.parameters === undefined) {
      const session = await lease.session(`layer:${config.intermediateSize}:${lora}:${form}:${dropout}:${frozen}:${options.activation === true}`, () => layerForward(config, { ...kind, activation: options.activation === true }));
      return new LayerPass(index, attention, config.hiddenSize, withWeights(bind(session)), undefined, undefined, [], false, masks, options.activation === true ? config.intermediateSize : undefined);
    }
    const segments = layerSegments(config, kind);
    const key = `${config.intermediateSize}:${lora}:${[...kind.trainable].join(',')}:${kind.inputGradient}:${kind.saved}:${form}:${dropout}:${frozen}`;
    const forward = withWeights(bind(await lease.session(`layer-forward:${key}`, () => segments.forward)));
    const backward = withWeights(bind(await lease.session(`layer-backward:${key}`, () => segments.backward)));
    const adding = withWeights(bind(await lease.session(`layer-backward-adding:${key}`, () => segments.backwardAdding)));
    for (const local of kind.trainable) {
      const gradient = model.parameters.gradient(`${layerPrefix(index)}.${local}`);
      backward.binding.output(`gradient.${local}`, gradient);
      adding.binding.output(`gradient.${local}`, gradient).input(`sum.${local}`, gradient);
    }
    return new LayerPass(index, attention, config.hiddenSize, forward, backward, adding, segments.saved, kind.inputGradient, masks, undefined);
  }

  /** x [M,C] → y [M,C]; what the backward segment wants goes into this layer's buffers. */
  async forward(x: Tensor, y: Tensor, shape: ShapeInputs, activations: Activations, signal: AbortSignal | undefined): Promise<void> {
    const { session, binding } = this.forwardStep;
    this.bindShape(this.forwardStep, x, shape);
    binding.output('y', y);
    for (const saved of this.saved) binding.output(saved.name, this.savedTensor(saved, activations));
    const activation = this.activation(activations);
    if (activation !== undefined) binding.output(ACTIVATION, activation);
    await session.run(binding, { lane, signal });
  }

  /** What entered down_proj in the last forward run, [M,F], where it was asked for; layers of one width share the memory. */
  activation(activations: Activations): Tensor | undefined {
    return this.activationWidth === undefined ? undefined : activations.get(`activation/${this.activationWidth}`, this.activationWidth);
  }

  /** dy [M,C] → gradients of this layer's parameters (written, or added when `adding`) and dx [M,C] where something below is trained. */
  async backward(x: Tensor, dy: Tensor, dx: Tensor, adding: boolean, shape: ShapeInputs, activations: Activations, signal: AbortSignal | undefined): Promise<void> {
    const step = (adding ? this.addingStep : this.backwardStep)!;
    this.bindShape(step, x, shape);
    step.binding.input('dy', dy);
    for (const saved of this.saved) step.binding.input(saved.name, this.savedTensor(saved, activations));
    if (this.inputGradient) step.binding.output('dx', dx);
    await step.session.run(step.binding, { lane, signal });
  }

  dispose(): void {
    for (const step of [this.forwardStep, this.backwardStep, this.addingStep]) step?.binding.dispose();
  }

  private bindShape({ session, binding }: Step, x: Tensor, shape: ShapeInputs): void {
    const { cos, sin, masks } = shape.attention.get(this.attention)!;
    const given: Readonly<Record<string, Tensor | undefined>> = { x, positions: shape.positions, cos, sin };
    for (const { name } of session.inputs) {
      const tensor = given[name] ?? masks.get(name);
      if (tensor !== undefined) binding.input(name, tensor);
    }
    const dropout: readonly (readonly [string, string])[] = [
      ...LINEAR_MODULES.map((module) => [dropoutMask(module), `${layerPrefix(this.index)}.${module}`] as const),
      [ATTENTION_DROPOUT_MASK, probabilitiesPlace(this.index)],
      ...(['self_attn', 'mlp'] as const).map((sublayer) => [residualDropoutMask(sublayer), residualPlace(this.index, sublayer)] as const),
    ];
    for (const [input, place] of dropout) {
      const mask = this.masks.get(place);
      if (mask !== undefined && session.inputs.some(({ name }) => name === input)) binding.input(input, mask);
    }
  }

  private savedTensor(saved: LayerSegments['saved'][number], activations: Activations): Tensor {
    return activations.get(`${this.index}/${saved.name}`, saved.shape[1] as number, this.index);
  }

  /** Elements kept per token of the micro-batch, the layer's input included. */
  get savedWidth(): number {
    return this.hiddenSize + this.saved.reduce((sum, { shape }) => sum + (shape[1] as number), 0);
  }
}

function kindOf(config: DecoderConfig, lease: BaseLease, model: StageModel, index: number, lowest: number, options: LayerOptions, masks: DropoutMasks): LayerKind {
  const prefix = layerPrefix(index);
  const lora = new Map<LinearModule, LoraKind>();
  for (const module of LINEAR_MODULES) {
    const tensors = model.lora.get(`${prefix}.${module}`);
    if (tensors === undefined) continue;
    const dropoutScale = masks.scale(`${prefix}.${module}`);
    lora.set(module, { rank: tensors.rank, scaling: tensors.scaling, dora: tensors.magnitude !== undefined, ...(dropoutScale === undefined ? {} : { dropoutScale }) });
  }
  const names = [...layerParameters(config, lora).keys()];
  const trainable = new Set(names.filter((local) => model.parameters?.has(`${prefix}.${local}`) === true));
  const [attention, residual] = [masks.scale(probabilitiesPlace(index)), masks.scale(residualPlace(index, 'mlp'))];
  const dropout: LayerDropout = { ...(attention === undefined ? {} : { attention }), ...(residual === undefined ? {} : { residual }) };
  const differentiated = model.parameters !== undefined && index >= lowest;
  return { lora, trainable, inputGradient: index > lowest, dropout, frozen: frozenForms(config, lease, model, prefix, differentiated), ...options };
}

/** This layer's tensors under their local names. */
async function layerTensors(config: DecoderConfig, lease: BaseLease, model: StageModel, index: number, { lora, frozen }: LayerKind): Promise<Map<string, Tensor>> {
  const prefix = layerPrefix(index);
  const { tensors, instead } = await integerTensors(lease, model, prefix, frozen ?? new Map());
  for (const module of lora.keys()) {
    const { a, b, magnitude } = model.lora.get(`${prefix}.${module}`)!;
    tensors.set(loraA(module), a).set(loraB(module), b);
    if (magnitude !== undefined) tensors.set(loraMagnitude(module), magnitude);
  }
  for (const local of layerParameters(config, lora).keys()) {
    if (!tensors.has(local) && !instead.has(local)) tensors.set(local, await model.tensor(`${prefix}.${local}`));
  }
  return tensors;
}
