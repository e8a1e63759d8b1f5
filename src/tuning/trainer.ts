/**
 * The training loop of one stage: micro-batches, gradients, clipping, AdamW, an event per step. Loss and gradients are means over
 * all terms of a step's losses, however its rows are cut into micro-batches. Bit-reproducible: order, initial values and every
 * sum follow from the seed and the thread count. It must not know what a row is, where rows come from or where the result goes.
 */
import { labelledStream } from '../common/random-streams.js';
import { LoricaError } from '../common/errors.js';
import { systemClock, type Clock } from '../common/clock.js';
import { processMemory } from '../runtime/index.js';
import { cutByTokens, padded, planEpoch, stepsPerEpoch } from './batches.js';
import { dropoutStream } from './dropout.js';
import type { StageOutcome, StepEvent } from './events.js';
import type { StageModel } from './layer-pass.js';
import { ModelPass } from './model-pass.js';
import type { ExtraFigure, Objective } from './objective.js';
import { AdamW } from './optimizer.js';
import type { Parameters } from './parameters.js';
import { learningRateAt } from './schedule.js';
import type { ResolvedStage } from './specification.js';
import type { BaseLease } from './training-host.js';

/** Activations kept between forward and backward take at most this many bytes (one row always fits): longer micro-batches are cut. */
export const DEFAULT_ACTIVATION_BUDGET_BYTES = 720 * 2 ** 20;
/** As PyTorch's clip_grad_norm_ adds to the norm that it divides by. */
const CLIP_EPSILON = 1e-6;

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
  readonly activationBudgetBytes?: number;
  readonly clock?: Clock;
}

/** Padded length of the longest sequence: what a pass must be made for. */
export function longestPadded({ longestTokens }: Pick<Objective, 'longestTokens'>): number {
  return padded(longestTokens);
}

/** Padded tokens that a micro-batch of this pass may have; any row fits. */
export function microBatchTokens(pass: ModelPass, { lengths }: Objective, budgetBytes = DEFAULT_ACTIVATION_BUDGET_BYTES): number {
  const longest = padded(lengths.reduce((most, length) => Math.max(most, length), 1));
  return Math.max(longest, Math.min(pass.mostTokens, Math.floor(budgetBytes / pass.savedBytesPerToken)));
}

/**
 * Trains `model.parameters` in place. Throws TRAINING_DIVERGED when a loss or gradient is not finite (the parameters are then those
 * of the last good step), CANCELLED when aborted. Gradients and moments are freed at the end either way.
 */
export async function trainStage(input: StageInput): Promise<StageOutcome> {
  const { lease, model, stage, objective } = input;
  let pass: ModelPass | undefined;
  let optimizer: AdamW | undefined;
  try {
    pass = await ModelPass.create(lease, model, { savedActivations: stage.savedActivations, maxLengthTokens: longestPadded(objective), packed: stage.packing, head: objective.head });
    optimizer = await AdamW.create(lease, model.parameters, stage);
    return await loop(input, pass, optimizer);
  } finally {
    pass?.dispose();
    optimizer?.dispose();
    model.parameters.disposeState();
  }
}

async function loop(input: StageInput, pass: ModelPass, optimizer: AdamW): Promise<StageOutcome> {
  const { stage, objective, signal, clock = systemClock } = input;
  const { lengths } = objective;
  const maxTokens = microBatchTokens(pass, objective, input.activationBudgetBytes);
  const perEpoch = stepsPerEpoch(lengths.length, stage.batchSize, stage.accumulationSteps);
  const totalSteps = stage.length.kind === 'steps' ? stage.length.steps : stage.length.epochs * perEpoch;
  const startedMs = clock.monotonicMs();
  let outcome: StageOutcome = { steps: 0, finalLoss: Number.NaN, tokens: 0, elapsedMs: 0, peakMemoryBytes: 0 };
  for (let epoch = 0; outcome.steps < totalSteps; epoch++) {
    const plan = planEpoch(lengths, stage.batchSize, stage.accumulationSteps, labelledStream(input.seed, `order/${input.stageIndex}/${epoch}`));
    for (const batches of plan.slice(0, totalSteps - outcome.steps)) {
      const step = outcome.steps + 1;
      const lossTokens = batches.flat().reduce((sum, row) => sum + objective.terms(row), 0);
      let lossSum = 0;
      let tokens = 0;
      const extras = new Map<ExtraFigure, number>();
      for (const [i, rows] of cutByTokens(batches, lengths, maxTokens).entries()) {
        const outcome = await objective.gradients(pass, rows, {
          scale: 1 / lossTokens, adding: i > 0, signal, randomOf: (sequence, module) => dropoutStream(input.seed, input.stageIndex, step, sequence, module),
        });
        lossSum += outcome.lossSum;
        tokens += outcome.tokens;
        for (const [figure, sum] of Object.entries(outcome.extras ?? {})) extras.set(figure as ExtraFigure, (extras.get(figure as ExtraFigure) ?? 0) + sum);
      }
      const loss = lossSum / lossTokens;
      const gradientNorm = await optimizer.gradientNorm(signal);
      refuseDivergence(step, loss, gradientNorm);
      const learningRate = learningRateAt(step, totalSteps, input.peakRate, stage.schedule);
      await optimizer.update(learningRate, clipScale(gradientNorm, stage.maxGradientNorm));
      const elapsedMs = clock.monotonicMs() - startedMs;
      outcome = {
        steps: step, finalLoss: loss, tokens: outcome.tokens + tokens, elapsedMs,
        peakMemoryBytes: Math.max(outcome.peakMemoryBytes, processMemory().residentBytes),
      };
      await input.emit({
        stage: input.stageIndex, step, totalSteps, epoch: step / perEpoch, loss, tokens, lossTokens, learningRate, gradientNorm,
        tokensPerSecond: (1000 * outcome.tokens) / elapsedMs, etaMs: Math.round((elapsedMs / step) * (totalSteps - step)),
        ...Object.fromEntries([...extras].map(([figure, sum]) => [figure, sum / lossTokens])),
      });
    }
  }
  return outcome;
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

/** Mean loss per term over all rows, without gradients. The pass must have no parameters. */
export async function meanLoss(pass: ModelPass, objective: Objective, signal: AbortSignal | undefined): Promise<number> {
  const { lengths } = objective;
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[b]! - lengths[a]!);
  let sum = 0;
  for (const rows of cutByTokens([order], lengths, microBatchTokens(pass, objective))) sum += await objective.loss(pass, rows, signal);
  return sum / order.reduce((count, row) => count + objective.terms(row), 0);
}
