/**
 * The stages of one job, one after the other on one working model: rows are read, the stage is laid out and trained, and what it made is
 * what the next begins with. Keeps checkpoints between steps and goes on from one: the result is the same to the byte.
 */
import { createHash } from 'node:crypto';
import { invalidFields, LoricaError } from '../common/errors.js';
import { silentLogger, type Logger } from '../common/logger.js';
import type { DecoderConfig } from '../models/config.js';
import type { Checkpoint } from '../models/checkpoint.js';
import type { EmbeddingReport, WordVectors } from '../models/pretrained-embeddings.js';
import type { PromptExample } from '../models/prompt.js';
import { stepsPerEpoch } from './batches.js';
import { CHECKPOINT_FORMAT, type Checkpoints, type CheckpointState, type StoredCheckpoint } from './checkpoint.js';
import { CheckpointKeeper, isInterruption } from './checkpoint-keeper.js';
import { ofLabels } from './evaluation-specification.js';
import type { CheckpointEvent, EvaluationEvent, StageOutcome, StepEvent, TuningResult } from './events.js';
import { learningRates, type StageDuration } from './learning-rate.js';
import { budgetedStage, chooseAll, memoryLimit, rowSizes, selectedShapes, type BudgetedStage, type StageMemory } from './memory-budget.js';
import type { Objective } from './objective.js';
import { selectTrainable } from './selection.js';
import type { EmbeddingsSpecification, ResolvedStage, TuningSpecification } from './specification.js';
import { StageEvaluation, storedHeldOutReference, type LabelEvaluator } from './stage-evaluation.js';
import { stageObjective } from './stage-objective.js';
import { readStageRows, type StageRows } from './stage-rows.js';
import type { StartingModel } from './starting-model.js';
import { trainStage, type StageInput, type StageProgress } from './trainer.js';
import type { BaseLease, TrainingHost } from './training-host.js';
import { parameterShapes, WorkingModel } from './working-model.js';

export interface TuningInput {
  readonly checkpoint: Checkpoint;
  readonly host: TrainingHost;
  readonly specification: TuningSpecification;
  /** Rows of a data set that a stage names. */
  readonly examples: (dataset: string) => AsyncIterable<PromptExample> | Iterable<PromptExample>;
  /** Word vectors that the first stage names, if it names any. */
  readonly vectors?: (source: EmbeddingsSpecification, signal: AbortSignal | undefined) => Promise<WordVectors>;
  /** Called before the first step where the embeddings were replaced; awaited. */
  readonly onEmbeddings?: (report: EmbeddingReport) => void | Promise<void>;
  /** Called after every step, in order; awaited. A step that a job makes again after a crash is reported again, with the same loss. */
  readonly emit: (event: StepEvent) => void | Promise<void>;
  /** What else happened; awaited. */
  readonly report?: (event: CheckpointEvent | EvaluationEvent) => void | Promise<void>;
  /** Its reason decides: after CANCELLED and JOB_LOST nothing is kept, before any other end a checkpoint is. */
  readonly signal?: AbortSignal;
  readonly activationBudgetBytes?: number;
  /** What the job may add to the memory of this process; the specification may ask for less. A job that goes on keeps what it chose before. */
  readonly memoryLimitBytes?: number;
  /** Where checkpoints are kept and taken from; without, an interrupted job begins anew. */
  readonly checkpoints?: Checkpoints;
  readonly logger?: Logger;
  /** Needed where a stage measures accuracy or macro-F1. */
  readonly evaluateLabels?: LabelEvaluator;
}

/** Rows of a stage and those that it is evaluated on, with the SHA-256 of what they feed. */
interface ReadRows {
  readonly stage: number;
  readonly read: StageRows;
  /** What the stage is evaluated on; the examples where labels are measured. */
  readonly heldOut: { readonly read: StageRows; readonly examples: readonly PromptExample[] } | undefined;
  readonly digest: string;
}

/** A stage between two steps, with all that a checkpoint of it needs. */
interface Standing {
  readonly digest: string;
  readonly objective: Objective;
  readonly progress: StageProgress;
  readonly evaluation: StageEvaluation | undefined;
}

const REFERENCE = 'objective/reference';

export class TuningRun {
  private readonly working: WorkingModel;
  private readonly keeper: CheckpointKeeper | undefined;
  private readonly logger: Logger;
  private readonly identity: CheckpointState['identity'];
  /** One a stage. */
  private memory: readonly StageMemory[] = [];
  private finished: StageOutcome[] = [];
  private skippedRows = 0;
  /** Read ahead to see whether a checkpoint fits. */
  private rows: ReadRows | undefined;

  constructor(private readonly input: TuningInput, private readonly stages: readonly ResolvedStage[], private readonly lease: BaseLease, private readonly start: StartingModel) {
    const { checkpoints, specification, report = () => undefined, logger = silentLogger } = input;
    this.logger = logger;
    this.working = new WorkingModel(lease, input.signal, start);
    this.identity = { base: input.checkpoint.digest, specification: specificationDigest(specification, stages), start: startDigest(start) };
    if (checkpoints !== undefined) this.keeper = new CheckpointKeeper({ checkpoints, policy: specification.checkpoints ?? {}, report, logger });
  }

  async run(): Promise<TuningResult> {
    const stored = await this.resumable();
    if (stored === undefined) this.memory = await this.chooseMemory();
    else await this.restore(stored);
    for (let stage = stored?.state.stage ?? 0; stage < this.stages.length; stage++) {
      await this.stage(stage, stored?.state.stage === stage ? stored : undefined);
    }
    return { ...summary(this.finished), content: await this.working.content(), skippedRows: this.skippedRows, ...(this.start.embeddings === undefined ? {} : { embeddings: this.start.embeddings }) };
  }

  private async stage(index: number, stored: StoredCheckpoint | undefined): Promise<void> {
    const { seed } = this.input.specification;
    const stage = this.stages[index]!;
    let begun = stored !== undefined || index === 0;
    let evaluation: StageEvaluation | undefined;
    try {
      const { read, heldOut, digest } = await this.rowsOf(index);
      if (stage.objective.kind === 'classification') this.working.classify({ labels: read.labels!, template: stage.objective.template }, seed);
      const { model, peakRate } = await beginStage(this.working, this.start.config, stage, seed, trainedRows(read, stage));
      const current = stored?.state.current;
      const reference = current === undefined ? undefined : await storedReference(stored!);
      const memory = this.memory[index]!;
      const objective = await stageObjective(read, stage, this.lease, model, { signal: this.input.signal, reference, microBatchTokens: memory.microBatchTokens });
      evaluation = await this.evaluation(index, { read, heldOut, model }, current === undefined ? undefined : await storedHeldOutReference(stored!));
      if (stored?.state.evaluation !== undefined) await evaluation?.restore(stored.state.evaluation, stored);
      let stoppedEarly = false;
      const standing = (progress: StageProgress): Standing => ({ digest, objective, progress, evaluation });
      const outcome = await trainStage({
        lease: this.lease, model, stage, stageIndex: index, peakRate, objective, seed, memory, emit: this.input.emit, signal: this.input.signal,
        ...(current === undefined ? {} : { resume: { outcome: current, read: async (moment) => (await stored!.read(moment)) as Float32Array } }),
        between: async (progress) => {
          begun = true;
          stoppedEarly = (await evaluation?.after(progress)) === 'stop';
          if (this.keeper?.due(progress.outcome.steps) === true) await this.keep(index, standing(progress));
          return stoppedEarly ? 'stop' : 'continue';
        },
        failed: (error, progress) => this.failed(error, index, standing(progress)),
      });
      this.finished.push({ ...outcome, ...(evaluation === undefined ? {} : { evaluation: evaluation.finish(stoppedEarly) }) });
      this.skippedRows += read.skipped;
    } catch (error) {
      // The stage before is done and this one has not made a step: what stands is the beginning of this one.
      if (!begun && isInterruption(this.input.signal)) await this.keep(index, undefined);
      throw error;
    } finally {
      evaluation?.dispose();
    }
  }

  /** For all stages before the first begins, so that a job that does not fit is refused at once. */
  private async chooseMemory(): Promise<StageMemory[]> {
    const { specification, activationBudgetBytes } = this.input;
    const stages: BudgetedStage[] = [];
    // The rows of the first stage are read last, and kept for it.
    for (let index = this.stages.length - 1; index >= 0; index--) {
      this.rows = await this.rowsOf(index);
      const stage = this.stages[index]!;
      const sizes = rowSizes(this.rows.read, stage);
      const { config, dropout } = this.start;
      stages.unshift(budgetedStage(selectedShapes({ config, dropout, stage, labels: sizes.labels }), specification, stage, sizes));
    }
    const memory = chooseAll(stages, memoryLimit(specification, this.input.memoryLimitBytes), activationBudgetBytes);
    this.logger.info('memory of a tuning job', { stages: memory });
    return memory;
  }

  /** `reference`: of the held-out rows, of a stage that goes on. */
  private async evaluation(
    index: number, { read, heldOut, model }: Pick<ReadRows, 'read' | 'heldOut'> & { readonly model: StageInput['model'] }, reference: Float64Array | undefined,
  ): Promise<StageEvaluation | undefined> {
    const stage = this.stages[index]!;
    const { evaluation, objective: { kind }, maxLengthTokens, labelTemplate } = stage;
    if (evaluation === undefined || heldOut === undefined) return undefined;
    const { checkpoint, signal, evaluateLabels, report = () => undefined } = this.input;
    const { microBatchTokens } = this.memory[index]!;
    return StageEvaluation.create({
      lease: this.lease, model, evaluation, stageIndex: index, checkpoint, evaluateLabels, report, signal, labelTemplate, maxLengthTokens, microBatchTokens,
      objective: await stageObjective(heldOut.read, { ...stage, packing: false }, this.lease, model, { signal, reference, microBatchTokens }),
      examples: heldOut.examples,
      classifier: kind === 'classification' ? { labels: read.labels!, template: stage.objective.kind === 'classification' ? stage.objective.template : '' } : undefined,
    });
  }

  /** Before a stage ends with an error: what stands is kept where the job is to go on, or when nothing else would be left of it. */
  private async failed(error: unknown, stage: number, standing: Standing): Promise<unknown> {
    if (this.keeper === undefined || standing.progress.outcome.steps === 0) return error;
    if (isInterruption(this.input.signal)) {
      await this.keep(stage, standing);
      return error;
    }
    if (!(error instanceof LoricaError) || error.reason !== 'TRAINING_DIVERGED') return error;
    const checkpoint = this.keeper.name ?? (await this.keep(stage, standing));
    if (checkpoint === undefined) return error;
    return new LoricaError(error.code, error.reason, error.message, { hint: `${error.hint ?? ''} The last good weights are kept in ${checkpoint}.`, metadata: { ...error.metadata, checkpoint }, cause: error });
  }

  /** Keeps where a stage stands, or without that the beginning of the stage. */
  private async keep(stage: number, standing: Standing | undefined): Promise<string | undefined> {
    const { lora, head, tensors } = this.working.snapshot();
    const state = { stage, memory: this.memory, finished: this.finished, skippedRows: this.skippedRows, lora, ...(head === undefined ? {} : { head }) };
    if (standing === undefined) return this.keeper?.save({ ...state, identity: this.identity, step: 0 }, tensors);
    const { digest, objective, progress, evaluation } = standing;
    const evaluated = evaluation?.snapshot();
    for (const [name, best] of evaluated?.tensors ?? []) tensors.set(name, best);
    for (const [name, moment] of progress.optimizer.moments()) tensors.set(name, moment);
    if (objective.reference !== undefined) tensors.set(REFERENCE, { shape: [objective.reference.length], data: objective.reference });
    return this.keeper?.save({ ...state, identity: { ...this.identity, rows: digest }, step: progress.outcome.steps, current: progress.outcome, ...(evaluated === undefined ? {} : { evaluation: evaluated.state }) }, tensors);
  }

  private async restore(stored: StoredCheckpoint): Promise<void> {
    const { stage, step, memory, finished, skippedRows } = stored.state;
    this.logger.info('tuning goes on from a checkpoint', { checkpoint: stored.name, stage, step });
    this.memory = memory;
    this.finished = [...finished];
    this.skippedRows = skippedRows;
    await this.working.restore(stored);
  }

  /** The newest checkpoint, if training may go on from it. */
  private async resumable(): Promise<StoredCheckpoint | undefined> {
    const stored = await this.input.checkpoints?.load();
    if (stored === undefined) return undefined;
    const differs = await this.difference(stored.state);
    if (differs === undefined) {
      this.keeper?.resumedFrom(stored);
      return stored;
    }
    this.logger.warn('a checkpoint does not fit its job, which begins anew', { checkpoint: stored.name, differs });
    return undefined;
  }

  private async difference({ format, identity, stage, step }: CheckpointState): Promise<string | undefined> {
    if (format !== CHECKPOINT_FORMAT) return 'the format';
    if (identity.base !== this.identity.base) return 'the base model';
    if (identity.specification !== this.identity.specification) return 'the specification';
    if (identity.start !== this.identity.start) return 'the edited model that it starts from';
    if (step === 0) return undefined;
    this.rows = await this.rowsOf(stage);
    return identity.rows === this.rows.digest ? undefined : 'the rows of the data set';
  }

  private async rowsOf(stage: number): Promise<ReadRows> {
    const ahead = this.rows;
    this.rows = undefined;
    if (ahead?.stage === stage) return ahead;
    const { examples, checkpoint, signal } = this.input;
    const resolved = this.stages[stage]!;
    const read = await readStageRows(examples(resolved.dataset), resolved, checkpoint, { signal, path: `specification.stages[${stage}].dataset` });
    const heldOut = await this.heldOutRows(stage, read.labels);
    return { stage, read, heldOut, digest: rowsDigest(heldOut === undefined ? [read] : [read, heldOut.read]) };
  }

  /** The held-out rows of a stage, worded as its own. */
  private async heldOutRows(stage: number, labels: readonly string[] | undefined): Promise<ReadRows['heldOut']> {
    const resolved = this.stages[stage]!;
    const { evaluation } = resolved;
    if (evaluation === undefined) return undefined;
    const path = `specification.stages[${stage}].evaluation.dataset`;
    const examples: PromptExample[] = [];
    for await (const example of this.input.examples(evaluation.dataset)) examples.push(example);
    const labelled = evaluation.metrics.some(ofLabels);
    if (labelled && examples.some((example) => example.kind !== 'label')) throw invalidFields([{ field: path, description: 'accuracy and macro-F1 need rows of text and label' }]);
    const { checkpoint, signal } = this.input;
    const read = await readStageRows(examples, { ...resolved, dataset: evaluation.dataset }, checkpoint, { signal, path, ...(labels === undefined ? {} : { labels }) });
    return { read, examples: labelled ? examples : [] };
  }
}

/** What decides every number of a job apart from the base, its rows and what was chosen by the memory limit, which checkpoints keep. */
function specificationDigest({ seed, checkpoints: _checkpoints, memoryLimitBytes: _memoryLimitBytes, baseModel: _baseModel, stages: _stages, ...rest }: TuningSpecification, stages: readonly ResolvedStage[]): string {
  return createHash('sha256').update(JSON.stringify({ seed, stages, ...rest })).digest('hex');
}

/** SHA-256 of the tensors that edits made of the base. */
function startDigest({ made }: StartingModel): string {
  const hash = createHash('sha256');
  for (const name of [...made.keys()].sort()) {
    const { buffer, byteOffset, byteLength } = made.get(name)!;
    hash.update(`${name}/${byteLength}/`).update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest('hex');
}

/** SHA-256 of what rows feed and count, and of their labels' names. */
function rowsDigest(sets: readonly StageRows[]): string {
  const hash = createHash('sha256');
  for (const { rows, labels } of sets) {
    hash.update(JSON.stringify(labels ?? null));
    for (const { inputs, targets, counts } of rows) {
      hash.update(`/${inputs.length}/`);
      for (const { buffer, byteOffset, byteLength } of [inputs, targets, counts]) hash.update(new Uint8Array(buffer, byteOffset, byteLength));
    }
  }
  return hash.digest('hex');
}

async function storedReference(stored: StoredCheckpoint): Promise<Float64Array | undefined> {
  return stored.shapes.has(REFERENCE) ? ((await stored.read(REFERENCE)) as Float64Array) : undefined;
}

/** Rows as a batch counts them: both answers of a preference are one. */
function trainedRows({ rows }: StageRows, { objective }: ResolvedStage): number {
  return objective.kind === 'preference' ? rows.length / 2 : rows.length;
}

/** Lays out what a stage trains, each parameter with its learning rate; an automatic one depends on how long `rows` rows take, where they are given. */
export async function beginStage(working: WorkingModel, config: DecoderConfig, stage: ResolvedStage, seed: number, rows?: number): Promise<Pick<StageInput, 'model' | 'peakRate'>> {
  const plan = selectTrainable(config, stage.trainable, 'trainable', stage.objective.kind === 'classification');
  const { peak, factor } = learningRates(stage, config, parameterShapes(plan, working.shapes), rows === undefined ? {} : { duration: durationOf(stage, rows) });
  return { model: await working.begin(plan, seed, stage.decayNorms, factor), peakRate: peak };
}

function durationOf({ length, batchSize, accumulationSteps }: ResolvedStage, rows: number): StageDuration {
  const perEpoch = stepsPerEpoch(rows, batchSize, accumulationSteps);
  return length.kind === 'steps' ? { steps: length.steps, epochs: length.steps / perEpoch } : { steps: length.epochs * perEpoch, epochs: length.epochs };
}

function summary(outcomes: readonly StageOutcome[]): Omit<TuningResult, 'content' | 'skippedRows'> {
  const evaluation = outcomes.findLast((outcome) => outcome.evaluation !== undefined)?.evaluation;
  const total = (key: 'steps' | 'tokens' | 'elapsedMs'): number => outcomes.reduce((sum, outcome) => sum + outcome[key], 0);
  return {
    steps: total('steps'), tokens: total('tokens'), finalLoss: outcomes.at(-1)!.finalLoss,
    tokensPerSecond: (1000 * total('tokens')) / total('elapsedMs'),
    peakMemoryBytes: Math.max(...outcomes.map((outcome) => outcome.peakMemoryBytes)),
    ...(evaluation === undefined ? {} : { evaluation }),
  };
}
