/**
 * The two ends of a pass: embedding lookup and its gradient, and the head with the loss in pieces of rows where the loss counts.
 * Invariant: gradients of a tied embedding get the head's part first (written or added), then the lookup's (added).
 */
import { EMBEDDING_WEIGHT, FINAL_NORM_WEIGHT, HEAD_WEIGHT } from '../models/decoder.js';
import { embeddingGradientSegment, embeddingSegment, headSegment, logitsSegment, scatterRowsSegment, type HeadKind } from '../models/training-form-ends.js';
import type { Binding, Runtime, Session, Tensor } from '../runtime/index.js';
import type { MicroBatch } from './batches.js';
import type { StageModel } from './layer-pass.js';
import type { BaseLease } from './training-host.js';

/** Logits of one piece take at most this many bytes, and no piece has more rows than a long product needs. */
const LOGITS_BYTES = 32 * 2 ** 20;
const MOST_ROWS = 1024;
/** Positions of one piece of the embedding's gradient: the membership product grows with its square. */
const EMBEDDING_ROWS = 512;

export function headRows(vocabSize: number): number {
  return Math.max(16, Math.min(MOST_ROWS, Math.floor(LOGITS_BYTES / (4 * vocabSize) / 16) * 16));
}

const lane = 'training';

export class HeadPass {
  private constructor(
    private readonly runtime: Runtime,
    private readonly hiddenSize: number,
    private readonly vocabSize: number,
    private readonly kind: Omit<HeadKind, 'adding'>,
    private readonly tied: boolean,
    private readonly embeddingGradient: Tensor | undefined,
    private readonly steps: Readonly<Record<'embed' | 'write' | 'add' | 'scatter' | 'logits', { session: Session; binding: Binding }>>,
    private readonly embedBack: { session: Session; binding: Binding } | undefined,
    private readonly scale: Tensor,
  ) {}

  /** `inputGradient`: something below the head is trained. */
  static async create(lease: BaseLease, model: StageModel, inputGradient: boolean): Promise<HeadPass> {
    const { runtime } = lease;
    const { config, parameters } = model;
    const headName = config.tieWordEmbeddings ? EMBEDDING_WEIGHT : HEAD_WEIGHT;
    const table = await model.tensor(EMBEDDING_WEIGHT);
    const head = config.tieWordEmbeddings ? table : await model.tensor(HEAD_WEIGHT);
    const gain = await model.tensor(FINAL_NORM_WEIGHT);
    const kind = { trainHead: parameters?.has(headName) === true, trainNorm: parameters?.has(FINAL_NORM_WEIGHT) === true, inputGradient };
    const scale = runtime.empty('float32', [1]);
    const bound = async (key: string, build: () => ReturnType<typeof embeddingSegment>, tensors: Readonly<Record<string, Tensor>>) => {
      const session = await lease.session(key, build);
      const binding = session.binding();
      for (const { name } of session.inputs) if (tensors[name] !== undefined) binding.input(name, tensors[name]);
      return { session, binding };
    };
    const sums = {
      ...(kind.trainHead ? { 'sum.head': parameters!.gradient(headName) } : {}),
      ...(kind.trainNorm ? { 'sum.norm': parameters!.gradient(FINAL_NORM_WEIGHT) } : {}),
    };
    const headStep = async (adding: boolean) => {
      const step = await bound(`head:${JSON.stringify({ ...kind, adding })}`, () => headSegment(config, { ...kind, adding }), { table: head, gain, scale, ...sums });
      if (kind.trainHead) step.binding.output('gradient.head', parameters!.gradient(headName));
      if (kind.trainNorm) step.binding.output('gradient.norm', parameters!.gradient(FINAL_NORM_WEIGHT));
      return step;
    };
    const steps = {
      embed: await bound('embedding', () => embeddingSegment(config), { table }),
      write: await headStep(false),
      add: await headStep(true),
      scatter: await bound('scatter-rows', () => scatterRowsSegment(config), {}),
      logits: await bound('logits', () => logitsSegment(config), { gain, table: head }),
    };
    const embeddingGradient = parameters?.has(EMBEDDING_WEIGHT) === true ? parameters.gradient(EMBEDDING_WEIGHT) : undefined;
    const embedBack = embeddingGradient === undefined ? undefined : await bound('embedding-gradient', () => embeddingGradientSegment(config), { sum: embeddingGradient });
    return new HeadPass(runtime, config.hiddenSize, config.vocabSize, kind, config.tieWordEmbeddings, embeddingGradient, steps, embedBack, scale);
  }

  /** tokens [B,T] → x [B·T, C]. */
  async embed(tokens: Tensor, x: Tensor, signal: AbortSignal | undefined): Promise<void> {
    const { session, binding } = this.steps.embed;
    binding.input('tokens', tokens).output('y', x);
    await session.run(binding, { lane, signal });
  }

  /**
   * Sum of the losses of a micro-batch in nats. With `scale`, gradients of scale · loss go to the parameters (added when `adding`) and
   * to dx [M,C]; without, no gradient is computed. x [M,C] is the last layer's output.
   */
  async loss(x: Tensor, batch: MicroBatch, gradients: { readonly scale: number; readonly adding: boolean; readonly dx: Tensor } | undefined, signal: AbortSignal | undefined): Promise<number> {
    const count = batch.lossPositions.length;
    const rows = this.runtime.from(batch.lossPositions, 'int64', [count]);
    const targets = this.runtime.from(batch.lossTargets, 'int64', [count]);
    const losses = this.runtime.empty('float32', [count]);
    const pieceGradients = this.runtime.empty('float32', [this.kind.inputGradient ? count : 0, this.hiddenSize]);
    this.scale.f32()[0] = gradients?.scale ?? 0;
    const views: Tensor[] = [];
    const view = (tensor: Tensor, shape: readonly number[], offset: number): Tensor => {
      const made = tensor.view(shape, offset);
      views.push(made);
      return made;
    };
    try {
      const most = headRows(this.vocabSize);
      for (let start = 0; start < count; start += most) {
        const size = Math.min(most, count - start);
        const { session, binding } = this.steps[gradients?.adding === true || start > 0 ? 'add' : 'write'];
        binding.input('x', x).input('rows', view(rows, [size], start)).input('targets', view(targets, [size], start));
        binding.output('losses', view(losses, [size], start));
        if (this.kind.inputGradient) binding.output('dx', view(pieceGradients, [size, this.hiddenSize], start * this.hiddenSize));
        await session.run(binding, { lane, signal });
      }
      if (gradients !== undefined && this.kind.inputGradient) {
        const { session, binding } = this.steps.scatter;
        binding.input('x', x).input('rows', rows).input('updates', pieceGradients).output('dx', gradients.dx);
        await session.run(binding, { lane, signal });
      }
      return losses.f32().reduce((sum, loss) => sum + loss, 0);
    } finally {
      for (const tensor of [...views, rows, targets, losses, pieceGradients]) tensor.dispose();
    }
  }

  /** Adds the lookup's part to the embedding's gradient. dx [M,C] is the gradient of the first layer's input. */
  async embedGradient(batch: MicroBatch, dx: Tensor, adding: boolean, signal: AbortSignal | undefined): Promise<void> {
    if (this.embedBack === undefined || this.embeddingGradient === undefined) return;
    const { session, binding } = this.embedBack;
    // A tied head has written this gradient already; an untied embedding starts a step from zero.
    if (!adding && !this.tied) this.embeddingGradient.f32().fill(0);
    const tokens = this.runtime.from(batch.tokens, 'int64', [batch.tokens.length]);
    binding.output('gradient', this.embeddingGradient);
    try {
      for (let start = 0; start < batch.tokens.length; start += EMBEDDING_ROWS) {
        const size = Math.min(EMBEDDING_ROWS, batch.tokens.length - start);
        const ids = [...new Set(batch.tokens.subarray(start, start + size))];
        const distinct = this.runtime.from(ids, 'int64', [ids.length]);
        const piece = tokens.view([size], start);
        const dy = dx.view([size, this.hiddenSize], start * this.hiddenSize);
        binding.input('tokens', piece).input('distinct', distinct).input('dy', dy);
        await session.run(binding, { lane, signal });
        for (const tensor of [distinct, piece, dy]) tensor.dispose();
      }
    } finally {
      tokens.dispose();
    }
  }

  /** Logits [rows.length, V] of flat positions of x [M,C], piece by piece into one array. */
  async logits(x: Tensor, positions: readonly number[], signal: AbortSignal | undefined): Promise<Float32Array> {
    const result = this.runtime.empty('float32', [positions.length, this.vocabSize]);
    const rows = this.runtime.from(positions, 'int64', [positions.length]);
    const { session, binding } = this.steps.logits;
    for (let start = 0; start < positions.length; start += headRows(this.vocabSize)) {
      const size = Math.min(headRows(this.vocabSize), positions.length - start);
      const piece = rows.view([size], start);
      const logits = result.view([size, this.vocabSize], start * this.vocabSize);
      binding.input('x', x).input('rows', piece).output('logits', logits);
      await session.run(binding, { lane, signal });
      for (const tensor of [piece, logits]) tensor.dispose();
    }
    rows.dispose();
    return result.f32();
  }

  dispose(): void {
    for (const { binding } of [...Object.values(this.steps), ...(this.embedBack === undefined ? [] : [this.embedBack])]) binding.dispose();
    this.scale.dispose();
  }
}
