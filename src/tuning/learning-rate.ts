/**
 * The peak learning rate of a stage and the factor of every parameter's own rate: pure functions of the specification, the model's
 * size and parameter names.
 *
 * `auto` follows from what is trained and from the width C (hidden size): r = 2e-5 · √(576 / C) for whole matrices, and 10 · r for what
 * LoRA trains, for a classification head, and for gains and biases where nothing else is trained. A stage that trains LoRA beside whole tensors has the peak 10 · r and
 * the factor 0.1 for the tensors. 2e-5 at C = 576 is what the fixed defaults are; the factor of 10 is the usual distance between good rates
 * of LoRA and of full tuning. Rates of Adafactor are relative to the size of a parameter, so that r = 1e-3 there whatever the width.
 */
import { invalidFields } from '../common/errors.js';
import type { DecoderConfig } from '../models/config.js';
import { CLASSIFICATION_HEAD_WEIGHT, EMBEDDING_WEIGHT, POSITION_WEIGHT } from '../models/decoder.js';
import { matchesName } from './name-pattern.js';
import type { ResolvedStage } from './specification.js';

const REFERENCE_RATE = 2e-5;
const REFERENCE_WIDTH = 576;
const ADAFACTOR_RATE = 1e-3;
const SMALL_CHANGE_FACTOR = 10;

export interface LearningRates {
  readonly peak: number;
  /** What the rate of a parameter is multiplied by. */
  readonly factor: (parameter: string) => number;
}

/**
 * `parameters` are the names of what the stage trains, with their shapes. Throws INVALID_ARGUMENT / INVALID_FIELD under `path` for a
 * rate group that matches none of them.
 */
export function learningRates(
  stage: Pick<ResolvedStage, 'learningRate' | 'layerDecay' | 'rateGroups'> & Partial<Pick<ResolvedStage, 'adafactor'>>,
  config: DecoderConfig,
  parameters: ReadonlyMap<string, readonly number[]>,
  path = 'stage',
): LearningRates {
  const names = [...parameters.keys()];
  const violations = stage.rateGroups.flatMap(({ pattern }, i) =>
    names.some((name) => matchesName(pattern, name))
      ? []
      : [{ field: `${path}.rateGroups[${i}].pattern`, description: `no parameter of this stage matches '${pattern}'` }],
  );
  if (violations.length > 0) throw invalidFields(violations);
  const auto = stage.learningRate === 'auto' ? automaticRates(stage.adafactor === undefined ? REFERENCE_RATE * Math.sqrt(REFERENCE_WIDTH / config.hiddenSize) : ADAFACTOR_RATE, parameters) : { peak: stage.learningRate, factor: () => 1 };
  const group = (name: string): number => stage.rateGroups.find(({ pattern }) => matchesName(pattern, name))?.multiplier ?? 1;
  return { peak: auto.peak, factor: (name) => auto.factor(name) * stage.layerDecay ** layersBelowTop(name, config) * group(name) };
}

function automaticRates(rate: number, parameters: ReadonlyMap<string, readonly number[]>): LearningRates {
  const fast = (name: string): boolean => name.includes('.lora_') || name === CLASSIFICATION_HEAD_WEIGHT;
  const lora = [...parameters.keys()].some((name) => name.includes('.lora_'));
  const small = lora || [...parameters].every(([name, shape]) => shape.length === 1 || fast(name));
  const factor = (name: string): number => (fast(name) && !small ? SMALL_CHANGE_FACTOR : lora && !fast(name) ? 1 / SMALL_CHANGE_FACTOR : 1);
  return { peak: small ? SMALL_CHANGE_FACTOR * rate : rate, factor };
}

/** 0 for the top layer, the final norm and a head of its own; one more for each layer below; the embedding lies below layer 0. */
function layersBelowTop(name: string, { layers }: DecoderConfig): number {
  if (name === EMBEDDING_WEIGHT || name === POSITION_WEIGHT) return layers;
  const index = /^model\.layers\.(\d+)\./.exec(name)?.[1];
  return index === undefined ? 0 : layers - 1 - Number(index);
}
