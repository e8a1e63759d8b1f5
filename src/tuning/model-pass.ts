/**
 * Forward and backward over the whole model, segment by segment: every run is one layer or a piece of the head, so that memory is
 * bounded by what is kept between segments and other lanes run in between. Invariant: layers below the lowest trained one keep
 * nothing and get no backward run.
 */
import type { Runtime, Tensor } from '../runtime/index.js';
import { Activations, ShapeInputsCache, type ShapeInputs } from './activations.js';
import { padded, type MicroBatch } from './batches.js';
import { HeadPass, type HeadChoice, type LossWeights } from './head-pass.js';
import { DropoutMasks, EMBEDDING_PLACE, type RandomOfRow } from './dropout.js';
import { LayerPass, type StageModel } from './layer-pass.js';
import { LentMemory } from './lent-memory.js';
import { layerOf, lowestTrained } from './model-slice.js';
import { queryBlocks } from './segment-size.js';
import type { SavedActivations } from './specification.js';
import type { BaseLease } from './training-host.js';

export interface PassOptions {
  readonly savedActivations: SavedActivations;
  /** Longest row of a micro-batch. */
  readonly maxLengthTokens: number;
  /** Micro-batches hold several sequences a row. */
  readonly packed?: boolean;
  /** Default: the language model's. */
  readonly head?: HeadChoice;
  /** Every call of `gradients` writes, none adds: activations may lie in the gradients' memory. */
  readonly alwaysWrites?: boolean;
  /** Layers whose activations `trace` shows; only for a pass without parameters. */
  readonly activationsOf?: ReadonlySet<number>;
}

/** What a layer read and gave, [M,C] both, and what entered its down_proj [M,F] where that was asked for. Good until the next run. */
export interface LayerTrace {
  readonly input: Float32Array;
  readonly output: Float32Array;
  readonly activation: Float32Array | undefined;
}

export class ModelPass {
  private readonly activations: Activations;

  private constructor(
    private readonly runtime: Runtime,
    private readonly hiddenSize: number,
    private readonly layers: readonly LayerPass[],
    private readonly head: HeadPass,
    private readonly shapes: ShapeInputsCache,
    /** First layer with a backward run; layers.length when only the head is trained. */
    private readonly lowest: number,
    private readonly masks: DropoutMasks,
    private readonly packed: boolean,
    private readonly maxLengthTokens: number,
    private readonly lent: LentMemory | undefined,
  ) {
    this.activations = new Activations(runtime, lent);
  }

  static async create(lease: BaseLease, model: StageModel, options: PassOptions): Promise<ModelPass> {
    const { runtime } = lease;
    const { config } = model;
    const lowest = lowestTrained(model.parameters?.names ?? [], config.layers);
    const layers: LayerPass[] = [];
    const masks = new DropoutMasks(runtime, config, model.dropout);
    const head = await HeadPass.create(lease, model, lowest < config.layers, options.head ?? 'languageModel', masks.scale(EMBEDDING_PLACE));
    const longest = padded(options.maxLengthTokens);
    const blocks = queryBlocks(longest);
    for (let i = 0; i < config.layers; i++) layers.push(await LayerPass.create(lease, model, i, lowest, { saved: options.savedActivations, packed: options.packed === true, queryBlocks: blocks, activation: options.activationsOf?.has(i) === true }, masks));
    const shapes = new ShapeInputsCache(runtime, config, longest, blocks);
    return new ModelPass(runtime, config.hiddenSize, layers, head, shapes, Math.max(0, lowest), masks, options.packed === true, options.maxLengthTokens, options.alwaysWrites === true ? lentBy(model) : undefined);
  }

  /** Bytes of activations that one token of a micro-batch keeps between forward and backward; memory-plan.ts foretells them. */
  get savedBytesPerToken(): number {
    return this.masks.bytesPerToken(this.maxLengthTokens) + this.layers.slice(this.lowest).reduce((sum, layer) => sum + 4 * layer.savedWidth, 12 * this.hiddenSize);
  }

  /**
   * The micro-batch's losses in nats, one per loss position; the gradients of Σ weights · losses are written to the parameters, or added
   * when `adding`. Weights that depend on the losses themselves are given as a function, for which the head runs once more.
   * `randomOf` gives the stream of a row of the micro-batch and a place, for places with dropout. Aborting rejects with CANCELLED and
   * leaves gradients incomplete.
   * With `alwaysWrites` gradients hold activations until the pass is through: they must be used before the next call.
   */
  async gradients(
    batch: MicroBatch, weights: LossWeights | ((losses: Float32Array) => LossWeights), adding: boolean, signal: AbortSignal | undefined, randomOf?: RandomOfRow,
  ): Promise<Float32Array> {
    if (adding && this.lent !== undefined) throw new Error('activations lie where gradients would be added to');
    const shape = this.prepare(batch);
    await this.masks.draw(batch, randomOf);
    const x = await this.forward(batch, shape, signal);
    let dy = this.matrix('gradient/0');
    let dx = this.matrix('gradient/1');
    const given = typeof weights === 'function' ? weights(await this.head.losses(x, batch, signal)) : weights;
    const losses = await this.head.gradients(x, batch, given, adding, dy, signal);
    for (let i = this.layers.length - 1; i >= this.lowest; i--) {
      await this.layers[i]!.backward(this.input(i), dy, dx, adding, shape, this.activations, signal);
      [dy, dx] = [dx, dy];
    }
    await this.head.embedGradient(batch, shape.positions, dy, adding, this.masks.get(EMBEDDING_PLACE), signal);
    return losses;
  }

  /** The micro-batch's losses in nats, one per loss position. For a pass without dropout. */
  async losses(batch: MicroBatch, signal: AbortSignal | undefined): Promise<Float32Array> {
    return this.head.losses(await this.forward(batch, this.prepare(batch), signal), batch, signal);
  }

  /** Runs forward and shows every layer to `visit` right after its run. Only for a pass without parameters. */
  async trace(batch: Pick<MicroBatch, 'rows' | 'length' | 'tokens' | 'places'>, visit: (layer: number, seen: LayerTrace) => void, signal: AbortSignal | undefined): Promise<void> {
    await this.forward(batch, this.prepare(batch), signal, (i) => {
      visit(i, { input: this.input(i).f32(), output: this.input(i + 1).f32(), activation: this.layers[i]!.activation(this.activations)?.f32() });
    });
  }

  /** Logits of one row of tokens, [positions.length, V], row-major. */
  async logits(tokens: readonly number[], positions: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    const length = padded(tokens.length);
    const batch = { rows: 1, length, tokens: BigInt64Array.from({ length }, (_, i) => BigInt(tokens[i] ?? 0)), places: [{ start: 0, length: tokens.length }] };
    return this.head.logits(await this.forward(batch, this.prepare(batch), signal), positions, signal);
  }

  dispose(): void {
    for (const layer of this.layers) layer.dispose();
    this.head.dispose();
    this.shapes.dispose();
    this.masks.dispose();
    this.activations.dispose();
  }

  private prepare(batch: Pick<MicroBatch, 'rows' | 'length' | 'places'>): ShapeInputs {
    this.activations.resize(batch.rows * batch.length);
    if (this.packed) return this.shapes.packed(batch.rows, batch.length, batch.places);
    return this.shapes.get(batch.rows, batch.length);
  }

  private async forward(batch: Pick<MicroBatch, 'rows' | 'length' | 'tokens'>, shape: ShapeInputs, signal: AbortSignal | undefined, after?: (layer: number) => void): Promise<Tensor> {
    const tokens = this.runtime.from(batch.tokens, 'int64', [batch.rows, batch.length]);
    try {
      await this.head.embed(tokens, shape.positions, this.input(0), this.masks.get(EMBEDDING_PLACE), signal);
    } finally {
      tokens.dispose();
    }
    for (const [i, layer] of this.layers.entries()) {
      await layer.forward(this.input(i), this.input(i + 1), shape, this.activations, signal);
      after?.(i);
    }
    return this.input(this.layers.length);
  }

  /** Input of layer i, or the head's for i = layers.length. Below the lowest trained layer two buffers take turns. */
  private input(i: number): Tensor {
    return i < this.lowest ? this.matrix(`input/even-odd/${i % 2}`) : this.matrix(`input/${i}`, i);
  }

  private matrix(name: string, until?: number): Tensor {
    return this.activations.get(name, this.hiddenSize, until);
  }
}

/** The gradients of what is trained in layers. */
function lentBy({ parameters }: StageModel): LentMemory | undefined {
  if (parameters === undefined) return undefined;
  const places = parameters.places.flatMap(({ name, start, elements }) => {
    const layer = layerOf(name);
    return layer === undefined ? [] : [{ start, elements, layer }];
  });
  return new LentMemory(parameters.gradients, places);
}
