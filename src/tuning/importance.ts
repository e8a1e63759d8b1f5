/**
 * What edits of the architecture ask to know of a model on data: how much each layer turns the residual stream, and how active each
 * feed-forward neuron is. One pass forward over a sample of rows, the same for the same rows and seed. It must not change anything.
 */
import { BlockInfluence, NeuronActivity, type ArchitectureEdits, type ArchitectureMeasurements } from '../models/architecture.js';
import { feedForwardSize } from '../models/config.js';
import { labelledStream } from '../common/random-streams.js';
import { layOut, type TokenRow } from './batches.js';
import { ModelPass } from './model-pass.js';
import { shuffle } from './random.js';
import type { BaseLease } from './training-host.js';
import { WorkingModel } from './working-model.js';

/** Tokens of the sample: scores of layers and neurons hardly move beyond (the mean of a cosine over so many has a deviation of some 0.001). */
const SAMPLE_TOKENS = 16_384;

/** Layers whose neurons' activity the edits need. */
function layersOfActivity(edits: ArchitectureEdits, layers: number): ReadonlySet<number> {
  const all = Array.from({ length: layers }, (_, i) => i);
  return new Set((edits.pruneFeedForward ?? []).flatMap((pruning) => (pruning.importance === 'activation' ? (pruning.layers ?? all) : [])));
}

export interface MeasureInput {
  readonly lease: BaseLease;
  readonly edits: ArchitectureEdits;
  /** Rows to take the sample from; asked for only where something is to be measured. */
  readonly rows: () => Promise<readonly TokenRow[]>;
  readonly seed: number;
  readonly signal: AbortSignal | undefined;
}

/** Measures what `edits` need, of the base. Throws CANCELLED. */
export async function measureImportance({ lease, edits, rows, seed, signal }: MeasureInput): Promise<ArchitectureMeasurements> {
  const { config } = lease;
  const activationsOf = layersOfActivity(edits, config.layers);
  if (edits.removeLeastImportant === undefined && activationsOf.size === 0) return {};
  const sample = takeSample(await rows(), seed);
  const influence = new BlockInfluence(config.layers, config.hiddenSize);
  const activity = new NeuronActivity();
  const longest = Math.max(...sample.map((row) => layOut([row]).length));
  const pass = await ModelPass.create(lease, new WorkingModel(lease, signal).frozen(), { savedActivations: 'layer', maxLengthTokens: longest, activationsOf });
  try {
    for (const row of sample) {
      const batch = layOut([row]);
      const counted = new Uint8Array(batch.length).fill(1, 0, row.inputs.length);
      await pass.trace(batch, (layer, { input, output, activation }) => {
        influence.add(layer, input, output, counted);
        if (activation !== undefined) activity.add(layer, activation, feedForwardSize(config, layer), counted);
      }, signal);
    }
  } finally {
    pass.dispose();
  }
  return { layerImportance: influence.scores(), neuronActivity: activity.means() };
}

/** Rows in a random order, as many as the sample's tokens hold; at least one. */
function takeSample(rows: readonly TokenRow[], seed: number): TokenRow[] {
  const order = shuffle(rows.map((_, i) => i), labelledStream(seed, 'architecture/sample'));
  const sample: TokenRow[] = [];
  let tokens = 0;
  for (const row of order) {
    tokens += rows[row]!.inputs.length;
    if (sample.length > 0 && tokens > SAMPLE_TOKENS) break;
    sample.push(rows[row]!);
  }
  return sample;
}
