/**
 * Edits of a decoder's architecture before it is tuned: inserted and removed layers, grown and pruned feed-forward units, dropout.
 * All are pure functions from a config and weights by name to a new config and the tensors that are not the base's.
 * Invariant: layer indices in edits are those of the model before any of them.
 */
export { checkArchitecture, expectedConfig, planArchitecture, type ArchitecturePlan, type LayerPlan } from './architecture-plan.js';
export { editArchitecture, editedWeights, type EditedModel, type WeightsByName } from './architecture-tensors.js';
export { activationImportance, BlockInfluence, leastImportant, magnitudeImportance, NeuronActivity } from './architecture-importance.js';
export type { ArchitectureEdits, ArchitectureMeasurements, DropoutRates, FeedForwardGrowth, FeedForwardPruning, LayerInsertion } from './architecture-types.js';
