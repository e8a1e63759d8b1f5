/** The messages of a stage's optimizer → the tuning layer's fields. Defaults are the tuning layer's. */
import type { StageSpecification } from '../tuning/index.js';
import type * as proto from '../gen/lorica/v1/tuning.js';
import { defined } from './defined.js';
import type { Fields } from './fields.js';
import { NAME_PATTERN, NAME_PATTERN_RULE } from './tuning-selection.js';

type OptimizerFields = Partial<
  Pick<
    StageSpecification,
    'learningRate' | 'layerDecay' | 'rateGroups' | 'weightDecay' | 'decayNorms' | 'betas' | 'epsilon' | 'maxGradientNorm' | 'adafactor'
  >
>;

export function readOptimizer({ optimizer, adafactor }: proto.TuningStage, path: string, fields: Fields): OptimizerFields {
  fields.check(`${path}.adafactor`, optimizer === undefined || adafactor === undefined, 'can not be given together with optimizer');
  if (adafactor !== undefined) return readAdafactor(adafactor, `${path}.adafactor`, fields);
  return optimizer === undefined ? {} : readAdamW(optimizer, `${path}.optimizer`, fields);
}

function readAdamW(message: proto.AdamW, path: string, fields: Fields): OptimizerFields {
  fields.number(`${path}.beta1`, message.beta1, 0, 1, { most: true });
  fields.number(`${path}.beta2`, message.beta2, 0, 1, { most: true });
  fields.number(`${path}.epsilon`, message.epsilon, 0, Infinity, { least: true });
  const betas =
    message.beta1 === undefined && message.beta2 === undefined ? undefined : ([message.beta1 ?? 0.9, message.beta2 ?? 0.999] as const);
  return { ...readRates(message, path, fields), ...defined({ betas, epsilon: message.epsilon }) };
}

function readAdafactor(message: proto.Adafactor, path: string, fields: Fields): OptimizerFields {
  const { beta2Decay, epsilon1, epsilon2, clipThreshold } = message;
  fields.number(`${path}.beta2_decay`, beta2Decay, -10, 0);
  fields.number(`${path}.epsilon1`, epsilon1, 0, 1, { least: true });
  fields.number(`${path}.epsilon2`, epsilon2, 0, 1, { least: true });
  fields.number(`${path}.clip_threshold`, clipThreshold, 1, 1000);
  const epsilons = epsilon1 === undefined && epsilon2 === undefined ? undefined : ([epsilon1 ?? 2 ** -23, epsilon2 ?? 1e-3] as const);
  return { ...readRates(message, path, fields), adafactor: defined({ beta2Decay, epsilons, clipThreshold }) };
}

/** What both have. */
function readRates(message: proto.AdamW | proto.Adafactor, path: string, fields: Fields): OptimizerFields {
  const { learningRate, autoLearningRate, layerDecay, rateGroups, weightDecay, decayNorms, maxGradientNorm } = message;
  fields.number(`${path}.learning_rate`, learningRate, 0, 1, { least: true });
  fields.check(
    `${path}.learning_rate`,
    learningRate === undefined || !autoLearningRate,
    'can not be given together with auto_learning_rate',
  );
  fields.number(`${path}.weight_decay`, weightDecay, 0, 10);
  fields.number(`${path}.max_gradient_norm`, maxGradientNorm, 0, Infinity);
  fields.number(`${path}.layer_decay`, layerDecay, 0, 1, { least: true });
  rateGroups.forEach(({ pattern, multiplier }, i) => {
    fields.check(`${path}.rate_groups[${i}].pattern`, NAME_PATTERN.test(pattern), NAME_PATTERN_RULE);
    fields.number(`${path}.rate_groups[${i}].multiplier`, multiplier, 0, 1000, { least: true });
  });
  return defined({
    learningRate: autoLearningRate ? ('auto' as const) : learningRate,
    layerDecay,
    rateGroups: rateGroups.length === 0 ? undefined : rateGroups,
    weightDecay,
    decayNorms,
    maxGradientNorm,
  });
}
