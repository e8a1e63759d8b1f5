/**
 * The two ends of a pass: embedding lookup and its gradient, and the head with the loss in pieces of rows where the loss counts, each in up to three
 * runs: losses, gradient of the rows, gradient of the table. The head is the language model's or a classification head.
 * Invariant: gradients of a tied embedding get the head's part first (written or added), then the lookup's (added).
 */
import { weightShapes, type DecoderConfig } from '../models/config.js';
import { CLASSIFICATION_HEAD_WEIGHT, EMBEDDING_WEIGHT, FINAL_NORM_BIAS, FINAL_NORM_WEIGHT, HEAD_WEIGHT, POSITION_WEIGHT } from '../models/decoder.js';
import { EMBEDDING_DROPOUT_MASK } from '../models/training-form-dropout.js';
import { embeddingGradientSegment, embeddingSegment, scatterRowsSegment } from '../models/training-form-ends.js';
import { headInputSegment, headLossSegment, headTableSegment, logitsSegment, outputBlocks, type HeadInputs } from '../models/training-form-head.js';
import type { Graph } from '../onnx/index.js';
import type { Binding, Runtime, Session, Tensor } from '../runtime/index.js';
import { Activations } from './activations.js';
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

/** Gradient of a table by the places where its rows entered the stream. */
interface Lookup extends Step {
  readonly of: 'tokens' | 'positions';
  readonly gradient: Tensor;
  /** A tied head writes the gradient first. */
  readonly writtenBefore: boolean;
}

/** A classification head's scores are neither divided nor capped. */
function withPlainLogits(config: DecoderConfig): DecoderConfig {
  const { logitDivisor: _divisor, logitSoftcap: _cap, ...rest } = config;
  return rest;
}

/** A run for the first piece of a step, and for those that add to it. */
type Adding = Readonly<Record<'write' | 'add', Step>>;

export class HeadPass {
  private readonly blocks: ReturnType<typeof outputBlocks>;
  /** Differences and factors of one piece, between its runs. */
  private readonly kept: Activations;

  private constructor(
    private readonly runtime: Runtime,
    private readonly hiddenSize: number,
    private readonly outputs: number,
    private readonly inputGradient: boolean,
    private readonly steps: Readonly<Record<'embed' | 'losses' | 'differences' | 'scatter' | 'logits', Step>>,
    /** Where the rows or the final norm need a gradient, and where the table does. */
    private readonly inputSteps: Adding | undefined,
    private readonly tableSteps: Adding | undefined,
    private readonly lookups: readonly Lookup[],
    /** Views of the table and its gradient, a block each. */
    private readonly views: readonly Tensor[],
  ) {
    this.blocks = outputBlocks(outputs);
    this.kept = new Activations(runtime);
  }

  /** `inputGradient`: something below the head is trained; `dropoutScale`: what kept embeddings are multiplied by, where some are dropped. */
  static async create(lease: BaseLease, model: StageModel, inputGradient: boolean, choice: HeadChoice, dropoutScale?: number): Promise<HeadPass> {
    const { runtime } = lease;
    const { config, parameters } = model;
    const tied = choice === 'languageModel' && config.tieWordEmbeddings;
    const headName = choice === 'classification' ? CLASSIFICATION_HEAD_WEIGHT : tied ? EMBEDDING_WEIGHT : HEAD_WEIGHT;
    const table = await model.tensor(EMBEDDING_WEIGHT);
    const head = tied ? table : await model.tensor(headName);
    const outputs = head.shape[0]!;
    const shapes = weightShapes(config);
    const trained = (name: string): boolean => parameters?.has(name) === true;
    const views: Tensor[] = [];
    const blocks = (name: string, tensor: Tensor): Record<string, Tensor> => Object.fromEntries(outputBlocks(outputs).map(({ start, size }, i) => {
      const view = tensor.view([size, config.hiddenSize], start * config.hiddenSize);
      views.push(view);
      return [`${name}.${i}`, view];
    }));
    const given: Record<string, Tensor> = { ...blocks('table', head), gain: await model.tensor(FINAL_NORM_WEIGHT) };
    if (shapes.has(FINAL_NORM_BIAS)) given['bias'] = await model.tensor(FINAL_NORM_BIAS);
    const results: Record<string, Tensor> = trained(headName) ? blocks('gradient.head', parameters!.gradient(headName)) : {};
    if (trained(FINAL_NORM_WEIGHT)) results['gradient.norm'] = parameters!.gradient(FINAL_NORM_WEIGHT);
    if (trained(FINAL_NORM_BIAS)) results['gradient.normBias'] = parameters!.gradient(FINAL_NORM_BIAS);
    for (const [name, gradient] of Object.entries(results)) given[name.replace('gradient', 'sum')] = gradient;

    const bound = async (key: string, build: () => Graph, tensors: Readonly<Record<string, Tensor>> = given): Promise<Step> => {
      const session = await lease.session(key, build);
      const binding = session.binding();
      for (const { name } of session.inputs) if (tensors[name] !== undefined) binding.input(name, tensors[name]);
      for (const { name } of session.outputs) if (results[name] !== undefined) binding.output(name, results[name]);
      return { session, binding };
    };
    const scored = choice === 'languageModel' ? config : withPlainLogits(config);
    const key = `${choice}:${outputs}`;
    const adding = async (make: (adding: boolean) => Promise<Step>): Promise<Adding> => ({ write: await make(false), add: await make(true) });
    const wanted: HeadInputs = { inputGradient, trainNorm: trained(FINAL_NORM_WEIGHT), trainNormBias: trained(FINAL_NORM_BIAS) };
    const inputSteps = Object.values(wanted).includes(true)
      ? await adding((add) => bound(`head-input:${key}:${JSON.stringify(wanted)}:${add}`, () => headInputSegment(scored, outputs, wanted, add)))
      : undefined;
    const tableSteps = trained(headName) ? await adding((add) => bound(`head-table:${key}:${add}`, () => headTableSegment(scored, outputs, add))) : undefined;

    const positions: Readonly<Record<string, Tensor>> = shapes.has(POSITION_WEIGHT) ? { position_table: await model.tensor(POSITION_WEIGHT) } : {};
    const steps = {
      embed: await bound(`embedding:${dropoutScale ?? ''}`, () => embeddingSegment(config, dropoutScale), { table, ...positions }),
      losses: await bound(`head-loss:${key}:false`, () => headLossSegment(scored, outputs, false)),
      differences: await bound(`head-loss:${key}:true`, () => headLossSegment(scored, outputs, true)),
      scatter: await bound('scatter-rows', () => scatterRowsSegment(config)),
      logits: await bound(`logits:${key}`, () => logitsSegment(scored, outputs), { ...given, table: head }),
    };
    const lookup = async (of: Lookup['of'], name: string, writtenBefore: boolean): Promise<Lookup[]> => {
      if (!trained(name)) return [];
      const gradient = parameters!.gradient(name);
      const step = await bound(`embedding-gradient:${of}:${dropoutScale ?? ''}`, () => embeddingGradientSegment(config, dropoutScale, of), { sum: gradient });
      return [{ of, gradient, writtenBefore, ...step }];
    };
    const lookups = [...(await lookup('tokens', EMBEDDING_WEIGHT, tied)), ...(await lookup('positions', POSITION_WEIGHT, false))];
    return new HeadPass(runtime, config.hiddenSize, outputs, inputGradient, steps, inputSteps, tableSteps, lookups, views);
  }

  /** tokens [B,T] at positions [B,T] → x [B·T, C]; `mask` [B·T, C] where embeddings are dropped. */
  async embed(tokens: Tensor, positions: Tensor, x: Tensor, mask: Tensor | undefined, signal: AbortSignal | undefined): Promise<void> {
    const { session, binding } = this.steps.embed;
    binding.input('tokens', tokens).output('y', x);
    if (session.inputs.some(({ name }) => name === 'positions')) binding.input('positions', positions);
    if (mask !== undefined) binding.input(EMBEDDING_DROPOUT_MASK, mask);
    await session.run(binding, { lane, signal });
  }

  /** Losses of a micro-batch in nats, one per loss position; nothing else is computed. x [M,C] is the last layer's output. */
  async losses(x: Tensor, batch: MicroBatch, signal: AbortSignal | undefined): Promise<Float32Array> {
    const pieces = new Pieces(this.runtime, batch);
    try {
      for (const { start, size } of pieces.of(this.rows)) {
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
    const pieceGradients = this.runtime.empty('float32', [this.inputGradient ? count : 0, this.hiddenSize]);
    const run = async ({ session, binding }: Step): Promise<void> => session.run(binding, { lane, signal });
    try {
      for (const { start, size } of pieces.of(this.rows)) {
        const rows = pieces.rows(start, size);
        this.kept.resize(size);
        const { binding } = this.steps.differences;
        binding.input('x', x).input('rows', rows).input('targets', pieces.targets(start, size)).input('weights', pieces.view(allWeights, [size], start));
        binding.output('losses', pieces.losses(start, size)).output('factor', this.factor());
        this.eachDifference((name, difference) => binding.output(name, difference));
        await run(this.steps.differences);
        for (const steps of [this.inputSteps, this.tableSteps]) {
          if (steps === undefined) continue;
          const step = steps[adding || start > 0 ? 'add' : 'write'];
          step.binding.input('x', x).input('rows', rows).input('factor', this.factor());
          this.eachDifference((name, difference) => step.binding.input(name, difference));
          if (steps === this.inputSteps && this.inputGradient) step.binding.output('dx', pieces.view(pieceGradients, [size, this.hiddenSize], start * this.hiddenSize));
          await run(step);
        }
      }
      if (this.inputGradient) {
        const { binding } = this.steps.scatter;
        binding.input('x', x).input('rows', pieces.rows(0, count)).input('updates', pieceGradients).output('dx', dx);
        await run(this.steps.scatter);
      }
      return pieces.allLosses();
    } finally {
      for (const tensor of [allWeights, pieceGradients]) tensor.dispose();
      pieces.dispose();
    }
  }

  /**
   * Adds the lookups' parts to the gradients of the embedding and of learned positions. dx [M,C] is the gradient of the first layer's
   * input, `positions` [B,T] and `mask` are as in the lookup.
   */
  async embedGradient(batch: MicroBatch, positions: Tensor, dx: Tensor, adding: boolean, mask: Tensor | undefined, signal: AbortSignal | undefined): Promise<void> {
    for (const lookup of this.lookups) {
      // A table that has no gradient yet starts a step from zero.
      if (!adding && !lookup.writtenBefore) lookup.gradient.f32().fill(0);
      const indices = lookup.of === 'tokens' ? batch.tokens : (positions.data as BigInt64Array);
      await this.lookupGradient(lookup, indices, dx, mask, signal);
    }
  }

  private async lookupGradient({ session, binding, gradient }: Lookup, indices: BigInt64Array, dx: Tensor, mask: Tensor | undefined, signal: AbortSignal | undefined): Promise<void> {
    const all = this.runtime.from(indices, 'int64', [indices.length]);
    binding.output('gradient', gradient);
    try {
      for (let start = 0; start < indices.length; start += EMBEDDING_ROWS) {
        const size = Math.min(EMBEDDING_ROWS, indices.length - start);
        const ids = [...new Set(indices.subarray(start, start + size))];
        const distinct = this.runtime.from(ids, 'int64', [ids.length]);
        const piece = all.view([size], start);
        const dy = dx.view([size, this.hiddenSize], start * this.hiddenSize);
        const kept = mask?.view([size, this.hiddenSize], start * this.hiddenSize);
        binding.input('tokens', piece).input('distinct', distinct).input('dy', dy);
        if (kept !== undefined) binding.input(EMBEDDING_DROPOUT_MASK, kept);
        await session.run(binding, { lane, signal });
        for (const tensor of [distinct, piece, dy, kept]) tensor?.dispose();
      }
    } finally {
      all.dispose();
    }
  }

  /** Rows of one piece. */
  private get rows(): number {
    return headRows(this.outputs, this.hiddenSize);
  }

  /** [N,1] of the current piece. */
  private factor(): Tensor {
    return this.kept.get('factor', 1);
  }

  /** [N,size] of the current piece, a block each. */
  private eachDifference(visit: (name: string, difference: Tensor) => void): void {
    for (const [i, { size }] of this.blocks.entries()) visit(`difference.${i}`, this.kept.get(`difference.${i}`, size));
  }

  /** Logits [rows.length, outputs] of flat positions of x [M,C], piece by piece into one array. */
  async logits(x: Tensor, positions: readonly number[], signal: AbortSignal | undefined): Promise<Float32Array> {
    const result = this.runtime.empty('float32', [positions.length, this.outputs]);
    const rows = this.runtime.from(positions, 'int64', [positions.length]);
    const { session, binding } = this.steps.logits;
    const most = this.rows;
    for (let start = 0; start < positions.length; start += most) {
      const size = Math.min(most, positions.length - start);
      const piece = rows.view([size], start);
      const logits = result.view([size, this.outputs], start * this.outputs);
      binding.input('x', x).input('rows', piece).output('logits', logits);
      await session.run(binding, { lane, signal });
      for (const tensor of [piece, logits]) tensor.dispose();
    }
    rows.dispose();
    return result.f32();
  }

  dispose(): void {
    for (const { binding } of [this.steps, this.inputSteps ?? {}, this.tableSteps ?? {}, this.lookups].flatMap((steps) => Object.values<Step>(steps))) binding.dispose();
    for (const view of this.views) view.dispose();
    this.kept.dispose();
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
