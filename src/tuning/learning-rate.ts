/**
 * The peak learning rate of a stage and the factor of every parameter's own rate: pure functions of the specification, the model's shape,
 * parameter names, and how long the stage trains.
 *
 * `auto` with AdamW is r = 2e-5 · max(1, 576 / C) · (60 / n) for whole matrices, C the hidden size and n the trained residual branches: every decoder layer
 * adds two to the stream, attention and feed-forward, and what one step moves adds over them. What LoRA trains, a classification head, and
 * gains and biases where nothing else is trained have 2e-4 · (60 / n), ten times as much from C = 576 on: LoRA's products sum over its rank, not over C.
 * No rate is above 1e-2. A stage that sees its rows more than twice, in more than 40 steps, is trained at max(2 / epochs, 40 / steps) of that.
 * A stage with both has LoRA's peak and a factor for whole tensors. Measurements: docs/learning-rates.md. Rates of Adafactor are
 * relative to the size of a parameter: 1e-3 and 1e-2, whatever the model.
 */
import { invalidFields } from '../common/errors.js';
import type { DecoderConfig } from '../models/config.js';
import { CLASSIFICATION_HEAD_WEIGHT, EMBEDDING_WEIGHT, POSITION_WEIGHT } from '../models/decoder.js';
import { matchesName } from './name-pattern.js';
import type { ResolvedStage } from './specification.js';

const [WHOLE_RATE, SMALL_RATE, MOST_RATE] = [2e-5, 2e-4, 1e-2];
const [REFERENCE_WIDTH, REFERENCE_BRANCHES, BRANCHES_PER_LAYER] = [576, 60, 2];
/** Passes over the rows, and steps, up to which a stage is trained at the whole rate. */
const [FULL_RATE_EPOCHS, FULL_RATE_STEPS] = [2, 40];

export interface LearningRates {
  readonly peak: number;
  /** What the rate of a parameter is multiplied by. */
  readonly factor: (parameter: string) => number;
}

/** How long a stage trains: passes over its rows, and optimizer steps. */
export interface StageDuration {
  readonly epochs: number;
  readonly steps: number;
}

export interface UsualRates {
  /** Of whole matrices. */
  readonly whole: number;
  /** Of LoRA, a classification head, and gains and biases alone. */
  readonly small: number;
}

/** The automatic rates of Adafactor, relative to the size of a parameter. */
export const ADAFACTOR_RATES: UsualRates = { whole: 1e-3, small: 1e-2 };

/** The automatic rates of AdamW where `branches` residual branches are trained, two for each whole layer. */
export function usualRates(hiddenSize: number, branches: number): UsualRates {
  const share = REFERENCE_BRANCHES / branches;
  return {
    whole: Math.min(MOST_RATE, WHOLE_RATE * Math.max(1, REFERENCE_WIDTH / hiddenSize) * share),
    small: Math.min(MOST_RATE, SMALL_RATE * share),
  };
}

/**
 * `parameters` are the names of what the stage trains, with their shapes. Without a duration `auto` is that of a short stage. Throws
 * INVALID_ARGUMENT / INVALID_FIELD under `path` for a rate group that matches none of them.
 */
export function learningRates(
  stage: Pick<ResolvedStage, 'learningRate' | 'layerDecay' | 'rateGroups'> & Partial<Pick<ResolvedStage, 'adafactor'>>,
  config: DecoderConfig,
  parameters: ReadonlyMap<string, readonly number[]>,
  { path = 'stage', duration }: { readonly path?: string; readonly duration?: StageDuration } = {},
): LearningRates {
  const names = [...parameters.keys()];
  const violations = stage.rateGroups.flatMap(({ pattern }, i) =>
    names.some((name) => matchesName(pattern, name))
      ? []
      : [{ field: `${path}.rateGroups[${i}].pattern`, description: `no parameter of this stage matches '${pattern}'` }],
  );
  if (violations.length > 0) throw invalidFields(violations);
  const auto = stage.learningRate === 'auto' ? automaticRates(stage.adafactor !== undefined, config, parameters, duration) : { peak: stage.learningRate, factor: () => 1 };
  const group = (name: string): number => stage.rateGroups.find(({ pattern }) => matchesName(pattern, name))?.multiplier ?? 1;
  return { peak: auto.peak, factor: (name) => auto.factor(name) * stage.layerDecay ** layersBelowTop(name, config) * group(name) };
}

function automaticRates(adafactor: boolean, config: DecoderConfig, parameters: ReadonlyMap<string, readonly number[]>, duration: StageDuration | undefined): LearningRates {
  const { whole, small } = adafactor ? ADAFACTOR_RATES : usualRates(config.hiddenSize, trainedBranches(parameters, config));
  const isSmall = (name: string): boolean => name.includes('.lora_') || name === CLASSIFICATION_HEAD_WEIGHT;
  const lora = [...parameters.keys()].some((name) => name.includes('.lora_'));
  const smallAlone = !lora && [...parameters].every(([name, shape]) => shape.length === 1 || isSmall(name));
  const share = adafactor || duration === undefined ? 1 : shareOfLongStage(duration);
  if (smallAlone) return { peak: share * small, factor: () => 1 };
  const peak = lora ? small : whole;
  return { peak: share * peak, factor: (name) => (isSmall(name) ? small : whole) / peak };
}

/** Distinct attention and feed-forward branches that something is trained in; those of all layers where nothing is, as with the embeddings alone. */
function trainedBranches(parameters: ReadonlyMap<string, readonly number[]>, { layers }: DecoderConfig): number {
  const branches = new Set([...parameters.keys()].flatMap((name) => /^model\.layers\.\d+\.(?:self_attn|mlp)\./.exec(name)?.[0] ?? []));
  return branches.size === 0 ? BRANCHES_PER_LAYER * layers : branches.size;
}

/** Rows seen again and again are learnt by heart the sooner, the higher the rate; few steps need the whole of it to get anywhere. */
function shareOfLongStage({ epochs, steps }: StageDuration): number {
  return Math.min(1, Math.max(FULL_RATE_EPOCHS / epochs, FULL_RATE_STEPS / steps));
}

/** 0 for the top layer, the final norm and a head of its own; one more for each layer below; the embedding lies below layer 0. */
function layersBelowTop(name: string, { layers }: DecoderConfig): number {
  if (name === EMBEDDING_WEIGHT || name === POSITION_WEIGHT) return layers;
  const index = /^model\.layers\.(\d+)\./.exec(name)?.[1];
  return index === undefined ? 0 : layers - 1 - Number(index);
}
