/**
 * The ways of tuning, each as the specification that a client sends. Learning rates differ by what is trained and by the base: an embedded
 * base that knows little takes larger ones. Nothing here runs anything.
 */
import { Component, type DeepPartial, type Trainable, type TuningSpecification, type TuningStage } from '../../src/client/index.js';

export interface Rates {
  /** Whole matrices. */
  readonly whole: number;
  readonly lora: number;
  /** Gains and biases alone. */
  readonly small: number;
}

export interface MethodInput {
  readonly layers: number;
  readonly rates: Rates;
  /** Names of datasets on the server: rows of text and label, and the same as pairs. */
  readonly labels: string;
  readonly pairs: string;
}

export interface Method {
  readonly id: string;
  readonly title: string;
  readonly specification: (input: MethodInput) => DeepPartial<TuningSpecification>;
}

type Stage = DeepPartial<TuningStage>;
type Selection = NonNullable<DeepPartial<Trainable>['selection']>;
type Lora = Extract<Selection, { $case: 'lora' }>['value'];

/** One stage on the labels; `more` goes into the stage, `whole` into the specification. */
function one(
  id: string,
  title: string,
  rate: keyof Rates,
  trainable: (input: MethodInput) => DeepPartial<Trainable>,
  more: (input: MethodInput) => Stage = () => ({}),
  whole: DeepPartial<TuningSpecification> = {},
): Method {
  const specification = (input: MethodInput): DeepPartial<TuningSpecification> => {
    const base: Stage = { dataset: input.labels, trainable: trainable(input), optimizer: { learningRate: input.rates[rate] } };
    return { ...whole, stages: [{ ...base, ...more(input) }] };
  };
  return { id, title, specification };
}

const full: DeepPartial<Trainable> = { selection: { $case: 'full', value: {} } };
const components = (...list: Component[]): DeepPartial<Trainable> => ({ selection: { $case: 'components', value: { components: list } } });
const lora = (value: Lora = {}): DeepPartial<Trainable> => ({ selection: { $case: 'lora', value } });
const lastLayers = (layers: number, more: { includeHead?: boolean; includeNorm?: boolean } = {}): DeepPartial<Trainable> => ({
  selection: { $case: 'lastLayers', value: { layers, ...more } },
});
const names = (...patterns: string[]): DeepPartial<Trainable> => ({ selection: { $case: 'names', value: { patterns } } });
const auto = (): Stage => ({ optimizer: { autoLearningRate: true } });

export const METHODS: readonly Method[] = [
  one('full', 'full fine-tuning', 'whole', () => full),
  one('full-layer-decay', 'full, rate × 0.8 a layer down', 'whole', () => full, ({ rates }) => ({ optimizer: { learningRate: rates.whole, layerDecay: 0.8 } })),
  one('full-auto', 'full, automatic rate', 'whole', () => full, auto),
  one('last-2', 'last 2 layers', 'whole', () => lastLayers(2)),
  one('last-2-norm', 'last 2 layers and the final norm', 'whole', () => lastLayers(2, { includeNorm: true })),
  one('layers', 'every second layer', 'whole', ({ layers }) => ({
    selection: { $case: 'layers', value: { indices: Array.from({ length: layers }, (_, i) => i).filter((i) => i % 2 === 1) } },
  })),
  one('freeze-range', 'lower half frozen, by range', 'whole', ({ layers }) => ({ ...full, excludeLayers: [{ first: 0, last: Math.floor(layers / 2) - 1 }] })),
  one('freeze-names', 'embeddings and norms frozen, by name', 'whole', () => ({ ...full, exclude: ['*embed_tokens*', '*norm*'] })),
  one('attention', 'attention only', 'whole', () => components(Component.COMPONENT_ATTENTION)),
  one('feed-forward', 'feed-forward only', 'whole', () => components(Component.COMPONENT_FEED_FORWARD)),
  one('embeddings', 'embeddings only', 'whole', () => components(Component.COMPONENT_EMBEDDINGS)),
  one('norms', 'norms only', 'small', () => components(Component.COMPONENT_NORMS)),
  one('names', 'down projections, by name', 'whole', () => names('*.mlp.down_proj.weight')),
  one('union', 'norms and the upper half of attention', 'whole', ({ layers }) => ({
    selection: {
      $case: 'union',
      value: {
        selections: [
          components(Component.COMPONENT_NORMS),
          { selection: { $case: 'components', value: { components: [Component.COMPONENT_ATTENTION], ranges: [{ first: Math.floor(layers / 2), last: layers - 1 }] } } },
        ],
      },
    },
  })),
  one('lora', 'LoRA, rank 16', 'lora', () => lora()),
  one('lora-attention', 'LoRA on q and v, rank 8', 'lora', () => lora({ rank: 8, targetModules: ['q_proj', 'v_proj'] })),
  one('lora-dropout', 'LoRA with dropout 0.1', 'lora', () => lora({ dropout: 0.1 })),
  one('lora-patterns', 'LoRA, rank 4, down projections 32', 'lora', () => lora({ rank: 4, modulePatterns: [{ pattern: 'down_proj', rank: 32, alpha: 64 }] })),
  one('rslora', 'rsLoRA, rank 32', 'lora', () => lora({ rank: 32, alpha: 32, rsLora: true })),
  one('dora', 'DoRA, rank 16', 'lora', () => lora({ dora: true })),
  one('lora-auto', 'LoRA, automatic rate', 'lora', () => lora(), auto),
  one('lora-packing', 'LoRA, rows packed', 'lora', () => lora(), ({ rates }) => ({ packing: true, optimizer: { learningRate: rates.lora } })),
  {
    id: 'staged',
    title: 'stages: last 2 layers, then attention',
    specification: ({ labels, rates }) => ({
      stages: [
        { dataset: labels, trainable: lastLayers(2), optimizer: { learningRate: rates.whole } },
        { dataset: labels, trainable: components(Component.COMPONENT_ATTENTION), optimizer: { learningRate: rates.whole / 2 } },
      ],
    }),
  },
  one('classification', 'classification head, LoRA beside it', 'lora', () => lora(), () => ({ classification: {} })),
  {
    id: 'preference',
    title: 'preferences (DPO), LoRA',
    specification: ({ pairs, rates }) => ({ stages: [{ dataset: pairs, trainable: lora(), optimizer: { learningRate: rates.lora }, preference: {} }] }),
  },
];
