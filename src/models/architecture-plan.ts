/**
 * From edits to a list of layers: which layer of the base each new layer is made of, and how wide it is. Every broken rule is
 * reported at once by its field's path. No weights are read here.
 */
import { invalidFields, type FieldViolation } from '../common/errors.js';
import { feedForwardSize, localLayersOf, type DecoderConfig } from './config.js';
import { leastImportant } from './architecture-importance.js';
import type { ArchitectureEdits, ArchitectureMeasurements, DropoutRates } from './architecture-types.js';

/** How a layer's feed-forward unit changes; both 0 for one that stays. */
export interface FeedForwardPlan {
  readonly added: number;
  readonly removed: number;
  readonly importance: 'magnitude' | 'activation';
}

export interface LayerPlan {
  /** Layer of the base that this one is, or is made from. */
  readonly base: number;
  readonly inserted: false | 'copy' | 'fresh';
  readonly feedForward: FeedForwardPlan;
}

export interface ArchitecturePlan {
  readonly config: DecoderConfig;
  readonly layers: readonly LayerPlan[];
  readonly dropout: Required<DropoutRates>;
}

const MAX_LAYERS = 1024;
const UNCHANGED: FeedForwardPlan = { added: 0, removed: 0, importance: 'magnitude' };

/**
 * Checks edits without measurements, before a job is queued. Returns the number of layers of the edited model. Throws
 * INVALID_ARGUMENT / INVALID_FIELD with every broken rule, paths like 'architecture.insert[0].at'.
 */
export function checkArchitecture(config: DecoderConfig, edits: ArchitectureEdits, path = 'architecture'): { readonly layers: number } {
  const rules = new Rules(config, path);
  rules.feedForward(edits);
  rules.dropout(edits.dropout);
  return { layers: rules.layers(edits, undefined) };
}

/**
 * The edited model's config as far as it is known before anything is measured: its layers and the names of its tensors. Where layers of
 * different width are removed by importance, the widths may come to lie elsewhere. Throws as `checkArchitecture`.
 */
export function expectedConfig(config: DecoderConfig, edits: ArchitectureEdits, path = 'architecture'): DecoderConfig {
  const zeros = (layer: number): readonly number[] => new Array<number>(feedForwardSize(config, layer)).fill(0);
  const layers = Array.from({ length: config.layers }, (_, i) => i);
  return planArchitecture(config, edits, { layerImportance: layers.map(() => 0), neuronActivity: new Map(layers.map((layer) => [layer, zeros(layer)])) }, path).config;
}

/** The edited model's config and layers. Throws as `checkArchitecture`, and where a measurement that the edits need is missing. */
export function planArchitecture(config: DecoderConfig, edits: ArchitectureEdits, measured: ArchitectureMeasurements = {}, path = 'architecture'): ArchitecturePlan {
  const rules = new Rules(config, path);
  const widths = rules.feedForward(edits);
  const dropout = rules.dropout(edits.dropout);
  rules.measurements(edits, measured, widths);
  rules.layers(edits, measured.layerImportance);
  const removed = new Set(edits.removeLeastImportant === undefined ? edits.remove : leastImportant(measured.layerImportance!, edits.removeLeastImportant));
  const layers: LayerPlan[] = [];
  for (let base = 0; base <= config.layers; base++) {
    for (const insertion of edits.insert ?? []) {
      if (insertion.at !== base) continue;
      const from = insertion.copyOf ?? Math.max(0, base - 1);
      const plan: LayerPlan = { base: from, inserted: insertion.initialize ?? 'copy', feedForward: widths[from] ?? UNCHANGED };
      for (let i = 0; i < (insertion.count ?? 1); i++) layers.push(plan);
    }
    if (base < config.layers && !removed.has(base)) layers.push({ base, inserted: false, feedForward: widths[base] ?? UNCHANGED });
  }
  const sizes = layers.map(({ base, feedForward }) => feedForwardSize(config, base) + feedForward.added - feedForward.removed);
  return { config: withSizes({ ...config, layers: layers.length, ...localLayersOf(config, layers.map(({ base }) => base)) }, sizes), layers, dropout };
}

/** One intermediateSize where all layers agree; else the list, with the widest as intermediateSize. */
function withSizes(config: DecoderConfig, sizes: readonly number[]): DecoderConfig {
  const { intermediateSizes: _, ...rest } = config;
  const intermediateSize = Math.max(...sizes);
  return sizes.every((size) => size === intermediateSize) ? { ...rest, intermediateSize } : { ...rest, intermediateSize, intermediateSizes: sizes };
}

class Rules {
  private readonly violations: FieldViolation[] = [];

  constructor(private readonly config: DecoderConfig, private readonly path: string) {}

  /** Checks layers, the last check: throws what all have found. Returns how many layers there will be. */
  layers(edits: ArchitectureEdits, importance: readonly number[] | undefined): number {
    const { layers } = this.config;
    let total = layers;
    (edits.insert ?? []).forEach(({ at, count = 1, copyOf, initialize }, i) => {
      const field = `insert[${i}]`;
      this.check(`${field}.at`, isIndex(at, layers + 1), `must be 0 to ${layers}, not ${at}`);
      this.check(`${field}.count`, Number.isInteger(count) && count >= 1, `must be an integer of at least 1, not ${count}`);
      if (copyOf !== undefined) this.check(`${field}.copyOf`, isIndex(copyOf, layers), `the model has layers 0 to ${layers - 1}, not ${copyOf}`);
      this.check(`${field}.initialize`, initialize === undefined || ['copy', 'fresh'].includes(initialize), `must be 'copy' or 'fresh'`);
      total += count;
    });
    this.indices('remove', edits.remove);
    const count = edits.removeLeastImportant;
    if (count !== undefined) {
      this.check('removeLeastImportant', Number.isInteger(count) && count >= 1, `must be an integer of at least 1, not ${count}`);
      this.check('removeLeastImportant', edits.remove === undefined, 'give remove or removeLeastImportant, not both');
    }
    const removed = count ?? new Set(edits.remove).size;
    this.check(count === undefined ? 'remove' : 'removeLeastImportant', removed < layers, `at least one of the ${layers} layers must stay`);
    total -= removed;
    this.check('insert', total <= MAX_LAYERS, `the model would have ${total} layers, more than ${MAX_LAYERS}`);
    if (importance !== undefined && importance.length !== layers) throw new RangeError(`${importance.length} layer scores for ${layers} layers`);
    if (this.violations.length > 0) throw invalidFields(this.violations);
    return total;
  }

  /** Width changes by layer of the base. */
  feedForward(edits: ArchitectureEdits): readonly (FeedForwardPlan | undefined)[] {
    const plans: (FeedForwardPlan | undefined)[] = Array.from({ length: this.config.layers }, () => undefined);
    const plan = (field: string, layers: readonly number[] | undefined, neurons: number, made: FeedForwardPlan): void => {
      this.check(`${field}.neurons`, Number.isInteger(neurons) && neurons >= 1, `must be an integer of at least 1, not ${neurons}`);
      if (layers?.length === 0) this.check(`${field}.layers`, false, 'names no layer');
      this.indices(`${field}.layers`, layers);
      for (const layer of layers ?? plans.keys()) {
        if (!isIndex(layer, this.config.layers)) continue;
        const size = feedForwardSize(this.config, layer);
        this.check(`${field}.layers`, plans[layer] === undefined, `layer ${layer} is grown or pruned twice`);
        this.check(`${field}.layers`, edits.remove?.includes(layer) !== true || layers === undefined, `layer ${layer} is removed`);
        this.check(`${field}.neurons`, made.removed < size, `layer ${layer} has ${size} neurons; at least one must stay`);
        plans[layer] = made;
      }
    };
    (edits.growFeedForward ?? []).forEach(({ neurons, layers }, i) => plan(`growFeedForward[${i}]`, layers, neurons, { ...UNCHANGED, added: neurons }));
    (edits.pruneFeedForward ?? []).forEach(({ neurons, layers, importance = 'magnitude' }, i) => {
      const field = `pruneFeedForward[${i}]`;
      this.check(`${field}.importance`, ['magnitude', 'activation'].includes(importance), `must be 'magnitude' or 'activation'`);
      plan(field, layers, neurons, { added: 0, removed: neurons, importance });
    });
    return plans;
  }

  dropout(rates: DropoutRates = {}): Required<DropoutRates> {
    const resolved = { attention: rates.attention ?? 0, residual: rates.residual ?? 0, embedding: rates.embedding ?? 0 };
    for (const [name, rate] of Object.entries(resolved)) this.check(`dropout.${name}`, rate >= 0 && rate < 1, `must be at least 0 and below 1, not ${rate}`);
    return resolved;
  }

  measurements(edits: ArchitectureEdits, measured: ArchitectureMeasurements, widths: readonly (FeedForwardPlan | undefined)[]): void {
    if (edits.removeLeastImportant !== undefined) {
      this.check('removeLeastImportant', measured.layerImportance?.every(Number.isFinite) === true, 'the importance of the layers has not been measured');
    }
    const missing = widths.findIndex((plan, layer) => plan?.importance === 'activation' && measured.neuronActivity?.get(layer)?.length !== feedForwardSize(this.config, layer));
    this.check('pruneFeedForward', missing < 0, `the activity of layer ${missing}'s neurons has not been measured`);
  }

  private indices(field: string, indices: readonly number[] | undefined): void {
    (indices ?? []).forEach((index, i) => {
      this.check(`${field}[${i}]`, isIndex(index, this.config.layers), `the model has layers 0 to ${this.config.layers - 1}, not ${index}`);
      this.check(`${field}[${i}]`, indices!.indexOf(index) === i, `layer ${index} is named twice`);
    });
  }

  private check(field: string, holds: boolean, description: string): void {
    if (!holds) this.violations.push({ field: `${this.path}.${field}`, description });
  }
}

function isIndex(value: number, below: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < below;
}
