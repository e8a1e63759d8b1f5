/**
 * The training loop of one stage: micro-batches, gradients, clipping, AdamW, an event per step. Loss and gradients are means over
 * all tokens of a step that count, however they are cut into micro-batches. Bit-reproducible: order, initial values and every
 * sum follow from the seed and the thread count. It must not know where rows come from or where the result goes.
 */
import { labelledStream } from '../common/random-streams.js';
import { LoricaError } from '../common/errors.js';
import { systemClock, type Clock } from '../common/clock.js';
import { processMemory } from '../runtime/index.js';
import { cutByTokens, layOut, LENGTH_MULTIPLE, pack, planEpoch, stepsPerEpoch, type TokenRow } from './batches.js';
import { dropoutStream } from './dropout.js';
import type { StageOutcome, StepEvent } from './events.js';
import type { StageModel } from './layer-pass.js';
import { ModelPass } from './model-pass.js';
import { AdamW } from './optimizer.js';
import type { Parameters } from './parameters.js';
import { learningRateAt } from './schedule.js';
import type { ResolvedStage } from './specification.js';
import type { BaseLease } from './training-host.js';

/** Activations kept between forward and backward take at most this many bytes (one row always fits): longer micro-batches are cut. */
export const DEFAULT_ACTIVATION_BUDGET_BYTES = 720 * 2 ** 20;
/** Bounds one run's time and temporaries where activations are small. */
const MOST_TOKENS = 4096;
/** As PyTorch's clip_grad_norm_ adds to the norm that it divides by. */
const CLIP_EPSILON = 1e-6;

export interface StageInput {
  readonly lease: BaseLease;
  readonly model: StageModel & { readonly parameters: Parameters };
  readonly stage: ResolvedStage;
  readonly stageIndex: number;
  /** Peak learning rate; factors are in the model's parameters. */
  readonly peakRate: number;
  readonly rows: readonly TokenRow[];
  readonly seed: number;
  readonly emit: (event: StepEvent) => void | Promise<void>;
  readonly signal: AbortSignal | undefined;
  readonly activationBudgetBytes?: number;
  readonly clock?: Clock;
}

/** Padded length of the longest row. */
export function longestPadded(rows: readonly TokenRow[]): number {
  return Math.ceil(rows.reduce((most, row) => Math.max(most, row.inputs.length), 1) / LENGTH_MULTIPLE) * LENGTH_MULTIPLE;
}

/** Padded tokens that a micro-batch of this pass may have. */
export function microBatchTokens(pass: ModelPass, longest: number, budgetBytes = DEFAULT_ACTIVATION_BUDGET_BYTES): number {
  return Math.max(longest, Math.min(MOST_TOKENS, Math.floor(budgetBytes / pass.savedBytesPerToken)));
}

/**
 * Trains `model.parameters` in place. Throws TRAINING_DIVERGED when a loss or gradient is not finite (the parameters are then those
 * of the last good step), CANCELLED when aborted. Gradients and moments are freed at the end either way.
 */
export async function trainStage(input: StageInput): Promise<StageOutcome> {
  const { lease, model, stage, rows } = input;
  let pass: ModelPass | undefined;
  let optimizer: AdamW | undefined;
  try {
    pass = await ModelPass.create(lease, model, { savedActivations: stage.savedActivations, maxLengthTokens: longestPadded(rows), packed: stage.packing });
    optimizer = await AdamW.create(lease, model.parameters, stage);
    return await loop(input, pass, optimizer);
  } finally {
    pass?.dispose();
    optimizer?.dispose();
    model.parameters.disposeState();
  }
}

async function loop(input: StageInput, pass: ModelPass, optimizer: AdamW): Promise<StageOutcome> {
  const { stage, rows, signal, clock = systemClock } = input;
  const lengths = rows.map((row) => row.inputs.length);
  const maxTokens = microBatchTokens(pass, longestPadded(rows), input.activationBudgetBytes);
  const perEpoch = stepsPerEpoch(rows.length, stage.batchSize, stage.accumulationSteps);
  const totalSteps = stage.length.kind === 'steps' ? stage.length.steps : stage.length.epochs * perEpoch;
  const startedMs = clock.monotonicMs();
  let outcome: StageOutcome = { steps: 0, finalLoss: Number.NaN, tokens: 0, elapsedMs: 0, peakMemoryBytes: 0 };
  for (let epoch = 0; outcome.steps < totalSteps; epoch++) {
    const plan = planEpoch(lengths, stage.batchSize, stage.accumulationSteps, labelledStream(input.seed, `order/${input.stageIndex}/${epoch}`));
    for (const batches of plan.slice(0, totalSteps - outcome.steps)) {
      const step = outcome.steps + 1;
      const lossTokens = batches.flat().reduce((sum, row) => sum + rows[row]!.lossTokens, 0);
      let lossSum = 0;
      let tokens = 0;
      for (const [i, indices] of cutByTokens(batches, lengths, maxTokens).entries()) {
        const chosen = indices.map((row) => rows[row]!);
        const batch = stage.packing ? pack(chosen) : layOut(chosen);
        lossSum += await pass.gradients(batch, 1 / lossTokens, i > 0, signal, (row, module) => dropoutStream(input.seed, input.stageIndex, step, indices[row]!, module));
        tokens += batch.fedTokens;
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

/** Mean loss in nats per token that counts, over all rows, without gradients. The pass must have no parameters. */
export async function meanLoss(pass: ModelPass, rows: readonly TokenRow[], signal: AbortSignal | undefined): Promise<number> {
  const lengths = rows.map((row) => row.inputs.length);
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[b]! - lengths[a]!);
  let sum = 0;
  for (const indices of cutByTokens([order], lengths, microBatchTokens(pass, longestPadded(rows)))) {
    sum += await pass.loss(layOut(indices.map((row) => rows[row]!)), signal);
  }
  return sum / rows.reduce((count, row) => count + row.lossTokens, 0);
}
