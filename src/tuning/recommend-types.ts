/**
 * What a recommendation is asked with, what rules work on, and the specification that a finished draft stands for. No rule and no number that
 * decides between methods is here.
 */
import type { ExampleKind } from '../datasets/index.js';
import type { DecoderConfig } from '../models/config.js';
import { ADAFACTOR_RATES, usualRates } from './learning-rate.js';
import type { RowFigures } from './recommend-cost.js';
import type { ObjectiveSpecification } from './objective-specification.js';
import type { StageSpecification, TrainableSelection, TuningSpecification } from './specification.js';

export type TuningTask = 'classification' | 'translation' | 'questionAnswering' | 'summarization' | 'domainAdaptation' | 'preferenceAlignment';

export interface RecommendInput {
  readonly config: DecoderConfig;
  readonly baseModel: string;
  /** The stages' data set. */
  readonly dataset: string;
  readonly task: TuningTask;
  readonly data: Pick<RowFigures, 'rows' | 'meanTokens' | 'longestTokens'> & {
    /** Whether rows are stored; else they are a plan. */
    readonly stored: boolean;
    readonly kind: ExampleKind;
    /** Rows by label, where they are known. */
    readonly labels: Readonly<Record<string, number>>;
  };
  readonly needs: {
    readonly manyAdapters: boolean;
    readonly keepGeneralAbilities: boolean;
    readonly domainVocabulary: boolean;
    readonly cheaperInference: boolean;
  };
  readonly memoryLimitBytes: number;
  readonly timeLimitSeconds: number | undefined;
  /** Threads that compute. */
  readonly threads: number;
}

/** A specification in the making. */
export interface Draft {
  readonly objective: 'languageModel' | 'classification' | 'preference';
  readonly loss: 'completion' | 'all';
  readonly method: 'lora' | 'full' | 'lastLayersThenLora';
  /** A stage before, of the classification head alone. */
  readonly headFirst: boolean;
  /** A stage before, of the embeddings alone. */
  readonly embeddingsFirst: boolean;
  readonly rank: number;
  readonly dropout: number;
  /** LoRA in so many of the highest layers; all when undefined. */
  readonly topLayers: number | undefined;
  /** Layers removed before tuning. */
  readonly removedLayers: number;
  readonly epochs: number;
  /** Optimizer steps instead of epochs. */
  readonly steps: number | undefined;
  readonly batchSize: number;
  readonly accumulationSteps: number;
  readonly maxLengthTokens: number;
  readonly savedActivations: 'linear' | 'layer';
  readonly packing: boolean;
  readonly adafactor: boolean;
  readonly baseWeights: 'float32' | 'int8' | 'int4';
  readonly int8Products: boolean;
  /** Factor of the automatic rate. */
  readonly rateFactor: number;
}

/** Rank from which the scale is divided by its root. */
const RANK_STABILIZED_FROM = 64;

/** Layers that a draft trains. */
export function layersOf(draft: Draft, config: DecoderConfig): number {
  return config.layers - draft.removedLayers;
}

/** The specification of a draft; its defaults are the tuning layer's. */
export function specificationOf(draft: Draft, { config, baseModel, dataset, data }: RecommendInput): TuningSpecification {
  const stages: StageSpecification[] = [];
  const length = draft.steps === undefined ? { epochs: draft.epochs } : { steps: draft.steps };
  const common = {
    dataset,
    batchSize: draft.batchSize,
    ...(draft.accumulationSteps === 1 ? {} : { accumulationSteps: draft.accumulationSteps }),
    maxLengthTokens: draft.maxLengthTokens,
    savedActivations: draft.savedActivations,
    ...(draft.packing ? { packing: true } : {}),
  };
  const layers = layersOf(draft, config);
  const rate = (lora: boolean, trained: number = layers): Pick<StageSpecification, 'learningRate' | 'adafactor'> => {
    const adafactor = draft.adafactor && !lora;
    const usual = adafactor ? ADAFACTOR_RATES : usualRates(config.hiddenSize, 2 * trained);
    return {
      learningRate: draft.rateFactor === 1 ? 'auto' : rounded(draft.rateFactor * (lora ? usual.small : usual.whole)),
      ...(adafactor ? { adafactor: {} } : {}),
    };
  };
  const objective: ObjectiveSpecification =
    draft.objective === 'languageModel' ? { kind: 'languageModel', loss: draft.loss } : { kind: draft.objective };
  const once = draft.steps === undefined ? { epochs: 1 } : { steps: Math.max(1, Math.floor(draft.steps / 4)) };
  if (draft.embeddingsFirst) {
    stages.push({ ...common, trainable: { kind: 'components', components: ['embeddings'] }, objective: { kind: 'languageModel', loss: 'all' }, ...rate(false), ...once });
  }
  if (draft.headFirst) stages.push({ ...common, trainable: { kind: 'components', components: ['head'] }, objective, learningRate: 'auto', ...once });
  const lora: TrainableSelection = {
    kind: 'lora',
    rank: draft.rank,
    rsLora: draft.rank >= RANK_STABILIZED_FROM,
    ...(draft.dropout > 0 ? { dropout: draft.dropout } : {}),
    ...(draft.topLayers === undefined || draft.topLayers >= layers ? {} : { layers: [{ first: layers - draft.topLayers, last: layers - 1 }] }),
  };
  if (draft.method === 'lastLayersThenLora') {
    const top = Math.max(1, Math.round(layers / 4));
    stages.push({ ...common, trainable: { kind: 'lastLayers', layers: top, includeHead: false, includeNorm: true }, objective, ...rate(false, top), ...once });
  }
  const full = draft.method === 'full';
  stages.push({ ...common, trainable: full ? { kind: 'full' } : lora, objective, ...(full ? rate(false) : rate(true, Math.min(layers, draft.topLayers ?? layers))), ...length });
  if (draft.removedLayers > 0) stages[0] = { ...stages[0]!, architecture: { removeLeastImportant: draft.removedLayers } };
  return {
    baseModel,
    stages: data.kind === 'preference' ? stages.map(({ packing: _packing, ...stage }) => stage) : stages,
    seed: 0,
    ...(draft.baseWeights === 'float32' ? {} : { baseWeights: draft.baseWeights }),
    ...(draft.int8Products ? { int8Products: true } : {}),
  };
}

/** To two significant digits. */
const rounded = (value: number): number => Number(value.toPrecision(2));
