/** Tuning: what to train, how, and the loop that does it. */
export { checkSpecification, resolveStage, type Component, type EmbeddingsSpecification, type Layers, type LoraPattern, type LoraSelection, type RateGroup, type ResolvedStage, type SavedActivations, type Schedule, type StageSpecification, type TrainableSelection, type TuningSpecification } from './specification.js';
export type { EmbeddingReport } from '../models/pretrained-embeddings.js';
export type { EvaluationMetric, EvaluationSpecification, EvaluationValues } from './evaluation-specification.js';
export type { LabelEvaluator } from './stage-evaluation.js';
export type { CheckpointEvent, EmbeddingsEvent, EvaluationEvent, StageEvaluationOutcome, StageOutcome, StepEvent, TuningResult } from './events.js';
export { CHECKPOINT_FORMAT, DEFAULT_KEPT_CHECKPOINTS, type CheckpointPolicy, type Checkpoints, type CheckpointState, type StoredCheckpoint, type TrainingCheckpoint } from './checkpoint.js';
export type { ClassificationObjective, LanguageModelObjective, ObjectiveSpecification, PreferenceObjective, ResolvedObjective } from './objective-specification.js';
export { selectTrainable, type LoraSettings, type TrainablePlan } from './selection.js';
export { BaseLease, TrainingHost, type BaseModel } from './training-host.js';
export { checkMemory, checkTuning, runTuning, trainOnTokens, type TokenTrainingInput } from './run.js';
export type { TuningInput } from './tuning-run.js';
export { estimateTuning, type EstimateInput, type StageEstimate } from './estimate.js';
export { memoryLimit, type StageMemory } from './memory-budget.js';
export type { MemoryPart } from './memory-plan.js';
export { recommendTuning, TASK_KINDS, type Recommendation } from './recommend.js';
export type { RecommendInput, TuningTask } from './recommend-types.js';
