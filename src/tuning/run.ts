/**
 * A whole tuning job: specification and rows in, adapter content out. `runTuning` renders examples of a checkpoint's tokenizer;
 * `trainOnTokens` takes rows of tokens and plain arrays and is what trains the embedded base from scratch.
 */
import { LEAST_LABELS } from '../adapters/index.js';
import { invalidFields, LoricaError } from '../common/errors.js';
import { weightShapes, type DecoderConfig } from '../models/config.js';
import type { RenderedExample } from '../models/prompt.js';
import type { Runtime } from '../runtime/index.js';
import { tokenRow, type TokenRow } from './batches.js';
import { startingConfig, startingModel } from './edit-model.js';
import type { StageOutcome, StepEvent, TuningResult } from './events.js';
import { learningRates } from './learning-rate.js';
import { budgetedStage, chooseAll, memoryLimit, requireMemory, rowSizes, selectedShapes } from './memory-budget.js';
import { ModelPass } from './model-pass.js';
import { tokenObjective } from './objective-tokens.js';
import { selectTrainable } from './selection.js';
import { checkSpecification, resolveStage, type ResolvedStage, type StageSpecification, type TrainableSelection, type TuningSpecification } from './specification.js';
import { readStageRows } from './stage-rows.js';
import { longestPadded, meanFigures, trainStage } from './trainer.js';
import { TrainingHost } from './training-host.js';
import { beginStage, TuningRun, type TuningInput } from './tuning-run.js';
import { parameterShapes, shapesWithHead, WorkingModel } from './working-model.js';

/**
 * Checks the whole specification before any work: defaults, selections and numbers of every stage. Throws INVALID_ARGUMENT with
 * all broken rules of the first stage that has any.
 */
export function checkTuning(specification: TuningSpecification, base: DecoderConfig): readonly ResolvedStage[] {
  checkSpecification(specification);
  const config = startingConfig(specification.stages[0]!, base, 'specification.stages[0]');
  return specification.stages.map((stage, i) => {
    const path = `specification.stages[${i}]`;
    const resolved = resolveStage(stage, config.maxPositionTokens, path);
    const plan = selectTrainable(config, resolved.trainable, `${path}.trainable`, resolved.objective.kind === 'classification');
    learningRates(resolved, config, parameterShapes(plan, shapesWithHead(config, LEAST_LABELS)), { path });
    return resolved;
  });
}

/**
 * Refuses a job that would not fit whatever its rows are, before any of them is read. `givenBytes`: what a job may take here. Throws
 * RESOURCE_EXHAUSTED / MEMORY_INSUFFICIENT, and what `checkTuning` throws.
 */
export function checkMemory(specification: TuningSpecification, base: DecoderConfig, givenBytes: number): void {
  const stages = checkTuning(specification, base);
  requireMemory(specification, stages, startingConfig(specification.stages[0]!, base, 'specification.stages[0]'), memoryLimit(specification, givenBytes));
}

/**
 * Runs all stages, from the newest checkpoint where there is one that fits. Throws INVALID_ARGUMENT, MEMORY_INSUFFICIENT, TRAINING_DIVERGED, CANCELLED; nothing
 * is written anywhere but through `checkpoints`. Aborted for another reason than a cancel, it keeps a checkpoint first.
 */
export async function runTuning(input: TuningInput): Promise<TuningResult> {
  const { checkpoint, signal } = input;
  const { config, weights, digest } = checkpoint;
  const stages = checkTuning(input.specification, config);
  const lease = input.host.lease({ key: digest, config, weights }, { weights: input.specification.baseWeights ?? 'float32', int8Products: input.specification.int8Products ?? false });
  try {
    const start = await startingModel({
      lease, checkpoint, stage: input.specification.stages[0]!, seed: input.specification.seed, signal,
      rows: async () => (await readStageRows(input.examples(stages[0]!.dataset), stages[0]!, checkpoint, { signal, path: 'specification.stages[0].dataset' })).rows,
      vectors: (source) => {
        if (input.vectors === undefined) throw new Error('the specification names word vectors, and nothing here reads them');
        return input.vectors(source, signal);
      },
    });
    if (start.embeddings !== undefined) await input.onEmbeddings?.(start.embeddings);
    return await new TuningRun(input, stages, lease, start).run();
  } finally {
    await lease.release();
  }
}

export interface TokenTrainingInput {
  readonly runtime: Runtime;
  readonly config: DecoderConfig;
  /** Every tensor of `weightShapes(config)`, [out, in] row-major; not written to. */
  readonly initialTensors: ReadonlyMap<string, Float32Array>;
  /** Tokens with the mask of those that count; ids below config.vocabSize. */
  readonly rows: readonly RenderedExample[];
  /** As in a job; the default trainable selection is full. */
  readonly stage: Omit<StageSpecification, 'dataset' | 'trainable' | 'maxLengthTokens'> & { readonly trainable?: TrainableSelection };
  readonly seed: number;
  readonly emit: (event: StepEvent) => void | Promise<void>;
  /** Held-out rows: their mean loss is measured every `everySteps` steps and at the end. */
  readonly validation?: { readonly rows: readonly RenderedExample[]; readonly everySteps: number; readonly report: (step: number, loss: number) => void };
  readonly signal?: AbortSignal;
  readonly activationBudgetBytes?: number;
}

/** Trains on rows of tokens. Returns all tensors of the model, LoRA merged, and how it went. */
export async function trainOnTokens(input: TokenTrainingInput): Promise<{ readonly tensors: Map<string, Float32Array>; readonly outcome: StageOutcome }> {
  const { config, initialTensors, runtime, seed, signal, validation } = input;
  const shapes = weightShapes(config);
  for (const [name, shape] of shapes) {
    const data = initialTensors.get(name);
    const count = shape.reduce((n, d) => n * d, 1);
    if (data?.length !== count) throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `initialTensors: ${name} needs ${count} elements, not ${data?.length ?? 'none'}`);
  }
  const stage = resolveStage({ ...input.stage, trainable: input.stage.trainable ?? { kind: 'full' }, dataset: 'tokens' }, config.maxPositionTokens);
  const weights = { shape: (name: string) => shapes.get(name)!, float32: (name: string) => Promise.resolve(initialTensors.get(name)!.slice()) };
  const lease = new TrainingHost(runtime).lease({ key: 'tokens', config, weights });
  let validator: ModelPass | undefined;
  try {
    const rows = tokenRows(input.rows, config.vocabSize, 'rows');
    const objective = tokenObjective(rows, stage);
    const sizes = rowSizes({ rows, skipped: 0 }, stage);
    const memory = chooseAll([budgetedStage(selectedShapes({ config, dropout: {}, stage, labels: 0 }), {}, stage, sizes)], Infinity, input.activationBudgetBytes)[0]!;
    const working = new WorkingModel(lease, signal);
    const { model, peakRate } = await beginStage(working, config, stage, seed, rows.length);
    const heldOut = tokenObjective(tokenRows(validation?.rows ?? [], config.vocabSize, 'validation.rows'), { packing: false });
    if (heldOut.lengths.length > 0) validator = await ModelPass.create(lease, working.frozen(), { savedActivations: 'layer', maxLengthTokens: longestPadded(heldOut) });
    const outcome = await trainStage({
      lease, model, stage, stageIndex: 0, peakRate, objective, seed, memory, signal,
      emit: async (event) => {
        await input.emit(event);
        if (validator === undefined || validation === undefined || (event.step % validation.everySteps !== 0 && event.step !== event.totalSteps)) return;
        validation.report(event.step, (await meanFigures(validator, heldOut, memory.microBatchTokens, signal)).loss);
      },
    });
    return { tensors: await allTensors(working, initialTensors), outcome };
  } finally {
    validator?.dispose();
    await lease.release();
  }
}

/** The rows in which some token counts. Throws for ids that the model doesn't have. */
function tokenRows(rows: readonly RenderedExample[], vocabSize: number, field: string): TokenRow[] {
  rows.forEach(({ tokens }, i) => {
    const wrong = tokens.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (wrong !== undefined) throw invalidFields([{ field: `${field}[${i}]`, description: `token ${wrong} is not below the vocabulary's ${vocabSize}` }]);
  });
  return rows.map((row) => tokenRow(row)).filter((row) => row !== undefined);
}

async function allTensors(working: WorkingModel, initial: ReadonlyMap<string, Float32Array>): Promise<Map<string, Float32Array>> {
  const tensors = new Map(initial);
  const content = await working.variant();
  for (const [name, { data }] of content.tensors) tensors.set(name, data as Float32Array);
  return tensors;
}
