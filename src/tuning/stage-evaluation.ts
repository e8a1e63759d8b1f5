/**
 * Evaluation while a stage trains: held-out rows through a second pass over the weights in training, without dropout or gradients. It
 * remembers the best value and weights so far and says when to stop. It changes nothing of training until the stage ends; what it
 * remembers is part of a checkpoint.
 */
import { LoricaError } from '../common/errors.js';
import type { Checkpoint } from '../models/checkpoint.js';
import { DEFAULT_LABEL_TEMPLATE, type LabelTemplate, type PromptExample } from '../models/prompt.js';
import type { CheckpointState, CheckpointTensor, StoredCheckpoint } from './checkpoint.js';
import { ofLabels, rises, type EvaluationMetric, type EvaluationValues, type ResolvedEvaluation } from './evaluation-specification.js';
import type { EvaluationEvent, StageEvaluationOutcome } from './events.js';
import type { StageModel } from './layer-pass.js';
import { ModelPass } from './model-pass.js';
import type { Objective } from './objective.js';
import type { Parameters } from './parameters.js';
import { longestPadded, meanFigures, type StageProgress } from './trainer.js';
import type { BaseLease } from './training-host.js';
import { WorkingScorer } from './working-scorer.js';

/** Figures of rows of text and label; filled by `main` from the evaluation layer, so that they mean the same everywhere. */
export type LabelEvaluator = (input: {
  readonly examples: readonly PromptExample[];
  readonly template: LabelTemplate;
  readonly scorer: WorkingScorer;
  readonly checkpoint: Pick<Checkpoint, 'tokenizer' | 'chatTemplate'>;
  readonly maxLengthTokens: number;
  readonly signal: AbortSignal | undefined;
}) => Promise<{ readonly accuracy: number; readonly macroF1: number }>;

type EvaluationState = NonNullable<CheckpointState['evaluation']>;

export interface StageEvaluationInput {
  readonly lease: BaseLease;
  readonly model: StageModel & { readonly parameters: Parameters };
  readonly evaluation: ResolvedEvaluation;
  readonly stageIndex: number;
  /** Of the held-out rows, like the stage's own. */
  readonly objective: Objective;
  /** The held-out rows themselves, where labels are measured. */
  readonly examples: readonly PromptExample[];
  readonly classifier: { readonly labels: readonly string[]; readonly template: string } | undefined;
  readonly labelTemplate: LabelTemplate | undefined;
  readonly maxLengthTokens: number;
  /** As in StageMemory. */
  readonly microBatchTokens: number;
  readonly checkpoint: Pick<Checkpoint, 'tokenizer' | 'chatTemplate'>;
  readonly evaluateLabels: LabelEvaluator | undefined;
  readonly report: (event: EvaluationEvent) => void | Promise<void>;
  readonly signal: AbortSignal | undefined;
}

const BEST = 'best/';
const REFERENCE = 'evaluation/reference';

/** What the model gave on held-out rows as the stage began, where its objective needs that; of a checkpoint of the stage. */
export async function storedHeldOutReference(stored: StoredCheckpoint): Promise<Float64Array | undefined> {
  return stored.shapes.has(REFERENCE) ? ((await stored.read(REFERENCE)) as Float64Array) : undefined;
}

export class StageEvaluation {
  private state: EvaluationState = { step: 0, values: {} };
  /** Flat values of the parameters as they were at the best evaluation. */
  private best: Float32Array | undefined;

  private constructor(private readonly input: StageEvaluationInput, private readonly pass: ModelPass, private readonly scorer: WorkingScorer) {}

  static async create(input: StageEvaluationInput): Promise<StageEvaluation> {
    const { lease, model, objective, classifier, maxLengthTokens } = input;
    const frozen = { ...model, parameters: undefined, dropout: new Map<string, number>() };
    const maxLength = Math.max(maxLengthTokens, longestPadded(objective));
    const pass = await ModelPass.create(lease, frozen, { savedActivations: 'layer', maxLengthTokens: maxLength, head: objective.head });
    return new StageEvaluation(input, pass, new WorkingScorer(pass, classifier));
  }

  /** Puts back what a checkpoint of this stage holds. */
  async restore(state: EvaluationState, stored: StoredCheckpoint): Promise<void> {
    this.state = state;
    if (state.best === undefined) return;
    const { places, values } = this.input.model.parameters;
    this.best = new Float32Array(values.f32().length);
    for (const { name, start } of places) this.best.set(await stored.read(`${BEST}${name}`), start);
  }

  /** What a checkpoint keeps. */
  snapshot(): { readonly state: EvaluationState; readonly tensors: ReadonlyMap<string, CheckpointTensor> } {
    const tensors = new Map<string, CheckpointTensor>();
    const { reference } = this.input.objective;
    if (reference !== undefined) tensors.set(REFERENCE, { shape: [reference.length], data: reference });
    for (const { name, shape, start, elements } of this.input.model.parameters.places) {
      if (this.best !== undefined) tensors.set(`${BEST}${name}`, { shape, data: this.best.subarray(start, start + elements) });
    }
    return { state: this.state, tensors };
  }

  /** Evaluates where it is time to, once for a step. 'stop': patience is at its end. */
  async after({ outcome: { steps }, totalSteps, stepsPerEpoch }: StageProgress): Promise<'continue' | 'stop'> {
    const every = this.input.evaluation.everySteps ?? stepsPerEpoch;
    if (this.state.step < steps && (steps % every === 0 || steps === totalSteps)) await this.evaluate(steps);
    const { stopping } = this.state;
    return stopping !== undefined && stopping.since >= this.input.evaluation.earlyStopping!.patience ? 'stop' : 'continue';
  }

  /** Ends the stage with its best weights, where those are wanted, and says how it went. */
  finish(stoppedEarly: boolean): StageEvaluationOutcome {
    const { best, values, step } = this.state;
    if (this.best !== undefined) this.input.model.parameters.values.f32().set(this.best);
    return { step: best?.step ?? step, values: best?.values ?? values, stoppedEarly };
  }

  dispose(): void {
    this.pass.dispose();
  }

  private async evaluate(step: number): Promise<void> {
    const { evaluation: { keepBest, earlyStopping }, stageIndex, model, report } = this.input;
    const values = await this.measure(step);
    const isBest = keepBest !== undefined && (this.state.best === undefined || gain(keepBest, values, this.state.best.values[keepBest]!) > 0);
    if (isBest) this.best = model.parameters.values.f32().slice();
    const best = isBest ? { step, values } : this.state.best;
    const stopping = earlyStopping === undefined ? undefined : patience(earlyStopping, values, this.state.stopping);
    await report({ kind: 'evaluation', stage: stageIndex, step, values, best: isBest });
    this.state = { step, values, ...(best === undefined ? {} : { best }), ...(stopping === undefined ? {} : { stopping }) };
  }

  private async measure(step: number): Promise<EvaluationValues> {
    const { evaluation: { metrics }, objective, signal, evaluateLabels, examples, labelTemplate, checkpoint, maxLengthTokens, microBatchTokens } = this.input;
    const { loss, preferenceAccuracy, preferenceMargin } = await meanFigures(this.pass, objective, microBatchTokens, signal);
    const rewards = preferenceAccuracy === undefined || preferenceMargin === undefined ? {} : { rewardAccuracy: preferenceAccuracy, rewardMargin: preferenceMargin };
    const labels = metrics.some(ofLabels)
      ? await evaluateLabels?.({ examples, template: labelTemplate ?? DEFAULT_LABEL_TEMPLATE, scorer: this.scorer, checkpoint, maxLengthTokens, signal })
      : undefined;
    const all: EvaluationValues = { loss, perplexity: Math.exp(loss), ...rewards, ...labels };
    const values = Object.fromEntries(metrics.map((metric) => [metric, all[metric]!])) as EvaluationValues;
    const broken = metrics.find((metric) => !Number.isFinite(values[metric]));
    if (broken === undefined) return values;
    throw new LoricaError('ABORTED', 'TRAINING_DIVERGED', `training diverged at step ${step}: ${broken} on held-out rows is ${values[broken] ?? 'missing'}`, {
      hint: 'Lower the learning rate, lengthen the warm-up, or clip gradients (maxGradientNorm).',
      metadata: { step: String(step) },
    });
  }
}

/** By how much the value is better than an earlier one. */
function gain(metric: EvaluationMetric, values: EvaluationValues, earlier: number): number {
  return (rises(metric) ? 1 : -1) * (values[metric]! - earlier);
}

function patience({ metric, minDelta }: NonNullable<ResolvedEvaluation['earlyStopping']>, values: EvaluationValues, before: EvaluationState['stopping']): NonNullable<EvaluationState['stopping']> {
  if (before === undefined || gain(metric, values, before.best) > minDelta) return { best: values[metric]!, since: 0 };
  return { best: before.best, since: before.since + 1 };
}
