/** What a stage keeps and how it is cut within a limit: what is foretold is what a pass keeps, and every limit is kept or refused. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime } from '../../src/runtime/index.js';
import { budgetedStage, chooseAll, chooseMemory, leastParts, memoryLimit, partsOf, requireMemory, selectedShapes, type BudgetedStage } from '../../src/tuning/memory-budget.js';
import { totalBytes } from '../../src/tuning/memory-plan.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { tuningCost } from '../../src/tuning/recommend-cost.js';
import { checkMemory } from '../../src/tuning/run.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import { resolveStage, type StageSpecification, type TrainableSelection } from '../../src/tuning/specification.js';
import { bareBase } from '../../src/tuning/starting-model.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';

let runtime: Runtime;
let checkpoint: Checkpoint;
beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openCheckpoint('test/golden/tiny-llama');
});
afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
});

const LORA: TrainableSelection = { kind: 'lora', rank: 4 };
const SIZES = { rows: 40, longestTokens: 32, dataTokens: 900, labels: 0 };
const stageOf = (more: Partial<StageSpecification> = {}): BudgetedStage => {
  const { config } = checkpoint;
  const stage = resolveStage({ dataset: 'd', trainable: LORA, batchSize: 8, ...more }, config.maxPositionTokens);
  return budgetedStage(selectedShapes({ config, dropout: {}, stage, labels: 0 }), {}, stage, SIZES);
};
const bytesAt = (stage: BudgetedStage, savedActivations: 'linear' | 'layer', microBatchTokens: number): number => totalBytes(partsOf(stage, { savedActivations, microBatchTokens }));

describe('what is foretold of a token', () => {
  const dropout = { attention: 0.1, residual: 0.2, embedding: 0.1 };

  test.each<[string, TrainableSelection, object]>([
    ['full', { kind: 'full' }, {}],
    ['LoRA', LORA, {}],
    ['LoRA with dropout', { kind: 'lora', rank: 4, dropout: 0.2 }, {}],
    ['full, with dropout of the model', { kind: 'full' }, dropout],
    ['last layer', { kind: 'lastLayers', layers: 1 }, {}],
    ['attention', { kind: 'components', components: ['attention'] }, {}],
    ['feed-forward', { kind: 'components', components: ['feedForward'] }, {}],
  ])('%s: a pass keeps no more, and little less (of the lowest layer)', async (_label, trainable, rates) => {
    const { config, weights } = checkpoint;
    const stage = resolveStage({ dataset: 'd', trainable }, config.maxPositionTokens);
    const lease = new TrainingHost(runtime).lease({ key: 'kept', config, weights });
    const model = await new WorkingModel(lease, undefined, { ...bareBase(config), dropout: rates }).begin(selectTrainable(config, trainable), 1, true);
    const foretold = budgetedStage(selectedShapes({ config, dropout: rates, stage, labels: 0 }), {}, stage, SIZES).kinds;
    for (const savedActivations of ['linear', 'layer'] as const) {
      const pass = await ModelPass.create(lease, model, { savedActivations, maxLengthTokens: SIZES.longestTokens });
      expect(pass.savedBytesPerToken).toBeLessThanOrEqual(foretold[savedActivations].bytesPerToken);
      expect(pass.savedBytesPerToken).toBeGreaterThanOrEqual(0.85 * foretold[savedActivations].bytesPerToken);
      pass.dispose();
    }
    model.parameters.disposeGradients();
    await lease.release();
  });
});

describe('within a limit', () => {
  test('inputs of linear layers are kept while a micro-batch of them fits, then only layer inputs, in smaller and smaller micro-batches, to one row', () => {
    const stage = stageOf();
    const seen: string[] = [];
    const [most, least] = [bytesAt(stage, 'linear', 4096), totalBytes(leastParts(stage))];
    for (let limit = most; limit >= least; limit -= Math.ceil((most - least) / 200)) {
      const chosen = chooseMemory(stage, limit)!;
      expect(bytesAt(stage, chosen.savedActivations, chosen.microBatchTokens)).toBeLessThanOrEqual(limit);
      expect(chosen.microBatchTokens).toBeGreaterThanOrEqual(stage.rowTokens);
      if (chosen.savedActivations === 'linear') expect(chosen.microBatchTokens).toBeGreaterThanOrEqual(stage.batchTokens);
      if (seen.at(-1) !== chosen.savedActivations) seen.push(chosen.savedActivations);
    }
    expect(seen).toEqual(['linear', 'layer']);
    expect(chooseMemory(stage, least)).toEqual({ savedActivations: 'layer', microBatchTokens: stage.rowTokens });
    expect(chooseMemory(stage, least - 1)).toBeUndefined();
  });

  test('the largest micro-batch that fits is chosen: one token more would not', () => {
    const stage = stageOf();
    for (const share of [0.1, 0.35, 0.6]) {
      const limit = totalBytes(leastParts(stage)) + share * (bytesAt(stage, 'layer', 500) - totalBytes(leastParts(stage)));
      const chosen = chooseMemory(stage, limit)!;
      expect(bytesAt(stage, chosen.savedActivations, chosen.microBatchTokens + 1)).toBeGreaterThan(limit);
    }
  });

  test('a batch in one piece lends activations the gradients\' memory: it fits where smaller pieces do not, and no step that accumulates does so', () => {
    const full = stageOf({ trainable: { kind: 'full' }, savedActivations: 'linear', batchSize: 2 });
    const tight = bytesAt(full, 'linear', full.batchTokens);
    expect(bytesAt(full, 'linear', full.batchTokens - 1)).toBeGreaterThan(tight);
    expect(chooseMemory(full, tight)).toEqual({ savedActivations: 'linear', microBatchTokens: full.batchTokens });
    expect(bytesAt({ ...full, accumulates: true }, 'linear', full.batchTokens)).toBeGreaterThan(tight);
    const least = totalBytes(leastParts(full));
    expect(chooseMemory(full, least)).toBeDefined();
    expect(chooseMemory(full, least - 1)).toBeUndefined();
  });

  test('what a stage asks for is kept, and only cut', () => {
    const stage = stageOf({ savedActivations: 'linear' });
    const tight = bytesAt(stage, 'linear', 40);
    expect(chooseMemory(stage, tight)).toEqual({ savedActivations: 'linear', microBatchTokens: 40 });
    expect(chooseMemory(stage, bytesAt(stage, 'layer', stage.rowTokens))).toBeUndefined();
    expect(chooseMemory(stageOf(), tight)).toMatchObject({ savedActivations: 'layer' });
  });

  test('both answers of a pair are held at once', () => {
    const pairs = stageOf({ objective: { kind: 'preference' } });
    expect(pairs.rowTokens).toBe(2 * SIZES.longestTokens);
    expect(chooseMemory(pairs, totalBytes(leastParts(pairs)))).toMatchObject({ microBatchTokens: 2 * SIZES.longestTokens });
  });

  test('a job asks for less than it is given, never for more', () => {
    expect([memoryLimit({}), memoryLimit({ memoryLimitBytes: 5 }), memoryLimit({ memoryLimitBytes: 5 }, 3), memoryLimit({}, 3)]).toEqual([Infinity, 5, 3, 3]);
  });
});

describe('what does not fit', () => {
  const refusal = (work: () => unknown): LoricaError => {
    try {
      work();
    } catch (error) {
      if (error instanceof LoricaError) return error;
    }
    throw new Error('was not refused');
  };

  test('is refused with the least that would do, which does, and where it goes', () => {
    const stages = [stageOf(), stageOf({ trainable: { kind: 'full' } })];
    const error = refusal(() => chooseAll(stages, 1000));
    expect(error).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'MEMORY_INSUFFICIENT', metadata: { stage: '1', limitBytes: '1000' } });
    const { leastBytes, stage: _stage, limitBytes: _limitBytes, ...parts } = error.metadata;
    expect(Object.keys(parts)).toEqual(['frozenWeightsBytes', 'trainedWeightsBytes', 'gradientsBytes', 'optimizerBytes', 'activationsBytes', 'workspaceBytes', 'rowsBytes']);
    expect(Math.abs(Object.values(parts).reduce((sum, bytes) => sum + Number(bytes), 0) - Number(leastBytes))).toBeLessThanOrEqual(7);
    expect(chooseAll(stages, Number(leastBytes))).toHaveLength(2);
    expect(refusal(() => chooseAll(stages, Number(leastBytes) - 1)).metadata['leastBytes']).toBe(leastBytes);
    expect(error.hint).toContain('MiB');
  });

  test('is known without rows where weights, gradients and moments are too much, and never where the rows might fit', () => {
    const { config } = checkpoint;
    const specification = { baseModel: 'm', seed: 0, stages: [{ dataset: 'd', trainable: { kind: 'full' as const } }] };
    const stages = [resolveStage(specification.stages[0]!, config.maxPositionTokens)];
    const least = Number(refusal(() => { requireMemory(specification, stages, config, 1); }).metadata['leastBytes']);
    expect(() => { requireMemory(specification, stages, config, least); }).not.toThrow();
    expect(least).toBeLessThan(totalBytes(leastParts(stageOf({ trainable: { kind: 'full' } }))));
    expect(refusal(() => { checkMemory({ ...specification, memoryLimitBytes: least - 1 }, config, Infinity); })).toMatchObject({ reason: 'MEMORY_INSUFFICIENT' });
    expect(refusal(() => { checkMemory({ ...specification, memoryLimitBytes: 0 }, config, Infinity); })).toMatchObject({ reason: 'INVALID_FIELD' });
  });
});

test('a recommendation weighs a specification as the job will: what it costs is what the job needs as a limit', () => {
  const { config } = checkpoint;
  for (const savedActivations of ['linear', 'layer'] as const) {
    const stage: StageSpecification = { dataset: 'd', trainable: LORA, batchSize: 8, maxLengthTokens: 32, savedActivations };
    const figures = { rows: SIZES.rows, meanTokens: SIZES.dataTokens / SIZES.rows, longestTokens: 32, labels: 0 };
    const { memoryBytes } = tuningCost({ baseModel: 'm', seed: 0, stages: [stage] }, config, figures, 1);
    const budgeted = stageOf(stage);
    expect(chooseMemory(budgeted, memoryBytes)!.microBatchTokens).toBe(budgeted.batchTokens);
    expect(chooseMemory(budgeted, memoryBytes - 1)!.microBatchTokens).toBeLessThan(budgeted.batchTokens);
  }
});
