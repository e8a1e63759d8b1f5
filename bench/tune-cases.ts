/** What `npm run bench -- tune` compares: our settings, the peer's, and the batch. */
import { BaseWeights, SavedActivations, type DeepPartial, type TuningSpecification, type TuningStage } from '../src/client/index.js';

/** PyTorch as it comes, with glibc's malloc thresholds raised, and in bfloat16 (with them raised). */
export type PeerKind = 'float32' | 'float32TunedMalloc' | 'bfloat16';

export interface OursSettings {
  readonly stage: DeepPartial<TuningStage>;
  readonly options?: DeepPartial<TuningSpecification>;
}

export interface TuneCase {
  readonly id: string;
  readonly title: string;
  readonly method: 'lora' | 'full';
  readonly rows: number;
  /** Tokens of a row. */
  readonly length: number;
  readonly completionShare?: number;
  readonly ours: OursSettings;
  /** Our own float32 beside it, where `ours` is an option that is compared with that. */
  readonly beside?: OursSettings;
  readonly peers: readonly PeerKind[];
}

const lora: DeepPartial<TuningStage> = { trainable: { selection: { $case: 'lora', value: { rank: 16 } } } };
const layerInputs: DeepPartial<TuningStage> = { savedActivations: SavedActivations.SAVED_ACTIVATIONS_LAYER };
const full: DeepPartial<TuningStage> = { trainable: { selection: { $case: 'full', value: {} } } };

export const TUNE_CASES: readonly TuneCase[] = [
  {
    id: 'lora', title: 'LoRA of rank 16 on all linear layers, their inputs kept', method: 'lora', rows: 4, length: 256,
    ours: { stage: lora }, peers: ['float32', 'float32TunedMalloc', 'bfloat16'],
  },
  { id: 'loraLayerInputs', title: 'the same with only layer inputs kept', method: 'lora', rows: 4, length: 256, ours: { stage: { ...lora, ...layerInputs } }, peers: ['float32'] },
  { id: 'full', title: 'full fine-tuning', method: 'full', rows: 4, length: 256, ours: { stage: full }, peers: ['float32', 'float32TunedMalloc', 'bfloat16'] },
  {
    id: 'lossOnQuarter', title: 'LoRA, loss on about a quarter of the tokens', method: 'lora', rows: 4, length: 256, completionShare: 0.25,
    ours: { stage: lora }, peers: ['float32'],
  },
  { id: 'context1024', title: 'LoRA, one row of 1,024 tokens', method: 'lora', rows: 1, length: 1024, ours: { stage: lora }, peers: ['float32'] },
  {
    id: 'int8Base', title: 'LoRA on a base held in int8, beside float32', method: 'lora', rows: 4, length: 256,
    ours: { stage: lora, options: { baseWeights: BaseWeights.BASE_WEIGHTS_INT8 } }, beside: { stage: lora }, peers: ['float32'],
  },
  {
    id: 'int4Base', title: 'LoRA on a base held in int4, only layer inputs kept, beside float32', method: 'lora', rows: 4, length: 256,
    ours: { stage: { ...lora, ...layerInputs }, options: { baseWeights: BaseWeights.BASE_WEIGHTS_INT4 } }, beside: { stage: { ...lora, ...layerInputs } }, peers: ['float32'],
  },
  {
    id: 'int8Products', title: 'LoRA with products of eight-bit integers, beside float32', method: 'lora', rows: 4, length: 256,
    ours: { stage: lora, options: { int8Products: true } }, beside: { stage: lora }, peers: ['float32', 'bfloat16'],
  },
];
