/**
 * What a tuning job will take, before it runs: steps, time and memory of every stage. Time is measured, not guessed: micro-batches of
 * the job's own rows run through one layer of each kind (model-slice.ts) with made-up weights, and the others are counted; micro-batches of
 * other sizes are interpolated by their products. Nothing of the model is read and nothing is kept.
 */
import { createHash } from 'node:crypto';
import { labelledStream } from '../common/random-streams.js';
import { weightShapes, type DecoderConfig } from '../models/config.js';
import type { Checkpoint } from '../models/checkpoint.js';
import type { PromptExample } from '../models/prompt.js';
import { cutByTokens, padded, planEpoch, stepsPerEpoch } from './batches.js';
import { startingConfig } from './edit-model.js';
import { budgetedStage, chooseAll, memoryLimit, partsOf, rowSizes, selectedShapes, type BudgetedStage, type StageMemory } from './memory-budget.js';
import type { MemoryPart } from './memory-plan.js';
import { ModelPass } from './model-pass.js';
import { sliceModel, type ModelSlice } from './model-slice.js';
import type { Objective } from './objective.js';
import { GradientNorm } from './optimizer.js';
import type { Parameters as TrainedParameters } from './parameters.js';
import { createOptimizer } from './optimizers.js';
import { checkTuning } from './run.js';
import { selectTrainable } from './selection.js';
import type { ResolvedStage, TuningSpecification } from './specification.js';
import { readStageRows, type StageRows } from './stage-rows.js';
import { stageObjective } from './stage-objective.js';
import { longestPadded } from './trainer.js';
import type { BaseLease, TrainingHost } from './training-host.js';
import { WorkingModel } from './working-model.js';

export interface EstimateInput {
  readonly checkpoint: Checkpoint;
  readonly host: TrainingHost;
  readonly specification: TuningSpecification;
  readonly examples: (dataset: string) => AsyncIterable<PromptExample> | Iterable<PromptExample>;
  /** Rows of a data set. */
  readonly rowsOf: (dataset: string) => Promise<number>;
  /** What a job may take here. */
  readonly memoryLimitBytes?: number;
  readonly signal?: AbortSignal;
}

export interface StageEstimate {
  readonly rows: number;
  readonly steps: number;
  /** Of all steps, padding aside. */
  readonly tokens: number;
  /** Time in steps; reading weights and building sessions come before. */
  readonly seconds: number;
  readonly trainableParameters: number;
  readonly memory: readonly MemoryPart[];
  /** What fits the memory that the job may take. */
  readonly chosen: StageMemory;
}

/** Rows that are rendered; a longer data set is sampled evenly. */
const SAMPLE_ROWS = 2048;
/** Steps of an epoch whose micro-batches are looked at. */
const SAMPLE_STEPS = 256;
/** Runs of one micro-batch that are timed, after one that is not. */
const REPEATS = 3;
/** Micro-batches that are measured, by where they stand among all of a stage by size. */
const QUANTILES = [0.05, 0.5, 0.95];

/** A stage with its sampled rows and what was chosen for them. */
interface PlannedStage {
  readonly stage: ResolvedStage;
  readonly read: StageRows;
  /** Rows of all data that are trained on. */
  readonly rows: number;
  readonly budgeted: BudgetedStage;
}

/** One estimate a stage. Throws what `checkTuning` and reading rows throw, MEMORY_INSUFFICIENT where the job would be refused, and CANCELLED. */
export async function estimateTuning(input: EstimateInput): Promise<StageEstimate[]> {
  const { specification, checkpoint, memoryLimitBytes } = input;
  const stages = checkTuning(specification, checkpoint.config);
  const config = startingConfig(specification.stages[0]!, checkpoint.config, 'specification.stages[0]');
  const planned: PlannedStage[] = [];
  for (const [i, stage] of stages.entries()) planned.push(await planStage(input, config, stage, `specification.stages[${i}].dataset`));
  const memory = chooseAll(planned.map(({ budgeted }) => budgeted), memoryLimit(specification, memoryLimitBytes));
  const estimates: StageEstimate[] = [];
  for (const [i, stage] of planned.entries()) estimates.push(await estimateStage(input, config, stage, memory[i]!));
  return estimates;
}

async function planStage({ checkpoint, specification, examples, rowsOf, signal }: EstimateInput, config: DecoderConfig, stage: ResolvedStage, path: string): Promise<PlannedStage> {
  const allRows = await rowsOf(stage.dataset);
  const every = Math.max(1, Math.ceil(allRows / SAMPLE_ROWS));
  const read = await readStageRows(sampled(examples(stage.dataset), every), stage, checkpoint, { signal, path });
  const sample = rowSizes(read, stage);
  const rows = Math.max(1, Math.round((allRows * sample.rows) / Math.max(1, sample.rows + read.skipped)));
  const shapes = selectedShapes({ config, dropout: specification.stages[0]?.architecture?.dropout, stage, labels: sample.labels });
  return { stage, read, rows, budgeted: budgetedStage(shapes, specification, stage, { ...sample, rows, dataTokens: (sample.dataTokens * rows) / sample.rows }) };
}

async function estimateStage({ host, specification, signal }: EstimateInput, config: DecoderConfig, { stage, read, rows, budgeted }: PlannedStage, chosen: StageMemory): Promise<StageEstimate> {
  const plan = selectTrainable(config, stage.trainable, 'trainable', stage.objective.kind === 'classification');
  const slice = sliceModel(config, plan);
  const use = { weights: specification.baseWeights ?? ('float32' as const), int8Products: specification.int8Products ?? false };
  const lease = host.lease(madeUpBase(slice.config), use);
  const working = new WorkingModel(lease, signal);
  let pass: ModelPass | undefined;
  let parameters: TrainedParameters | undefined;
  try {
    if (read.labels !== undefined) working.classify({ labels: read.labels, template: '' }, 0);
    const model = await working.begin(slice.plan, 0, true);
    parameters = model.parameters;
    const objective = await stageObjective(read, stage, lease, model, { signal, reference: new Float64Array(read.rows.length) });
    pass = await ModelPass.create(lease, model, { savedActivations: chosen.savedActivations, maxLengthTokens: longestPadded(objective), packed: stage.packing, head: objective.head });
    const costs = new SliceCosts(host, pass, objective, slice);
    const epoch = sampledEpoch(objective, rows, stage, chosen.microBatchTokens);
    const passMs = await costs.meanStepMs(epoch.steps, signal);
    const { trained: elements } = budgeted.counts;
    const optimizerMs = await optimizerMsPerElement(lease, model.parameters, stage, signal) * elements;
    const perEpoch = stepsPerEpoch(rows, stage.batchSize, stage.accumulationSteps);
    const steps = stage.length.kind === 'steps' ? stage.length.steps : stage.length.epochs * perEpoch;
    const meanTokens = objective.lengths.reduce((sum, length) => sum + length, 0) / objective.lengths.length;
    const memory = partsOf(budgeted, chosen, epoch.largestTokens);
    return { rows, steps, tokens: Math.round((steps / perEpoch) * meanTokens * rows), seconds: (steps * (passMs + optimizerMs)) / 1000, trainableParameters: elements, memory, chosen };
  } finally {
    pass?.dispose();
    parameters?.disposeGradients();
    await lease.release();
  }
}

async function* sampled(examples: AsyncIterable<PromptExample> | Iterable<PromptExample>, every: number): AsyncGenerator<PromptExample> {
  let index = 0;
  for await (const example of examples) if (index++ % every === 0) yield example;
}

/** Weights of the right shapes whose values do not matter; small ones, so that nothing overflows. */
function madeUpBase(config: DecoderConfig): Parameters<TrainingHost['lease']>[0] {
  const shapes = weightShapes(config);
  const shape = (name: string): readonly number[] => shapes.get(name)!;
  const float32 = (name: string): Promise<Float32Array> => Promise.resolve(new Float32Array(shape(name).reduce((n, d) => n * d, 1)).fill(1e-3));
  const key = `estimate/${createHash('sha256').update(JSON.stringify(config)).digest('hex')}`;
  return { key, sessionPrefix: SESSIONS, config, weights: { shape, float32 } };
}

/** Sessions of estimates are told apart by this from those of jobs that run at the same time. */
const SESSIONS = 'estimate';

interface Epoch {
  /** Micro-batches by step, as rows of the sample. */
  readonly steps: readonly (readonly (readonly number[])[])[];
  /** Padded tokens of the largest micro-batch. */
  readonly largestTokens: number;
}

/** The micro-batches of an epoch of `rows` rows, whose lengths are the sample's again and again; at most 256 steps of it. */
function sampledEpoch({ lengths }: Objective, rows: number, stage: ResolvedStage, maxTokens: number): Epoch {
  const all = Array.from({ length: rows }, (_, i) => lengths[i % lengths.length]!);
  const plan = planEpoch(all, stage.batchSize, stage.accumulationSteps, labelledStream(0, 'estimate'));
  const every = Math.ceil(plan.length / SAMPLE_STEPS);
  const cut = plan.filter((_, i) => i % every === 0).map((batches) => cutByTokens(batches, all, maxTokens));
  const size = (batch: readonly number[]): number => batch.length * longestOf(batch, all);
  return {
    steps: cut.map((batches) => batches.map((batch) => batch.map((row) => row % lengths.length))),
    largestTokens: Math.max(...cut.flat().map(size)),
  };
}

const longestOf = (batch: readonly number[], lengths: readonly number[]): number => padded(batch.reduce((most, row) => Math.max(most, lengths[row]!), 1));

/** Times of a slice's runs, extended to the model that it stands for. */
class SliceCosts {
  constructor(private readonly host: TrainingHost, private readonly pass: ModelPass, private readonly objective: Objective, private readonly slice: ModelSlice) {}

  /** Mean over steps of the time for all of a step's micro-batches. */
  async meanStepMs(steps: Epoch['steps'], signal: AbortSignal | undefined): Promise<number> {
    const batches = steps.flat().map((rows) => ({ rows, work: this.work(rows) })).sort((a, b) => a.work - b.work);
    const known: { readonly work: number; readonly ms: number }[] = [];
    for (const quantile of QUANTILES) {
      const { rows, work } = batches[Math.round(quantile * (batches.length - 1))]!;
      if (known.at(-1)?.work !== work) known.push({ work, ms: await this.measure(rows, signal) });
    }
    return batches.reduce((sum, { work }) => sum + interpolate(known, work), 0) / steps.length;
  }

  /** Multiplications of a micro-batch in the whole model, up to a factor. */
  private work(rows: readonly number[]): number {
    const { hiddenSize, headDim, heads, vocabSize } = this.slice.config;
    const length = longestOf(rows, this.objective.lengths);
    const tokens = rows.length * length;
    const layers = this.slice.counts.reduce((sum, count) => sum + count, 0);
    const perLayer = [...weightShapes(this.slice.config)].filter(([name, shape]) => name.startsWith('model.layers.0.') && shape.length === 2).reduce((sum, [, shape]) => sum + shape[0]! * shape[1]!, 0);
    const terms = rows.reduce((sum, row) => sum + this.objective.terms(row), 0);
    const outputs = this.objective.head === 'languageModel' ? vocabSize : 1;
    return layers * tokens * (perLayer + 2 * heads * headDim * length) + terms * outputs * hiddenSize;
  }

  /** Median time of a micro-batch in the whole model. */
  private async measure(rows: readonly number[], signal: AbortSignal | undefined): Promise<number> {
    const times: number[] = [];
    for (let run = 0; run <= REPEATS; run++) {
      const reports: { readonly session: string; readonly ranMs: number }[] = [];
      const stop = this.host.runtime.onRun((report) => report.session.startsWith(`${SESSIONS}:`) && reports.push(report));
      const from = performance.now();
      const random = labelledStream(run, 'estimate');
      await this.objective.gradients(this.pass, rows, { scale: 1e-3, adding: false, signal, randomOf: () => random });
      const wallMs = performance.now() - from;
      stop();
      if (run > 0) times.push(this.extended(reports, wallMs));
    }
    return times.sort((a, b) => a - b)[REPEATS >> 1]!;
  }

  /** Forward runs of layers come in their order and backward runs in the opposite one; all else, and the time between runs, comes once. */
  private extended(reports: readonly { readonly session: string; readonly ranMs: number }[], wallMs: number): number {
    const { counts } = this.slice;
    let [forward, backward] = [0, counts.length - 1];
    let ms = wallMs;
    for (const { session, ranMs } of reports) {
      const name = session.slice(SESSIONS.length + 1);
      const count = name.startsWith('layer-backward') ? counts[backward--]! : name.startsWith('layer') ? counts[forward++]! : 1;
      ms += (count - 1) * ranMs;
    }
    return ms;
  }
}

/** Piecewise linear between what was measured; beyond it along the nearest piece, or in proportion where there is one point only. */
function interpolate(known: readonly { readonly work: number; readonly ms: number }[], work: number): number {
  if (known.length === 1) return (known[0]!.ms * work) / known[0]!.work;
  const upper = Math.min(known.length - 1, Math.max(1, known.findIndex((point) => point.work >= work)));
  const [a, b] = [known[upper - 1]!, known[work > known.at(-1)!.work ? known.length - 1 : upper]!];
  return Math.max(0, a.ms + ((b.ms - a.ms) * (work - a.work)) / (b.work - a.work));
}

async function optimizerMsPerElement(lease: BaseLease, parameters: TrainedParameters, stage: ResolvedStage, signal: AbortSignal | undefined): Promise<number> {
  const norm = await GradientNorm.create(lease, parameters);
  const optimizer = await createOptimizer(lease, parameters, stage);
  try {
    const times: number[] = [];
    for (let run = 0; run <= REPEATS; run++) {
      const from = performance.now();
      await norm.measure(signal);
      await optimizer.update(0, 1);
      times.push(performance.now() - from);
    }
    return times.slice(1).sort((a, b) => a - b)[REPEATS >> 1]! / parameters.values.shape[0]!;
  } finally {
    norm.dispose();
    optimizer.dispose();
  }
}
