import { describe, expect, test } from '@jest/globals';
import { EvaluationMetric } from '../../src/gen/lorica/v1/training.js';
import * as proto from '../../src/gen/lorica/v1/tuning.js';
import { Fields } from '../../src/services/fields.js';
import {
  readTuningSpecification,
  tuningRequestOfJob,
  tuningSpecificationFromJson,
  tuningSpecificationToJson,
} from '../../src/services/tuning-specification.js';
import { resolveStage } from '../../src/tuning/index.js';

const identity = { tenant: 'acme', roles: ['tenant' as const] };
type Partial = Parameters<typeof proto.TuningSpecification.fromPartial>[0];
type Selection = NonNullable<NonNullable<Partial['stages']>[number]['trainable']>['selection'];

function read(partial: Partial) {
  const fields = new Fields();
  const request = readTuningSpecification(proto.TuningSpecification.fromPartial(partial), 'specification', identity, fields);
  return { request: request!, violations: fields.violations };
}

const stage = (more: NonNullable<Partial['stages']>[number] = {}) => ({
  dataset: 'tenants/-/datasets/d',
  trainable: { selection: { $case: 'full' as const, value: {} } },
  ...more,
});
const base = { baseModel: 'models/m', adapterId: 'a' };

describe('readTuningSpecification', () => {
  test('what is left out stays out, so that the tuning layer applies its defaults', () => {
    const { request, violations } = read({ ...base, stages: [stage()] });
    expect(violations).toEqual([]);
    expect(request.specification).toEqual({
      baseModel: 'm',
      seed: 0,
      stages: [
        { trainable: { kind: 'full' }, dataset: 'tenants/acme/datasets/d', objective: { kind: 'languageModel', loss: 'completion' } },
      ],
    });
  });

  test('how the base is held and whether products are of integers', () => {
    const held = (more: Partial) => read({ ...base, stages: [stage()], ...more });
    expect(held({ baseWeights: proto.BaseWeights.BASE_WEIGHTS_INT4 }).request.specification).toMatchObject({ baseWeights: 'int4' });
    expect(held({ int8Products: true }).request.specification).toMatchObject({ int8Products: true });
    expect(held({ baseWeights: proto.BaseWeights.UNRECOGNIZED }).violations.map(({ field }) => field)).toEqual([
      'specification.base_weights',
    ]);
  });

  test("the defaults that the proto comments state are the tuning layer's", () => {
    const resolved = resolveStage(read({ ...base, stages: [stage()] }).request.specification.stages[0]!, 4096);
    expect(resolved).toMatchObject({
      learningRate: 2e-5,
      weightDecay: 0.01,
      betas: [0.9, 0.999],
      epsilon: 1e-8,
      maxGradientNorm: 1,
      decayNorms: true,
      batchSize: 8,
      accumulationSteps: 1,
      maxLengthTokens: 1024,
      objective: { kind: 'languageModel', loss: 'completion' },
      schedule: { kind: 'linear', warmupRatio: 0.03 },
      length: { kind: 'epochs', epochs: 1 },
      savedActivations: 'auto',
    });
    const lora = stage({ trainable: { selection: { $case: 'lora', value: {} } } });
    const withLora = resolveStage(read({ ...base, stages: [lora] }).request.specification.stages[0]!, 512);
    expect(withLora).toMatchObject({ learningRate: 2e-4, maxLengthTokens: 512, trainable: { kind: 'lora', rank: 16 } });
  });

  test('every field arrives', () => {
    const { request, violations } = read({
      ...base,
      alias: 'prod',
      seed: 5,
      stages: [
        stage({
          trainable: { selection: { $case: 'lora', value: { rank: 8, alpha: 4, targetModules: ['q_proj'], layers: [1], rsLora: true } } },
          objective: { lossScope: proto.LossScope.LOSS_SCOPE_ALL },
          optimizer: { learningRate: 1e-3, weightDecay: 0, beta1: 0.8, epsilon: 1e-6, maxGradientNorm: 0, decayNorms: false },
          schedule: { kind: proto.ScheduleKind.SCHEDULE_KIND_COSINE, warmup: { $case: 'warmupSteps', value: 3 } },
          length: { $case: 'steps', value: 10 },
          batchSize: 2,
          accumulationSteps: 4,
          maxLengthTokens: 64,
          labelTemplate: { promptTemplate: 'R: {text}\n', labelTemplate: '' },
          savedActivations: proto.SavedActivations.SAVED_ACTIVATIONS_LAYER,
        }),
      ],
    });
    expect(violations).toEqual([]);
    expect(request).toMatchObject({ adapter: 'a', alias: 'prod' });
    expect(request.specification).toEqual({
      baseModel: 'm',
      seed: 5,
      stages: [
        {
          dataset: 'tenants/acme/datasets/d',
          trainable: { kind: 'lora', rank: 8, alpha: 4, targetModules: ['q_proj'], layers: [1], rsLora: true },
          learningRate: 1e-3,
          weightDecay: 0,
          betas: [0.8, 0.999],
          epsilon: 1e-6,
          maxGradientNorm: 0,
          decayNorms: false,
          objective: { kind: 'languageModel', loss: 'all' },
          schedule: { kind: 'cosine', warmupSteps: 3 },
          steps: 10,
          batchSize: 2,
          accumulationSteps: 4,
          maxLengthTokens: 64,
          labelTemplate: { prompt: 'R: {text}\n', label: ' {label}' },
          savedActivations: 'layer',
        },
      ],
    });
  });

  test('Adafactor, the checkpoint policy and the memory limit arrive', () => {
    const { request, violations } = read({
      ...base,
      checkpoints: { everySteps: 50, keep: 3 },
      memoryLimitBytes: 2 ** 31,
      stages: [
        stage({
          adafactor: { autoLearningRate: true, beta2Decay: -0.7, epsilon2: 0.01, clipThreshold: 2, weightDecay: 0.1, rateGroups: [] },
        }),
      ],
    });
    expect(violations).toEqual([]);
    expect(request.specification).toMatchObject({
      memoryLimitBytes: 2 ** 31,
      checkpoints: { everySteps: 50, keep: 3 },
      stages: [{ learningRate: 'auto', weightDecay: 0.1, adafactor: { beta2Decay: -0.7, epsilons: [2 ** -23, 0.01], clipThreshold: 2 } }],
    });
    const resolved = resolveStage(read({ ...base, stages: [stage({ adafactor: {} })] }).request.specification.stages[0]!, 512);
    expect(resolved).toMatchObject({
      learningRate: 1e-3,
      weightDecay: 0,
      maxGradientNorm: 1,
      adafactor: { beta2Decay: -0.8, epsilons: [2 ** -23, 1e-3], clipThreshold: 1 },
    });
  });

  test('an evaluation arrives with its dataset by its canonical name, and is refused field by field', () => {
    const { EVALUATION_METRIC_LOSS, EVALUATION_METRIC_MACRO_F1, EVALUATION_METRIC_UNSPECIFIED } = EvaluationMetric;
    const evaluation = {
      dataset: 'tenants/-/datasets/held',
      everySteps: 5,
      metrics: [EVALUATION_METRIC_LOSS],
      earlyStopping: { metric: EVALUATION_METRIC_LOSS, patience: 3, minDelta: 0.01 },
      keepBest: EVALUATION_METRIC_MACRO_F1,
    };
    const { request, violations } = read({ ...base, stages: [stage({ evaluation })] });
    expect(violations).toEqual([]);
    expect(request.specification.stages[0]!.evaluation).toEqual({
      dataset: 'tenants/acme/datasets/held',
      everySteps: 5,
      metrics: ['loss'],
      earlyStopping: { metric: 'loss', patience: 3, minDelta: 0.01 },
      keepBest: 'macroF1',
    });
    expect(request.canonical.stages[0]!.evaluation!.dataset).toBe('tenants/acme/datasets/held');
    const broken = {
      dataset: 'held',
      everySteps: 0,
      metrics: [EVALUATION_METRIC_UNSPECIFIED],
      earlyStopping: { patience: 0, minDelta: -1 },
    };
    const at = 'specification.stages[0].evaluation';
    expect(
      read({ ...base, stages: [stage({ evaluation: broken })] })
        .violations.map(({ field }) => field)
        .sort(),
    ).toEqual(
      ['dataset', 'early_stopping.metric', 'early_stopping.min_delta', 'early_stopping.patience', 'every_steps', 'metrics[0]'].map(
        (field) => `${at}.${field}`,
      ),
    );
  });

  test('a broken Adafactor and checkpoint policy are refused field by field', () => {
    const { violations } = read({
      ...base,
      checkpoints: { everySteps: 0, keep: 101 },
      memoryLimitBytes: -1,
      stages: [stage({ optimizer: {}, adafactor: { learningRate: 2, beta2Decay: 0.1, epsilon1: 0, epsilon2: 2, clipThreshold: 0.5 } })],
    });
    const at = 'specification.stages[0].adafactor';
    expect(violations.map(({ field }) => field).sort()).toEqual([
      'specification.checkpoints.every_steps',
      'specification.checkpoints.keep',
      'specification.memory_limit_bytes',
      at,
      ...['beta2_decay', 'clip_threshold', 'epsilon1', 'epsilon2', 'learning_rate'].map((field) => `${at}.${field}`),
    ]);
  });

  test('LoRA options, exceptions and rates arrive', () => {
    const lora = {
      rank: 8,
      ranges: [{ first: 1, last: 3 }],
      dropout: 0.1,
      dora: true,
      modulePatterns: [
        { pattern: 'q_proj', rank: 4 },
        { pattern: 'layers.0.*', alpha: 2 },
      ],
    };
    const { request, violations } = read({
      ...base,
      stages: [
        stage({
          trainable: { selection: { $case: 'lora', value: lora }, exclude: ['*.k_proj'], excludeLayers: [{ first: 2, last: 2 }] },
          packing: true,
          optimizer: { autoLearningRate: true, layerDecay: 0.9, rateGroups: [{ pattern: '*.lora_B.weight', multiplier: 16 }] },
          schedule: { kind: proto.ScheduleKind.SCHEDULE_KIND_COSINE, leastRatio: 0.1 },
        }),
      ],
    });
    expect(violations).toEqual([]);
    expect(request.specification.stages[0]).toMatchObject({
      trainable: {
        kind: 'except',
        of: { kind: 'lora', layers: [{ first: 1, last: 3 }], dropout: 0.1, dora: true, modulePatterns: lora.modulePatterns },
        patterns: ['*.k_proj'],
        layers: [{ first: 2, last: 2 }],
      },
      packing: true,
      learningRate: 'auto',
      layerDecay: 0.9,
      rateGroups: [{ pattern: '*.lora_B.weight', multiplier: 16 }],
      schedule: { kind: 'cosine', leastRatio: 0.1 },
    });
  });

  test('every broken rule of LoRA options, exceptions and rates is named', () => {
    const lora = { ranges: [{ first: 3, last: 1 }], dropout: 0.95, modulePatterns: [{ pattern: 'q_proj' }, { pattern: '(x)', rank: 0 }] };
    const { violations } = read({
      ...base,
      stages: [
        stage({
          trainable: { selection: { $case: 'lora', value: lora }, exclude: ['a b'], excludeLayers: [{ first: 0, last: 1000 }] },
          optimizer: { learningRate: 0.1, autoLearningRate: true, layerDecay: 0, rateGroups: [{ pattern: '', multiplier: 0 }] },
          schedule: { leastRatio: 2 },
        }),
      ],
    });
    expect(violations.map(({ field }) => field.replace('specification.stages[0].', '')).sort()).toEqual([
      'optimizer.layer_decay',
      'optimizer.learning_rate',
      'optimizer.rate_groups[0].multiplier',
      'optimizer.rate_groups[0].pattern',
      'schedule.least_ratio',
      'trainable.exclude[0]',
      'trainable.exclude_layers[0].last',
      'trainable.lora.dropout',
      'trainable.lora.module_patterns[0]',
      'trainable.lora.module_patterns[1].pattern',
      'trainable.lora.module_patterns[1].rank',
      'trainable.lora.ranges[0]',
    ]);
  });

  test.each<[string, Selection, object]>([
    [
      'last layers',
      { $case: 'lastLayers', value: { layers: 2, includeHead: true, includeNorm: false } },
      { kind: 'lastLayers', layers: 2, includeHead: true, includeNorm: false },
    ],
    ['layers', { $case: 'layers', value: { indices: [0, 3] } }, { kind: 'layers', indices: [0, 3] }],
    [
      'components',
      { $case: 'components', value: { components: [proto.Component.COMPONENT_FEED_FORWARD, proto.Component.COMPONENT_NORMS], layers: [] } },
      { kind: 'components', components: ['feedForward', 'norms'] },
    ],
    [
      'names',
      { $case: 'names', value: { patterns: ['model.layers.*.mlp.down_proj.weight'] } },
      { kind: 'names', patterns: ['model.layers.*.mlp.down_proj.weight'] },
    ],
    [
      'union',
      {
        $case: 'union',
        value: {
          selections: [
            { selection: { $case: 'lastLayers', value: { layers: 1, includeHead: false, includeNorm: false } } },
            { selection: { $case: 'names', value: { patterns: ['a.b'] } } },
          ],
        },
      },
      {
        kind: 'union',
        of: [
          { kind: 'lastLayers', layers: 1, includeHead: false, includeNorm: false },
          { kind: 'names', patterns: ['a.b'] },
        ],
      },
    ],
  ])('selection of %s', (_name, selection, expected) => {
    const { request, violations } = read({ ...base, stages: [stage({ trainable: { selection } })] });
    expect(violations).toEqual([]);
    expect(request.specification.stages[0]!.trainable).toEqual(expected);
  });

  test.each<[string, Selection, string]>([
    [
      'a union in a union',
      {
        $case: 'union',
        value: { selections: [{ selection: { $case: 'union', value: { selections: [] } } }, { selection: { $case: 'full', value: {} } }] },
      },
      'union.selections[0].union',
    ],
    ['a repeated layer', { $case: 'layers', value: { indices: [1, 1] } }, 'layers.indices[1]'],
    ['no component', { $case: 'components', value: { components: [], layers: [] } }, 'components.components'],
    [
      'an unspecified component',
      { $case: 'components', value: { components: [proto.Component.COMPONENT_UNSPECIFIED], layers: [] } },
      'components.components[0]',
    ],
    ['rank 0', { $case: 'lora', value: { ...proto.LoraSelection.create(), rank: 0 } }, 'lora.rank'],
  ])('%s is refused', (_name, selection, path) => {
    const { violations } = read({ ...base, stages: [stage({ trainable: { selection } })] });
    expect(violations.map(({ field }) => field)).toContain(`specification.stages[0].trainable.${path}`);
  });

  test.each([NaN, Infinity, -1, 0, 2])('a learning rate of %d is refused', (learningRate) => {
    expect(read({ ...base, stages: [stage({ optimizer: { learningRate } })] }).violations.map(({ field }) => field)).toEqual([
      'specification.stages[0].optimizer.learning_rate',
    ]);
  });

  test('templates must hold their names', () => {
    const { violations } = read({ ...base, stages: [stage({ labelTemplate: { promptTemplate: 'no', labelTemplate: 'no' } })] });
    expect(violations.map(({ field }) => field)).toEqual([
      'specification.stages[0].label_template.prompt_template',
      'specification.stages[0].label_template.label_template',
    ]);
  });

  test('what is stored with a job reads back as the same message and the same request', () => {
    const { request } = read({
      ...base,
      seed: 9,
      stages: [stage({ optimizer: { learningRate: 0.5, weightDecay: 0 }, length: { $case: 'epochs', value: 2 } })],
    });
    const json: unknown = JSON.parse(JSON.stringify(tuningSpecificationToJson(request.canonical)));
    expect(tuningSpecificationFromJson(json)).toEqual(request.canonical);
    expect(tuningRequestOfJob({ tenant: 'acme', spec: { specification: json } })).toEqual(request);
  });
});
