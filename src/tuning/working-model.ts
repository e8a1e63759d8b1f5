/**
 * The model while a job works on it: what it starts from (the base, or the base edited) plus what earlier stages changed. A stage begins with its trainable parameters laid
 * out flat, initialized from the current state; what it trained becomes the state that the next stage begins with.
 * Rules across stages: LoRA that a later stage selects with the same rank, scaling and kind is trained on, other LoRA stays as it is and
 * frozen; where a later stage trains a weight whole, or by LoRA of another shape or kind, the old LoRA is merged into it first.
 * DoRA changes a weight by a product of full rank, so that it leaves a job merged, in a variant.
 * A classification head is a tensor beside the base's; a later classification with the same labels trains it on, one with others replaces it.
 */
import { gaussian, labelledStream } from '../common/random-streams.js';
import type { ClassificationHead, LoraInput, LoraModule, VariantArchitecture, VariantInput } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import { feedForwardSize, weightShapes, type DecoderConfig } from '../models/config.js';
import { CLASSIFICATION_HEAD_WEIGHT } from '../models/decoder.js';
import { isOfBase } from '../models/variant-architecture.js';
import { loraA, loraB, loraMagnitude, rowNorms } from '../models/training-form-linear.js';
import { Graph, ops } from '../onnx/index.js';
import type { Tensor } from '../runtime/index.js';
import type { CheckpointLora, CheckpointState, CheckpointTensor, StoredCheckpoint } from './checkpoint.js';
import { modelDropout } from './dropout.js';
import type { LoraTensors, StageModel } from './layer-pass.js';
import { Parameters, type ParameterSpecification } from './parameters.js';
import { fillUniform } from './random.js';
import type { LoraSettings, TrainablePlan } from './selection.js';
import { bareBase, type StartingModel } from './starting-model.js';
import type { BaseLease } from './training-host.js';

/** LoRA to start from; with a magnitude [out] per module it is DoRA. */
export interface InitialLora {
  readonly modules: ReadonlyMap<string, LoraModule & { readonly magnitude?: Float32Array }>;
}

/** weight [O,I] + scaling · b [O,R] · a [R,I] → merged [O,I]; with DoRA its rows are brought to the norms magnitude [O]. */
function mergeGraph(scaling: number, dora: boolean): Graph {
  const graph = new Graph('merge');
  const weight = graph.input('weight', 'float32', ['O', 'I']);
  const a = graph.input('a', 'float32', ['R', 'I']);
  const b = graph.input('b', 'float32', ['O', 'R']);
  const sum = ops.gemm(b, a, weight, { alpha: scaling });
  const merged = dora ? ops.mul(sum, ops.unsqueeze(ops.div(graph.input('magnitude', 'float32', ['O']), rowNorms(sum)), [1])) : sum;
  graph.output(merged, 'merged');
  return graph;
}

/** Standard deviation of a new classification head's values, transformers' initializer_range. */
const HEAD_DEVIATION = 0.02;

/** Shapes of a model's tensors and of a classification head over `labels` labels. */
export function shapesWithHead(config: DecoderConfig, labels: number): Map<string, readonly number[]> {
  return new Map([...weightShapes(config), [CLASSIFICATION_HEAD_WEIGHT, [labels, config.hiddenSize]]]);
}

export class WorkingModel {
  /** Of every tensor by name, a classification head included. */
  shapes: ReadonlyMap<string, readonly number[]>;
  private head: Omit<ClassificationHead, 'weight'> | undefined;
  private readonly changed = new Map<string, Tensor>();
  private readonly lora = new Map<string, LoraTensors>();
  /** Tensors that the edits made, once they were asked for. */
  private readonly made = new Map<string, Tensor>();

  /** `signal` stops the reading of weights between two tensors, with CANCELLED. */
  constructor(private readonly lease: BaseLease, private readonly signal?: AbortSignal, private readonly start: StartingModel = bareBase(lease.config)) {
    this.shapes = weightShapes(start.config);
  }

  /** Starts from LoRA made elsewhere, instead of from the bare base. Copies the matrices. */
  load(adapter: InitialLora): void {
    const { runtime } = this.lease;
    for (const [module, { rank, scaling, a, b, magnitude }] of adapter.modules) {
      const [out, input] = this.shapes.get(`${module}.weight`)! as readonly [number, number];
      this.lora.set(module, {
        rank, scaling, a: runtime.from(a, 'float32', [rank, input]), b: runtime.from(b, 'float32', [out, rank]),
        magnitude: magnitude === undefined ? undefined : runtime.from(magnitude, 'float32', [out]),
      });
    }
  }

  /**
   * The labels that the next stage's classification head tells apart, and what it reads. New ones get a head of N(0, 0.02) from the stream
   * of the seed; the labels that there are keep theirs. `weight` [labels, C] begins with given values instead.
   */
  classify(head: Omit<ClassificationHead, 'weight'>, seed: number, weight?: Float32Array): void {
    const same = this.head?.labels.length === head.labels.length && head.labels.every((label, i) => this.head?.labels[i] === label);
    this.head = head;
    if (same && weight === undefined) return;
    this.shapes = shapesWithHead(this.start.config, head.labels.length);
    const tensor = this.lease.runtime.empty('float32', this.shapes.get(CLASSIFICATION_HEAD_WEIGHT)!);
    const values = tensor.f32();
    if (weight === undefined) {
      const draw = gaussian(labelledStream(seed, CLASSIFICATION_HEAD_WEIGHT));
      for (let i = 0; i < values.length; i++) values[i] = HEAD_DEVIATION * draw();
    } else values.set(weight);
    this.changed.set(CLASSIFICATION_HEAD_WEIGHT, tensor);
  }

  /**
   * Lays out the parameters of a stage. New LoRA begins with A uniform in ±1/√in (Kaiming with a = √5, as PEFT does) from the stream
   * of (seed, module) and B zero, and DoRA's magnitude with the norms of the weight's rows, so that it starts as no change. `decayNorms`:
   * one-dimensional parameters decay too. `rateFactor`: what the learning rate of a parameter is multiplied by.
   */
  async begin(plan: TrainablePlan, seed: number, decayNorms: boolean, rateFactor: (parameter: string) => number = () => 1): Promise<StageModel & { readonly parameters: Parameters }> {
    for (const name of plan.tensors) if (name.endsWith('.weight')) await this.merge(name.slice(0, -'.weight'.length));
    for (const [module, settings] of plan.lora) if (!continues(this.lora.get(module), settings)) await this.merge(module);
    const parameters = new Parameters(this.lease.runtime, this.specifications(plan, decayNorms, rateFactor));
    for (const name of plan.tensors) {
      this.refuseWhenAborted();
      const earlier = this.changed.get(name);
      parameters.value(name).f32().set(earlier === undefined ? await this.initial(name) : earlier.f32());
      this.changed.set(name, parameters.value(name));
    }
    for (const [module, settings] of plan.lora) {
      const [a, b] = [parameters.value(loraA(module)), parameters.value(loraB(module))];
      const earlier = this.lora.get(module);
      if (earlier === undefined) fillUniform(a.f32(), 1 / Math.sqrt(a.shape[1]!), labelledStream(seed, `lora_A/${module}`));
      else {
        a.f32().set(earlier.a.f32());
        b.f32().set(earlier.b.f32());
      }
      const magnitude = settings.dora ? parameters.value(loraMagnitude(module)) : undefined;
      magnitude?.f32().set(earlier?.magnitude?.f32() ?? normsOfRows(await this.computedWith(`${module}.weight`), magnitude.f32().length));
      this.lora.set(module, { rank: settings.rank, scaling: settings.scaling, a, b, magnitude });
    }
    const dropout = modelDropout(this.start.config, this.start.dropout);
    for (const [module, settings] of plan.lora) dropout.set(module, settings.dropout);
    return { config: this.start.config, tensor: (name) => this.tensor(name), baseName: (name) => this.baseName(name), lora: this.lora, parameters, dropout };
  }

  /** Everything that differs from the base, as views: what `restore` takes back. */
  snapshot(): Pick<CheckpointState, 'lora' | 'head'> & { readonly tensors: Map<string, CheckpointTensor> } {
    const tensors = new Map<string, CheckpointTensor>();
    const put = (name: string, tensor: Tensor): unknown => tensors.set(`model/${name}`, { shape: tensor.shape, data: tensor.f32() });
    for (const [name, tensor] of this.changed) put(name, tensor);
    const lora = [...this.lora].map(([module, { rank, scaling, a, b, magnitude }]): CheckpointLora => {
      put(loraA(module), a);
      put(loraB(module), b);
      if (magnitude !== undefined) put(loraMagnitude(module), magnitude);
      return { module, rank, scaling, dora: magnitude !== undefined };
    });
    return { lora, tensors, ...(this.head === undefined ? {} : { head: { labels: this.head.labels, template: this.head.template } }) };
  }

  /** Takes the state of a checkpoint into a working model that has none of its own yet. The stage that it was in begins anew on it. */
  async restore(stored: StoredCheckpoint): Promise<void> {
    const { shapes } = stored;
    const tensor = async (name: string): Promise<Tensor> => this.lease.runtime.from(await stored.read(`model/${name}`), 'float32', shapes.get(`model/${name}`)!);
    const { lora, head } = stored.state;
    if (head !== undefined) {
      this.head = head;
      this.shapes = shapesWithHead(this.start.config, head.labels.length);
    }
    for (const { module, rank, scaling, dora } of lora) {
      const [a, b] = [await tensor(loraA(module)), await tensor(loraB(module))];
      this.lora.set(module, { rank, scaling, a, b, magnitude: dora ? await tensor(loraMagnitude(module)) : undefined });
    }
    for (const name of this.shapes.keys()) if (shapes.has(`model/${name}`)) this.changed.set(name, await tensor(name));
  }

  /** The state as it is, for a pass without gradients. It reads what a stage is training. */
  frozen(): StageModel {
    return { config: this.start.config, tensor: (name) => this.tensor(name), baseName: (name) => this.baseName(name), lora: this.lora, parameters: undefined, dropout: new Map() };
  }

  /**
   * What the job made: LoRA modules where no tensor of the base changed and none is DoRA, else all changed tensors with LoRA merged into
   * them; and its classification head, where it trained one.
   */
  async content(): Promise<LoraInput | VariantInput> {
    const tensors = [...this.changed.keys(), ...this.start.made.keys()].filter((name) => name !== CLASSIFICATION_HEAD_WEIGHT);
    if (tensors.length === 0 && this.architecture() === undefined && [...this.lora.values()].every(({ magnitude }) => magnitude === undefined)) {
      const modules = new Map<string, LoraModule>();
      for (const [module, { rank, scaling, a, b }] of this.lora) modules.set(module, { module, rank, scaling, a: a.f32(), b: b.f32() });
      return { kind: 'lora', modules, ...this.classificationHead() };
    }
    return this.variant();
  }

  /** All tensors that are not the base's, LoRA merged into them, and the architecture where it is not the base's. */
  async variant(): Promise<VariantInput> {
    for (const module of [...this.lora.keys()]) await this.merge(module);
    const made = [...this.start.made].map(([name, data]) => [name, { dtype: 'float32' as const, shape: this.shapes.get(name)!, data }] as const);
    const changed = [...this.changed].map(([name, { shape, dtype, data }]) => [name, { dtype, shape, data }] as const);
    const architecture = this.architecture();
    const tensors = new Map([...made, ...changed]);
    tensors.delete(CLASSIFICATION_HEAD_WEIGHT);
    return { kind: 'variant', tensors, ...(architecture === undefined ? {} : { architecture }), ...this.classificationHead() };
  }

  private classificationHead(): { head?: ClassificationHead } {
    const weight = this.changed.get(CLASSIFICATION_HEAD_WEIGHT);
    return this.head === undefined || weight === undefined ? {} : { head: { ...this.head, weight: weight.f32() } };
  }

  /** How the model differs from the base in more than values; undefined where it does not. */
  private architecture(): VariantArchitecture | undefined {
    const { start: { config, layerOrigins }, lease: { config: base } } = this;
    const intermediateSizes = layerOrigins.map((_, layer) => feedForwardSize(config, layer));
    const architecture = { layerOrigins, intermediateSizes, tieWordEmbeddings: config.tieWordEmbeddings };
    return isOfBase(base, architecture) ? undefined : architecture;
  }

  /** Name in the base of a tensor that is neither trained nor changed; undefined for others. */
  private baseName(name: string): string | undefined {
    return this.changed.has(name) || this.start.made.has(name) ? undefined : this.origin(name);
  }

  /** A weight as training computes with it: a base that is held in integers stands for other values than its file's. */
  private async computedWith(name: string): Promise<Float32Array> {
    const base = this.baseName(name);
    return (base === undefined ? undefined : await this.lease.dequantized(base)) ?? (await this.tensor(name)).f32();
  }

  private async tensor(name: string): Promise<Tensor> {
    this.refuseWhenAborted();
    const known = this.changed.get(name) ?? this.made.get(name);
    if (known !== undefined) return known;
    const data = this.start.made.get(name);
    if (data === undefined) return this.lease.weight(this.origin(name));
    const tensor = this.lease.runtime.from(data, 'float32', this.shapes.get(name)!);
    this.made.set(name, tensor);
    return tensor;
  }

  /** Values to start training from. */
  private async initial(name: string): Promise<Float32Array> {
    return this.start.made.get(name) ?? this.lease.initial(this.origin(name));
  }

  /** Name in the base of a tensor that is the base's. */
  private origin(name: string): string {
    const origin = this.start.unchanged.get(name);
    if (origin === undefined) throw new Error(`the model has no tensor ${name}`);
    return origin;
  }

  private refuseWhenAborted(): void {
    if (this.signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', 'tuning was cancelled', { cause: this.signal.reason });
  }

  private specifications(plan: TrainablePlan, decayNorms: boolean, rateFactor: (parameter: string) => number): ParameterSpecification[] {
    return [...parameterShapes(plan, this.shapes)].map(([name, shape]) => ({ name, shape, decays: decayNorms || shape.length > 1, rateFactor: rateFactor(name) }));
  }

  /** Adds a module's LoRA to its weight; nothing where it has none. */
  private async merge(module: string): Promise<void> {
    const lora = this.lora.get(module);
    if (lora === undefined) return;
    const name = `${module}.weight`;
    const dora = lora.magnitude !== undefined;
    const session = await this.lease.session(`merge:${lora.scaling}:${dora}`, () => mergeGraph(lora.scaling, dora));
    const merged = this.lease.runtime.empty('float32', this.shapes.get(name)!);
    const base = this.baseName(name);
    // Where the base is held in integers its float32 values are read for this alone: what leaves the job is merged into the base itself.
    const own = base === undefined || this.lease.held(base) === 'float32' ? undefined : await this.lease.owned(base);
    const binding = session.binding().input('weight', own ?? (await this.tensor(name))).input('a', lora.a).input('b', lora.b).output('merged', merged);
    if (lora.magnitude !== undefined) binding.input('magnitude', lora.magnitude);
    await session.run(binding, { lane: 'training' });
    binding.dispose();
    own?.dispose();
    this.changed.set(name, merged);
    this.lora.delete(module);
  }
}

function continues(earlier: LoraTensors | undefined, settings: LoraSettings): boolean {
  return earlier === undefined || (earlier.rank === settings.rank && earlier.scaling === settings.scaling && (earlier.magnitude !== undefined) === settings.dora);
}

/** The parameters of a plan with their shapes; `shapes` are the checkpoint's. */
export function parameterShapes(plan: TrainablePlan, shapes: ReadonlyMap<string, readonly number[]>): Map<string, readonly number[]> {
  const result = new Map([...plan.tensors].map((name) => [name, shapes.get(name)!]));
  for (const [module, { rank, dora }] of plan.lora) {
    const [out, input] = shapes.get(`${module}.weight`)! as readonly [number, number];
    result.set(loraA(module), [rank, input]).set(loraB(module), [out, rank]);
    if (dora) result.set(loraMagnitude(module), [out]);
  }
  return result;
}

/** 2-norms of the rows of a matrix, summed in float64. */
function normsOfRows(matrix: Float32Array, rows: number): Float32Array {
  const width = matrix.length / rows;
  return Float32Array.from({ length: rows }, (_, row) => Math.sqrt(matrix.subarray(row * width, (row + 1) * width).reduce((sum, value) => sum + value * value, 0)));
}
