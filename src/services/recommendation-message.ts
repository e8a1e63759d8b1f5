/**
 * A recommendation as a message. Of specifications it writes what recommendations hold; read back, the message is the specification
 * (test/services/recommendation-message.test.ts), and a selection that recommendations never hold is a defect.
 */
import type { LoraSelection, Recommendation, StageSpecification, TrainableSelection, TuningSpecification } from '../tuning/index.js';
import type { RecommendTuningResponse } from '../gen/lorica/v1/recommendation.js';
import * as proto from '../gen/lorica/v1/tuning.js';
import { modelName } from './names.js';
import type { RecommendQuestion } from './ports.js';
import { EXAMPLE_KINDS } from './resources.js';
import { SAVED_ACTIVATIONS } from './tuning-specification.js';

export interface Recommended {
  readonly data: RecommendQuestion['data'];
  readonly memoryLimitBytes: number;
  readonly adapterId: string;
  /** What stages name; '' where there is none yet. */
  readonly dataset: string;
}

type Selection = NonNullable<proto.Trainable['selection']>;

export function recommendationMessage(recommendation: Recommendation, about: Recommended): RecommendTuningResponse {
  const { specification, cost, reasons, alternatives, warnings } = recommendation;
  const { rows, meanTokens, longestTokens, kind } = about.data;
  return {
    specification: specificationMessage(specification, about),
    reasons: reasons.map((reason) => ({ ...reason })),
    alternatives: alternatives.map(({ rule, preferWhen, specification: other, cost: otherCost }) => ({
      rule,
      preferWhen,
      specification: specificationMessage(other, about),
      cost: { ...otherCost },
    })),
    warnings: warnings.map((warning) => ({ ...warning })),
    cost: { ...cost },
    data: { rows, meanTokens, longestTokens, kind: EXAMPLE_KINDS[kind] },
    memoryLimitBytes: Math.floor(about.memoryLimitBytes),
  };
}

export function specificationMessage(specification: TuningSpecification, { adapterId, dataset }: Pick<Recommended, 'adapterId' | 'dataset'>): proto.TuningSpecification {
  const { baseModel, stages, seed, baseWeights, int8Products = false } = specification;
  return {
    ...proto.TuningSpecification.fromPartial({ baseModel: modelName(baseModel), adapterId, seed, int8Products }),
    stages: stages.map((stage) => stageMessage(stage, dataset)),
    baseWeights: baseWeights === undefined ? proto.BaseWeights.BASE_WEIGHTS_UNSPECIFIED : WEIGHTS[baseWeights],
  };
}

const WEIGHTS = {
  float32: proto.BaseWeights.BASE_WEIGHTS_FLOAT32,
  int8: proto.BaseWeights.BASE_WEIGHTS_INT8,
  int4: proto.BaseWeights.BASE_WEIGHTS_INT4,
} as const;

const COMPONENTS = { embeddings: proto.Component.COMPONENT_EMBEDDINGS, head: proto.Component.COMPONENT_HEAD } as const;

function stageMessage(stage: StageSpecification, dataset: string): proto.TuningStage {
  const { architecture, epochs, steps, learningRate, adafactor, savedActivations, packing = false, batchSize, accumulationSteps, maxLengthTokens } = stage;
  const rate = learningRate === 'auto' ? { autoLearningRate: true } : { learningRate };
  return proto.TuningStage.fromPartial({
    dataset,
    trainable: { selection: selectionMessage(stage.trainable) },
    ...objectiveMessage(stage.objective),
    ...(adafactor === undefined ? { optimizer: rate } : { adafactor: rate }),
    ...(epochs === undefined ? {} : { length: { $case: 'epochs', value: epochs } }),
    ...(steps === undefined ? {} : { length: { $case: 'steps', value: steps } }),
    batchSize,
    accumulationSteps,
    maxLengthTokens,
    ...(savedActivations === undefined ? {} : { savedActivations: SAVED_ACTIVATIONS[savedActivations] }),
    packing,
    ...(architecture === undefined ? {} : { architecture: { removeLeastImportant: architecture.removeLeastImportant } }),
  });
}

function objectiveMessage(objective: StageSpecification['objective']): Partial<proto.TuningStage> {
  switch (objective?.kind) {
    case 'classification':
      return { classification: proto.ClassificationObjective.fromPartial({}) };
    case 'preference':
      return { preference: proto.PreferenceObjective.fromPartial({}) };
    default:
      return { objective: { lossScope: objective?.loss === 'all' ? proto.LossScope.LOSS_SCOPE_ALL : proto.LossScope.LOSS_SCOPE_COMPLETION } };
  }
}

function selectionMessage(selection: TrainableSelection): Selection {
  switch (selection.kind) {
    case 'full':
      return { $case: 'full', value: {} };
    case 'lastLayers': {
      const { layers, includeHead = false, includeNorm = false } = selection;
      return { $case: 'lastLayers', value: { layers, includeHead, includeNorm } };
    }
    case 'components': {
      const components = selection.components.map((component) => COMPONENTS[component as keyof typeof COMPONENTS]);
      return { $case: 'components', value: proto.ComponentsSelection.fromPartial({ components }) };
    }
    case 'lora':
      return { $case: 'lora', value: loraMessage(selection) };
    default:
      throw new Error(`recommendations hold no selection of the kind ${selection.kind}`);
  }
}

function loraMessage({ rank, dropout, rsLora = false, layers = [] }: LoraSelection): proto.LoraSelection {
  return proto.LoraSelection.fromPartial({
    rank,
    dropout,
    rsLora,
    layers: layers.filter((layer) => typeof layer === 'number'),
    ranges: layers.filter((layer) => typeof layer !== 'number'),
  });
}
