/**
 * The two ends of a pass: embedding lookup and its gradient, and the head with the loss in pieces of rows where the loss counts. The head
 * is the language model's or a classification head.
 * Invariant: gradients of a tied embedding get the head's part first (written or added), then the lookup's (added).
 */
import { CLASSIFICATION_HEAD_WEIGHT, EMBEDDING_WEIGHT, FINAL_NORM_WEIGHT, HEAD_WEIGHT } from '../models/decoder.js';
import { EMBEDDING_DROPOUT_MASK } from '../models/training-form-dropout.js';
import { embeddingGradientSegment, embeddingSegment, headSegment, logitsSegment, scatterRowsSegment, type HeadKind } from '../models/training-form-ends.js';
import type { Binding, Runtime, Session, Tensor } from '../runtime/index.js';
import type { MicroBatch } from './batches.js';
import type { StageModel } from './layer-pass.js';
import { headRows } from './segment-size.js';
import type { BaseLease } from './training-host.js';

/** Positions of one piece of the embedding's gradient: the membership product grows with its square. */
const EMBEDDING_ROWS = 512;

/** What the hidden states of a pass are scored by. */
export type HeadChoice = 'languageModel' | 'classification';

/** One number for all losses of a micro-batch, or one for each. */
export type LossWeights = number | Float32Array;

const lane = 'training';

interface Step {
  readonly session: Session;
  readonly binding: Binding;
}

export class HeadPass {
  private constructor(
    private readonly runtime: Runtime,
    private readonly hiddenSize: number,
    private readonly kind: Omit<HeadKind, 'adding'>,
    /** The head has written the embedding's gradient when the lookup's turn comes. */
    private readonly headWritesEmbedding: boolean,
    private readonly embeddingGradient: Tensor | undefined,
    private readonly steps: Readonly<Record<'embed' | 'losses' | 'write' | 'add' | 'scatter' | 'logits', Step>>,
    private readonly embedBack: Step | undefined,
  ) {}

  /** `inputGradient`: something below the head is trained; `dropoutScale`: what kept embeddings are multiplied by, where some are dropped. */
  static async create(lease: BaseLease, model: StageModel, inputGradient: boolean, choice: HeadChoice, dropoutScale?: number): Promise<HeadPass> {
    const { runtime } = lease;
    const { config, parameters } = model;
    const tied = choice === 'languageModel' && config.tieWordEmbeddings;
    const headName = choice === 'classification' ? CLASSIFICATION_HEAD_WEIGHT : tied ? EMBEDDING_WEIGHT : HEAD_WEIGHT;
    const table = await model.tensor(EMBEDDING_WEIGHT);
    const head = tied ? table : await model.tensor(headName);
    const gain = await model.tensor(FINAL_NORM_WEIGHT);
    const outputs = head.shape[0]!;
    const kind = { outputs, trainHead: parameters?.has(headName) === true, trainNorm: parameters?.has(FINAL_NORM_WEIGHT) === true, inputGradient };
    const bound = async (key: string, build: () => ReturnType<typeof embeddingSegment>, tensors: Readonly<Record<string, Tensor>>): Promise<Step> => {
      const session = await lease.session(key, build);
      const binding = session.binding();
      for (const { name } of session.inputs) if (tensors[name] !== undefined) binding.input(name, tensors[name]);
      return { session, binding };
    };
    const sums = {
      ...(kind.trainHead ? { 'sum.head': parameters!.gradient(headName) } : {}),
      ...(kind.trainNorm ? { 'sum.norm': parameters!.gradient(FINAL_NORM_WEIGHT) } : {}),
    };
    const headStep = async (step: HeadKind): Promise<Step> => {
      const made = await bound(`head:${JSON.stringify(step)}`, () => headSegment(config, step), { table: head, gain, ...sums });
      if (step.trainHead) made.binding.output('gradient.head', parameters!.gradient(headName));
      if (step.trainNorm) made.binding.output('gradient.norm', parameters!.gradient(FINAL_NORM_WEIGHT));
      return made;
    };
    const steps = {
      embed: await bound(`embedding:${dropoutScale ?? ''}`, () => embeddingSegment(config, dropoutScale), { table }),
      losses: await headStep({ outputs, trainHead: false, trainNorm: false, inputGradient: false, adding: false }),
      write: await headStep({ ...kind, adding: false }),
      add: await headStep({ ...kind, adding: true }),
      scatter: await bound('scatter-rows', () => scatterRowsSegment(config), {}),
      logits: await bound(`logits:${outputs}`, () => logitsSegment(config, outputs), { gain, table: head }),
    };
    const embeddingGradient = parameters?.has(EMBEDDING_WEIGHT) === true ? parameters.gradient(EMBEDDING_WEIGHT) : undefined;
    const embedBack = embeddingGradient === undefined ? undefined : await bound(`embedding-gradient:${dropoutScale ?? ''}`, () => embeddingGradientSegment(config, dropoutScale), { sum: embeddingGradient });
    return new HeadPass(runtime, config.hiddenSize, kind, tied, embeddingGradient, steps, embedBack);
  }

  /** tokens [B,T] → x [B·T, C]; `mask` [B·T, C] where embeddings are dropped. */
  async embed(tokens: Tensor, x: Tensor, mask: Tensor | undefined, signal: AbortSignal | undefined): Promise<void> {
    const { session, binding } = this.steps.embed;
    binding.input('tokens', tokens).output('y', x);
    if (mask !== undefined) binding.input(EMBEDDING_DROPOUT_MASK, mask);
    await session.run(binding, { lane, signal });
  }

  /** Losses of a micro-batch in nats, one per loss position; nothing else is computed. x [M,C] is the last layer's output. */
  async losses(x: Tensor, batch: MicroBatch, signal: AbortSignal | undefined): Promise<Float32Array> {
    const pieces = new Pieces(this.runtime, batch);
    try {
      for (const { start, size } of pieces.of(this.rows(1))) {
        const { session, binding } = this.steps.losses;
        binding.input('x', x).input('rows', pieces.rows(start, size)).input('targets', pieces.targets(start, size)).output('losses', pieces.losses(start, size));
        await session.run(binding, { lane, signal });
      }
      return pieces.allLosses();
    } finally {
      pieces.dispose();
    }
  }

  /**
   * Losses as above; the gradients of Σ weights · losses go to the parameters (added when `adding`) and to dx [M,C], where something below
   * the head is trained.
   */
  async gradients(x: Tensor, batch: MicroBatch, weights: LossWeights, adding: boolean, dx: Tensor, signal: AbortSignal | undefined): Promise<Float32Array> {
    const count = batch.lossPositions.length;
    const pieces = new Pieces(this.runtime, batch);
    const allWeights = this.runtime.empty('float32', [count]);
    if (typeof weights === 'number') allWeights.f32().fill(weights);
    else allWeights.f32().set(weights);
    const pieceGradients = this.runtime.empty('float32', [this.kind.inputGradient ? count : 0, this.hiddenSize]);
    try {
      const { inputGradient, trainHead } = this.kind;
      for (const { start, size } of pieces.of(this.rows(1 + Number(inputGradient) + Number(trainHead)))) {
        const { session, binding } = this.steps[adding || start > 0 ? 'add' : 'write'];
        binding.input('x', x).input('rows', pieces.rows(start, size)).input('targets', pieces.targets(start, size));
        binding.input('weights', pieces.view(allWeights, [size], start)).output('losses', pieces.losses(start, size));
        if (this.kind.inputGradient) binding.output('dx', pieces.view(pieceGradients, [size, this.hiddenSize], start * this.hiddenSize));
        await session.run(binding, { lane, signal });
      }
      if (this.kind.inputGradient) {
        const { session, binding } = this.steps.scatter;
        binding.input('x', x).input('rows', pieces.rows(0, count)).input('updates', pieceGradients).output('dx', dx);
        await session.run(binding, { lane, signal });
      }
      return pieces.allLosses();
    } finally {
      for (const tensor of [allWeights, pieceGradients]) tensor.dispose();
      pieces.dispose();
    }
  }

  /** Adds the lookup's part to the embedding's gradient. dx [M,C] is the gradient of the first layer's input, `mask` as in the lookup. */
  async embedGradient(batch: MicroBatch, dx: Tensor, adding: boolean, mask: Tensor | undefined, signal: AbortSignal | undefined): Promise<void> {
    if (this.embedBack === undefined || this.embeddingGradient === undefined) return;
    const { session, binding } = this.embedBack;
    // A tied head has written this gradient already; another embedding starts a step from zero.
    if (!adding && !this.headWritesEmbedding) this.embeddingGradient.f32().fill(0);
    const tokens = this.runtime.from(batch.tokens, 'int64', [batch.tokens.length]);
    binding.output('gradient', this.embeddingGradient);
    try {
      for (let start = 0; start < batch.tokens.length; start += EMBEDDING_ROWS) {
        const size = Math.min(EMBEDDING_ROWS, batch.tokens.length - start);
        const ids = [...new Set(batch.tokens.subarray(start, start + size))];
        const distinct = this.runtime.from(ids, 'int64', [ids.length]);
        const piece = tokens.view([size], start);
        const dy = dx.view([size, this.hiddenSize], start * this.hiddenSize);
        const kept = mask?.view([size, this.hiddenSize], start * this.hiddenSize);
        binding.input('tokens', piece).input('distinct', distinct).input('dy', dy);
        if (kept !== undefined) binding.input(EMBEDDING_DROPOUT_MASK, kept);
        await session.run(binding, { lane, signal });
        for (const tensor of [distinct, piece, dy, kept]) tensor?.dispose();
      }
    } finally {
      tokens.dispose();
    }
  }

  /** Rows of one piece, for a run with so many products. */
  private rows(products: number): number {
    return headRows(this.kind.outputs, this.hiddenSize, products);
  }

  /** Logits [rows.length, outputs] of flat positions of x [M,C], piece by piece into one array. */
  async logits(x: Tensor, positions: readonly number[], signal: AbortSignal | undefined): Promise<Float32Array> {
    const result = this.runtime.empty('float32', [positions.length, this.kind.outputs]);
    const rows = this.runtime.from(positions, 'int64', [positions.length]);
    const { session, binding } = this.steps.logits;
    const most = this.rows(1);
    for (let start = 0; start < positions.length; start += most) {
      const size = Math.min(most, positions.length - start);
      const piece = rows.view([size], start);
      const logits = result.view([size, this.kind.outputs], start * this.kind.outputs);
      binding.input('x', x).input('rows', piece).output('logits', logits);
      await session.run(binding, { lane, signal });
      for (const tensor of [piece, logits]) tensor.dispose();
    }
    rows.dispose();
    return result.f32();
  }

  dispose(): void {
    for (const { binding } of [...Object.values(this.steps), ...(this.embedBack === undefined ? [] : [this.embedBack])]) binding.dispose();
  }
}

/** Positions, targets and losses of one micro-batch, and the views of them that runs over pieces are bound to. */
class Pieces {
  private readonly all: Readonly<Record<'rows' | 'targets' | 'losses', Tensor>>;
  private readonly views: Tensor[] = [];
  private readonly count: number;

  constructor(runtime: Runtime, { lossPositions, lossTargets }: MicroBatch) {
    this.count = lossPositions.length;
    const shape = [this.count];
    this.all = { rows: runtime.from(lossPositions, 'int64', shape), targets: runtime.from(lossTargets, 'int64', shape), losses: runtime.empty('float32', shape) };
  }

  *of(most: number): Generator<{ readonly start: number; readonly size: number }> {
    for (let start = 0; start < this.count; start += most) yield { start, size: Math.min(most, this.count - start) };
  }

  view(tensor: Tensor, shape: readonly number[], offset: number): Tensor {
    const made = tensor.view(shape, offset);
    this.views.push(made);
    return made;
  }

  rows(start: number, size: number): Tensor {
    return this.view(this.all.rows, [size], start);
  }

  targets(start: number, size: number): Tensor {
    return this.view(this.all.targets, [size], start);
  }

  losses(start: number, size: number): Tensor {
    return this.view(this.all.losses, [size], start);
  }

  allLosses(): Float32Array {
    return this.all.losses.f32().slice();
  }

  dispose(): void {
    for (const tensor of [...this.views, ...Object.values(this.all)]) tensor.dispose();
  }
}
