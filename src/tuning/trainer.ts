/**
 * The training loop of one stage: micro-batches, gradients, clipping, the optimizer, an event per step. Loss and gradients are means over
 * all terms of a step's losses, however its rows are cut into micro-batches. Bit-reproducible: order, initial values and every
 * sum follow from the seed and the thread count, wherever it was interrupted and resumed. It must not know what a row is, where rows come
 * from or where the result goes.
 */
import { labelledStream } from '../common/random-streams.js';
import { LoricaError } from '../common/errors.js';
import { systemClock, type Clock } from '../common/clock.js';
import { processMemory } from '../runtime/index.js';
import { cutByTokens, neverCut, padded, planEpoch, stepsPerEpoch, type EpochPlan } from './batches.js';
import { dropoutStream } from './dropout.js';
import type { StageOutcome, StepEvent } from './events.js';
import type { StageModel } from './layer-pass.js';
import { ModelPass } from './model-pass.js';
import type { ExtraFigure, Objective } from './objective.js';
import { GradientNorm, type Optimizer } from './optimizer.js';
import { createOptimizer } from './optimizers.js';
import type { Parameters } from './parameters.js';
import type { StageMemory } from './memory-budget.js';
import { learningRateAt } from './schedule.js';
import type { ResolvedStage } from './specification.js';
import type { BaseLease } from './training-host.js';

/** As PyTorch's clip_grad_norm_ adds to the norm that it divides by. */
const CLIP_EPSILON = 1e-6;

/** A stage between two steps. */
export interface StageProgress {
  readonly outcome: StageOutcome;
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  /** The optimizer's moments; the weights are the model's. */
  readonly optimizer: Pick<Optimizer, 'moments'>;
}

export interface StageInput {
  readonly lease: BaseLease;
  readonly model: StageModel & { readonly parameters: Parameters };
  readonly stage: ResolvedStage;
  readonly stageIndex: number;
  /** Peak learning rate; factors are in the model's parameters. */
  readonly peakRate: number;
  /** What is minimized, over which rows. */
  readonly objective: Objective;
  readonly seed: number;
  readonly emit: (event: StepEvent) => void | Promise<void>;
  readonly signal: AbortSignal | undefined;
  readonly memory: StageMemory;
  readonly clock?: Clock;
  /** Where an interrupted run of this stage stood; the model's values are already those of then. */
  readonly resume?: { readonly outcome: StageOutcome; readonly read: (moment: string) => Promise<Float32Array> };
  /** Called after every step once its event is out, and at once on resuming. 'stop' ends the stage here. */
  readonly between?: (progress: StageProgress) => Promise<'continue' | 'stop'>;
  /** Called when the stage fails between two whole steps, while its state still stands. Gives what is thrown instead. */
  readonly failed?: (error: unknown, progress: StageProgress) => Promise<unknown>;
}

/** Padded length of the longest sequence: what a pass must be made for. */
export function longestPadded({ longestTokens }: Pick<Objective, 'longestTokens'>): number {
  return padded(longestTokens);
}

/**
 * Trains `model.parameters` in place. Throws TRAINING_DIVERGED when a loss or gradient is not finite (the parameters are then those
 * of the last good step), CANCELLED when aborted. Gradients and moments are freed at the end either way.
 */
export async function trainStage(input: StageInput): Promise<StageOutcome> {
  const { lease, model, stage, objective, memory: { savedActivations, microBatchTokens } } = input;
  const alwaysWrites = stage.accumulationSteps === 1 && neverCut(stage.batchSize, objective.lengths, microBatchTokens);
  let pass: ModelPass | undefined;
  let norm: GradientNorm | undefined;
  let optimizer: Optimizer | undefined;
  try {
    pass = await ModelPass.create(lease, model, { savedActivations, maxLengthTokens: longestPadded(objective), packed: stage.packing, head: objective.head, alwaysWrites });
    norm = await GradientNorm.create(lease, model.parameters);
    optimizer = await createOptimizer(lease, model.parameters, stage);
    return await new StageRun(input, pass, norm, optimizer).run();
  } finally {
    pass?.dispose();
    norm?.dispose();
    optimizer?.dispose();
    model.parameters.disposeGradients();
  }
}

const NOTHING_DONE: StageOutcome = { steps: 0, finalLoss: Number.NaN, tokens: 0, elapsedMs: 0, peakMemoryBytes: 0 };

class StageRun {
  private readonly clock: Clock;
  private readonly startedMs: number;
  private readonly stepsPerEpoch: number;
  private readonly totalSteps: number;
  private outcome: StageOutcome;
  /** Weights, moments and what was reported belong to the same step. */
  private whole = true;
  private epoch: { readonly index: number; readonly plan: EpochPlan } | undefined;

  constructor(private readonly input: StageInput, private readonly pass: ModelPass, private readonly norm: GradientNorm, private readonly optimizer: Optimizer) {
    const { stage, objective, clock = systemClock } = input;
    this.clock = clock;
    this.stepsPerEpoch = stepsPerEpoch(objective.lengths.length, stage.batchSize, stage.accumulationSteps);
    this.totalSteps = stage.length.kind === 'steps' ? stage.length.steps : stage.length.epochs * this.stepsPerEpoch;
    this.outcome = input.resume?.outcome ?? NOTHING_DONE;
    this.startedMs = clock.monotonicMs() - this.outcome.elapsedMs;
  }

  async run(): Promise<StageOutcome> {
    const { resume, between, failed } = this.input;
    if (resume !== undefined) await this.optimizer.restore(resume.outcome.steps, resume.read);
    try {
      for (;;) {
        if (this.outcome.steps > 0 && (await between?.(this.progress())) === 'stop') return this.outcome;
        if (this.outcome.steps >= this.totalSteps) return this.outcome;
        await this.step();
      }
    } catch (error) {
      throw this.whole && failed !== undefined ? await failed(error, this.progress()) : error;
    }
  }

  private progress(): StageProgress {
    const { outcome, totalSteps, stepsPerEpoch, optimizer } = this;
    return { outcome, totalSteps, stepsPerEpoch, optimizer };
  }

  private async step(): Promise<void> {
    const { stage, stageIndex, signal, emit, peakRate } = this.input;
    const step = this.outcome.steps + 1;
    const { lossTokens, lossSum, tokens, extras } = await this.gradients(step);
    const loss = lossSum / lossTokens;
    const gradientNorm = await this.norm.measure(signal);
    refuseDivergence(step, loss, gradientNorm);
    const learningRate = learningRateAt(step, this.totalSteps, peakRate, stage.schedule);
    this.whole = false;
    await this.optimizer.update(learningRate, clipScale(gradientNorm, stage.maxGradientNorm));
    const elapsedMs = this.clock.monotonicMs() - this.startedMs;
    const { totalSteps } = this;
    this.outcome = {
      steps: step, finalLoss: loss, tokens: this.outcome.tokens + tokens, elapsedMs,
      peakMemoryBytes: Math.max(this.outcome.peakMemoryBytes, processMemory().residentBytes),
    };
    await emit({
      stage: stageIndex, step, totalSteps, epoch: step / this.stepsPerEpoch, loss, tokens, lossTokens, learningRate, gradientNorm,
      tokensPerSecond: (1000 * this.outcome.tokens) / elapsedMs, etaMs: Math.round((elapsedMs / step) * (totalSteps - step)),
      ...Object.fromEntries([...extras].map(([figure, sum]) => [figure, sum / lossTokens])),
    });
    this.whole = true;
  }

  /** Gradients of the mean loss over a step's terms, micro-batch by micro-batch; sums of what it reports. */
  private async gradients(step: number): Promise<{ lossTokens: number; lossSum: number; tokens: number; extras: Map<ExtraFigure, number> }> {
    const { objective, signal, seed, stageIndex, memory: { microBatchTokens } } = this.input;
    const batches = this.batches(step);
    const lossTokens = batches.flat().reduce((sum, row) => sum + objective.terms(row), 0);
    let lossSum = 0;
    let tokens = 0;
    const extras = new Map<ExtraFigure, number>();
    for (const [i, rows] of cutByTokens(batches, objective.lengths, microBatchTokens).entries()) {
      const outcome = await objective.gradients(this.pass, rows, {
        scale: 1 / lossTokens, adding: i > 0, signal, randomOf: (sequence, module) => dropoutStream(seed, stageIndex, step, sequence, module),
      });
      lossSum += outcome.lossSum;
      tokens += outcome.tokens;
      for (const [figure, sum] of Object.entries(outcome.extras ?? {})) extras.set(figure as ExtraFigure, (extras.get(figure as ExtraFigure) ?? 0) + sum);
    }
    return { lossTokens, lossSum, tokens, extras };
  }

  /** Micro-batches of a step (from 1), each a list of rows: a function of the seed, the stage and the step. */
  private batches(step: number): EpochPlan[number] {
    const { stage, stageIndex, seed, objective } = this.input;
    const index = Math.floor((step - 1) / this.stepsPerEpoch);
    if (this.epoch?.index !== index) {
      this.epoch = { index, plan: planEpoch(objective.lengths, stage.batchSize, stage.accumulationSteps, labelledStream(seed, `order/${stageIndex}/${index}`)) };
    }
    return this.epoch.plan[(step - 1) % this.stepsPerEpoch]!;
  }
}

function clipScale(norm: number, most: number): number {
  return most > 0 ? Math.min(1, most / (norm + CLIP_EPSILON)) : 1;
}

function refuseDivergence(step: number, loss: number, gradientNorm: number): void {
  if (Number.isFinite(loss) && Number.isFinite(gradientNorm)) return;
  const what = Number.isFinite(loss) ? `the gradient norm is ${gradientNorm}` : `the loss is ${loss}`;
  throw new LoricaError('ABORTED', 'TRAINING_DIVERGED', `training diverged at step ${step}: ${what}`, {
    hint: 'Lower the learning rate, lengthen the warm-up, or clip gradients (maxGradientNorm).',
    metadata: { step: String(step) },
  });
}

/** Means per term over all rows: the loss, and the figures that the objective has beside it. Without gradients; the pass must have no parameters; `microBatchTokens` as in StageMemory. */
export async function meanFigures(pass: ModelPass, objective: Objective, microBatchTokens: number, signal: AbortSignal | undefined): Promise<{ readonly loss: number } & Readonly<Partial<Record<ExtraFigure, number>>>> {
  const { lengths } = objective;
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[b]! - lengths[a]!);
  const sums = new Map<'loss' | ExtraFigure, number>();
  for (const rows of cutByTokens([order], lengths, microBatchTokens)) {
    const { lossSum, extras } = await objective.measure(pass, rows, signal);
    for (const [figure, sum] of Object.entries({ loss: lossSum, ...extras }) as ['loss' | ExtraFigure, number][]) sums.set(figure, (sums.get(figure) ?? 0) + sum);
  }
  const terms = order.reduce((count, row) => count + objective.terms(row), 0);
  return { loss: Number.NaN, ...Object.fromEntries([...sums].map(([figure, sum]) => [figure, sum / terms])) };
}
