/**
 * The ways of tuning, each as the specification that a client sends. Learning rates differ by what is trained and by the base: an embedded
 * base that knows little takes larger ones. Nothing here runs anything.
 */
import { BaseWeights, Component, NeuronImportance, type DeepPartial, type Trainable, type TuningSpecification, type TuningStage } from '../../src/client/index.js';

export interface Rates {
  /** Whole matrices. */
  readonly whole: number;
  readonly lora: number;
  /** Gains and biases alone. */
  readonly small: number;
  /** Of a classification head, which starts from nothing, and LoRA beside it. */
  readonly head: number;
}

export interface MethodInput {
  readonly layers: number;
  readonly rates: Rates;
  /** Names of datasets on the server: rows of text and label, and the same as pairs. */
  readonly labels: string;
  readonly pairs: string;
  /** Name of word vectors on the server. */
  readonly words: string;
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
const half = (layers: number): number => Math.floor(layers / 2);
const auto = (): Stage => ({ optimizer: { autoLearningRate: true } });

export const METHODS: readonly Method[] = [
  one('full', 'full fine-tuning', 'whole', () => full),
  one('full-layer-decay', 'full, rate × 0.8 a layer down', 'whole', () => full, ({ rates }) => ({ optimizer: { learningRate: rates.whole, layerDecay: 0.8 } })),
  one('full-adafactor', 'full, Adafactor', 'whole', () => full, ({ rates }) => ({ optimizer: undefined, adafactor: { learningRate: 20 * rates.whole } })),
  one('full-auto', 'full, automatic rate', 'whole', () => full, auto),
  one('last-2', 'last 2 layers', 'whole', () => lastLayers(2)),
  one('last-2-norm', 'last 2 layers and the final norm', 'whole', () => lastLayers(2, { includeNorm: true })),
  one('layers', 'every second layer', 'whole', ({ layers }) => ({
    selection: { $case: 'layers', value: { indices: Array.from({ length: layers }, (_, i) => i).filter((i) => i % 2 === 1) } },
  })),
  one('freeze-range', 'lower half frozen, by range', 'whole', ({ layers }) => ({ ...full, excludeLayers: [{ first: 0, last: half(layers) - 1 }] })),
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
          { selection: { $case: 'components', value: { components: [Component.COMPONENT_ATTENTION], ranges: [{ first: half(layers), last: layers - 1 }] } } },
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
  one('lora-int8-base', 'LoRA on a base held in int8', 'lora', () => lora(), undefined, { baseWeights: BaseWeights.BASE_WEIGHTS_INT8 }),
  one('lora-int4-base', 'LoRA on a base held in int4', 'lora', () => lora(), undefined, { baseWeights: BaseWeights.BASE_WEIGHTS_INT4 }),
  one('lora-int8-products', 'LoRA, products in int8', 'lora', () => lora(), undefined, { int8Products: true }),
  one('insert-layer', 'one inserted layer, trained alone', 'whole', ({ layers }) => ({ selection: { $case: 'layers', value: { indices: [half(layers)] } } }), ({ layers, rates }) => ({
    architecture: { insert: [{ at: half(layers) }] },
    optimizer: { learningRate: 2 * rates.whole },
  })),
  one('remove-layer', 'least important layer removed, LoRA', 'lora', () => lora(), ({ rates }) => ({ architecture: { removeLeastImportant: 1 }, optimizer: { learningRate: rates.lora } })),
  one('grow-neurons', '64 neurons added a layer, feed-forward', 'whole', () => components(Component.COMPONENT_FEED_FORWARD), ({ rates }) => ({
    architecture: { growFeedForward: [{ neurons: 64 }] },
    optimizer: { learningRate: rates.whole },
  })),
  one('prune-neurons', '64 neurons removed a layer, LoRA', 'lora', () => lora(), ({ rates }) => ({
    architecture: { pruneFeedForward: [{ neurons: 64, importance: NeuronImportance.NEURON_IMPORTANCE_ACTIVATION }] },
    optimizer: { learningRate: rates.lora },
  })),
  one('dropout', 'full, dropout 0.1 everywhere', 'whole', () => full, ({ rates }) => ({
    architecture: { dropout: { attention: 0.1, residual: 0.1, embedding: 0.1 } },
    optimizer: { learningRate: rates.whole },
  })),
  one('word-vectors', 'embeddings from GloVe vectors, then full', 'whole', () => full, ({ words, rates }) => ({
    embeddings: { source: words },
    optimizer: { learningRate: rates.whole },
  })),
  one('word-vectors-frozen', 'embeddings from GloVe vectors, frozen; LoRA', 'lora', () => lora(), ({ words, rates }) => ({
    embeddings: { source: words },
    optimizer: { learningRate: rates.lora },
  })),
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
  one('classification', 'classification head, LoRA beside it', 'head', () => lora(), () => ({ classification: {}, length: { $case: 'epochs', value: 4 } })),
  {
    id: 'preference',
    title: 'preferences (DPO), LoRA',
    specification: ({ pairs, rates }) => ({ stages: [{ dataset: pairs, trainable: lora(), optimizer: { learningRate: rates.lora }, preference: {} }] }),
  },
];
