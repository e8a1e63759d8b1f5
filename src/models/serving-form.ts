/**
 * The serving form of a decoder: fused operators over a KV cache in contiguous slots, quantized or float32 weights as external
 * initializers, adapters as inputs. What a layer computes is decoder.ts's; a test holds this form equal to the training form.
 * B rows, T tokens, S slot length (contextTokens), H heads, KV key/value heads, D head dimension, V vocabulary, R rank.
 */
import { LoricaError } from '../common/errors.js';
import { Graph, ops, serialize, subtractDims, type Value } from '../onnx/index.js';
import { attentionKind, familyOf, rotaryWidth, type DecoderConfig } from './config.js';
import { decoderLayer, FINAL_NORM, layerPrefix, POSITION_WEIGHT, type DecoderLowering } from './decoder.js';
import { QUANTIZATION_BLOCK } from './quantize.js';
import { linearFormat } from './serving-formats.js';
import { withLora, type AdapterForm } from './serving-form-lora.js';
import {
  embeddingIsQuantized, embeddingTensors, headLinear, linearTensors, mergedLinears, NOTHING_STORED, ropeNames, type MergedLinear, type ServingForm,
  type StoredFormats,
} from './serving-form-weights.js';

export interface ServingGraphOptions {
  readonly config: DecoderConfig;
  readonly form: ServingForm;
  /** Layers whose integers are the checkpoint's own; none by default. */
  readonly stored?: StoredFormats;
  /** Products of quantized layers: 4, the default, rounds x to 8 bits per block and multiplies integers; 1 computes in float32. */
  readonly accuracyLevel?: 1 | 4;
  readonly adapters: AdapterForm;
  /** S: length of a slot and of the rotary tables. */
  readonly contextTokens: number;
}

/** MODEL_UNSUPPORTED when the fused attention cannot compute this model. */
export function checkServable(config: DecoderConfig): void {
  const refused = (what: string): LoricaError => new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${what} are not a multiple of 16, which serving needs`);
  if (config.headDim % 16 !== 0) throw refused(`heads of ${config.headDim}`);
  if (rotaryWidth(config) % 16 !== 0) throw refused(`${rotaryWidth(config)} rotated dimensions of a head`);
}

/** Graph input and output names of a layer's cache [B,KV,S,D]; bind both to one tensor. */
export const cacheNames = (layer: number): { pastKey: string; pastValue: string; presentKey: string; presentValue: string } => ({
  pastKey: `past.${layer}.key`, pastValue: `past.${layer}.value`, presentKey: `present.${layer}.key`, presentValue: `present.${layer}.value`,
});

/** The residual stream with an addition that the next norm performs: SkipSimplifiedLayerNormalization adds and normalizes in one pass. */
interface Stream {
  sum: Value;
  pending: Value | undefined;
}

interface Positions {
  /** int32 [B]: a row's length after this call, minus one. */
  readonly lastIndex: Value;
  /** int32 []: the longest row's length after this call. */
  readonly longest: Value;
}

/** One norm of the family's kind over the last dimension, named without '.weight'; the gain is as the weight group made it. */
function normalize(graph: Graph, config: DecoderConfig, x: Value, name: string): Value {
  const width = x.shape.at(-1) as number;
  const gain = graph.weight(`${name}.weight`, 'float32', [width]);
  const epsilon = { epsilon: config.rmsNormEpsilon };
  if (familyOf(config).norm === 'layer') return ops.layerNorm(x, gain, graph.weight(`${name}.bias`, 'float32', [width]), epsilon).y;
  return ops.simplifiedLayerNorm(x, gain, epsilon).y;
}

/** Norm of stream + pending, and their sum. */
function normalizeSum(graph: Graph, config: DecoderConfig, stream: Value, pending: Value, name: string): { y: Value; sum: Value } {
  if (familyOf(config).norm === 'layer') {
    const sum = ops.add(stream, pending);
    return { y: normalize(graph, config, sum, name), sum };
  }
  return ops.skipSimplifiedLayerNorm(stream, pending, graph.weight(`${name}.weight`, 'float32', [config.hiddenSize]), { epsilon: config.rmsNormEpsilon });
}

class ServingLowering implements DecoderLowering<Stream, Value> {
  readonly #linears: ReturnType<typeof mergedLinears>;

  constructor(
    private readonly graph: Graph, private readonly options: ServingGraphOptions, private readonly layer: number,
    private readonly positions: Positions, private readonly cached: boolean,
  ) {
    this.#linears = mergedLinears(options.config, layer);
  }

  read(stream: Stream): Value {
    if (stream.pending !== undefined) stream.sum = ops.add(stream.sum, stream.pending);
    stream.pending = undefined;
    return stream.sum;
  }

  norm(stream: Stream, name: string): Value {
    const { graph, options: { config } } = this;
    if (stream.pending === undefined) return normalize(graph, config, stream.sum, name);
    const { y, sum } = normalizeSum(graph, config, stream.sum, stream.pending, name);
    stream.sum = sum;
    stream.pending = undefined;
    return y;
  }

  normOutput(x: Value, name: string): Value {
    return normalize(this.graph, this.options.config, x, name);
  }

  project(x: Value, modules: readonly string[]): readonly Value[] {
    const linear = Object.values(this.#linears).find((candidate) => candidate.modules[0] === modules[0]);
    if (linear?.modules.length !== modules.length) throw new Error(`the serving form does not merge ${modules.join(', ')}`);
    return [withLora(this.graph, this.options.adapters, linear, x, linearLayer(this.graph, linear, this.options, x))];
  }

  normQueryKey([qkv]: readonly Value[], names: readonly [string, string], over: 'head' | 'projection'): readonly Value[] {
    const { graph, options: { config } } = this;
    const [q, k, v] = ops.split(qkv!, this.#linears.qkv.outputs, -1) as [Value, Value, Value];
    const normed = (x: Value, name: string): Value => {
      if (over === 'projection') return normalize(graph, config, x, name);
      const heads = ops.reshape(x, [...x.shape.slice(0, -1), (x.shape.at(-1) as number) / config.headDim, config.headDim]);
      return ops.reshape(normalize(graph, config, heads, name), x.shape);
    };
    return [normed(q, names[0]), normed(k, names[1]), v];
  }

  attention(values: readonly Value[]): Value {
    const { graph, layer, options: { config, contextTokens } } = this;
    const names = cacheNames(layer);
    const shape = ['B', config.kvHeads, contextTokens, config.headDim];
    const past = this.cached
      ? { pastKey: graph.input(names.pastKey, 'float32', shape), pastValue: graph.input(names.pastValue, 'float32', shape) }
      : {};
    const [first, key, value] = values as readonly [Value, Value?, Value?];
    const { windowTokens } = attentionKind(config, layer);
    const { y, presentKey, presentValue } = ops.groupQueryAttention(
      {
        ...(key === undefined || value === undefined ? { qkv: first } : { query: first, key, value }),
        ...past, seqlensK: this.positions.lastIndex, totalSequenceLength: this.positions.longest, ...this.#rope(),
      },
      {
        numHeads: config.heads, kvNumHeads: config.kvHeads,
        ...(windowTokens === undefined ? {} : { localWindowSize: windowTokens }),
        ...(config.attentionScale === undefined ? {} : { scale: config.attentionScale }),
        ...(config.attentionSoftcap === undefined ? {} : { softcap: config.attentionSoftcap }),
      },
    );
    if (this.cached) {
      graph.output(presentKey, names.presentKey);
      graph.output(presentValue, names.presentValue);
    }
    return y;
  }

  feedForwardUnit([wide]: readonly Value[]): Value {
    const activation = (x: Value): Value => (this.options.config.activation === 'geluTanh' ? ops.gelu(x, 'tanh') : ops.quickGelu(x, 1));
    if (this.#linears.gateUp.modules.length === 1) return activation(wide!);
    const [gate, up] = ops.split(wide!, 2, -1);
    return ops.mul(activation(gate!), up!);
  }

  scale(x: Value, factor: number): Value {
    return ops.mul(x, factor);
  }

  residual(stream: Stream, delta: Value): Stream {
    return { sum: this.read(stream), pending: delta };
  }

  #rope(): { cos: Value; sin: Value } | undefined {
    const { graph, layer, options: { config, contextTokens } } = this;
    if (rotaryWidth(config) === 0) return undefined;
    const names = ropeNames(attentionKind(config, layer));
    const shape = [contextTokens, rotaryWidth(config) / 2];
    const table = (name: string): Value => (graph.has(name) ? graph.value(name) : graph.weight(name, 'float32', shape));
    return { cos: table(names.cos), sin: table(names.sin) };
  }
}

type LayerOptions = Pick<ServingGraphOptions, 'form' | 'stored' | 'accuracyLevel'>;

/** x [...,K] · Wᵀ + bias. */
function linearLayer(graph: Graph, linear: MergedLinear, { form, stored = NOTHING_STORED, accuracyLevel = 4 }: LayerOptions, x: Value): Value {
  const format = linearFormat(linear, form, stored);
  const [weight, scales, zeroPoints] = linearTensors({ ...linear, bias: false }, format).map((tensor) => graph.weight(tensor.name, tensor.dtype, tensor.shape));
  const N = linear.outputs.reduce((sum, outputs) => sum + outputs, 0);
  const y = format === 'float32'
    ? ops.fusedMatMul(x, weight!, { transB: true })
    : ops.matMulNBits(x, weight!, scales!, zeroPoints ?? null, { K: linear.inputs, N, bits: format.bits, blockSize: format.blockSize, accuracyLevel });
  return linear.bias ? ops.add(y, graph.weight(`${linear.name}.bias`, 'float32', [N])) : y;
}

/** Embeddings as they enter the stream, [B,T,C], with learned positions where the family has them. */
function embed(graph: Graph, { config, form }: ServingGraphOptions, tokens: Value, positions: Positions, cached: boolean): Value {
  const [table, scales] = embeddingTensors(config, form).map((tensor) => graph.weight(tensor.name, tensor.dtype, tensor.shape));
  const rows = embeddingIsQuantized(config, form)
    ? ops.gatherBlockQuantized(table!, tokens, scales!, null, { bits: 8, blockSize: QUANTIZATION_BLOCK })
    : ops.gather(table!, tokens);
  const scaled = config.embeddingMultiplier === undefined ? rows : ops.mul(rows, config.embeddingMultiplier);
  if (familyOf(config).positions !== 'learned') return scaled;
  const vectors = graph.weight(POSITION_WEIGHT, 'float32', [config.maxPositionTokens, config.hiddenSize]);
  return ops.add(scaled, ops.gather(vectors, cached ? lastPositions(graph, tokens, positions) : ops.range(graph, 0, 'T')));
}

/** int64 [B,T]: positions of tokens that end at a row's last index. Rows of several tokens come one at a time. */
function lastPositions(graph: Graph, tokens: Value, { lastIndex }: Positions): Value {
  const last = ops.unsqueeze(ops.cast(lastIndex, 'int64'), [1]);
  const length = tokens.shape[1]!;
  return length === 1 ? last : ops.add(last, ops.range(graph, subtractDims(1, length), 1));
}

/** Embedding and all layers; tokens int64 [B,T]. The stream is left as it is before the final norm. */
function body(graph: Graph, options: ServingGraphOptions, tokens: Value, cached: boolean): Stream {
  const { config } = options;
  const positions: Positions = { lastIndex: graph.input('last_index', 'int32', ['B']), longest: graph.input('longest', 'int32', []) };
  let stream: Stream = { sum: embed(graph, options, tokens, positions, cached), pending: undefined };
  for (let layer = 0; layer < config.layers; layer++) {
    stream = decoderLayer(new ServingLowering(graph, options, layer, positions, cached), config, layerPrefix(layer), stream);
  }
  return stream;
}

/** Final norm of the stream's rows [N,C] named by `rows` (int64, into [B·T]), or of all of them; only they reach the head. */
function finalNorm(graph: Graph, { config }: ServingGraphOptions, stream: Stream, rows: Value | undefined): Value {
  const pick = (value: Value): Value => {
    const flat = ops.reshape(value, [-1, config.hiddenSize]);
    return rows === undefined ? flat : ops.gather(flat, rows);
  };
  const sum = pick(stream.sum);
  return stream.pending === undefined ? normalize(graph, config, sum, FINAL_NORM) : normalizeSum(graph, config, sum, pick(stream.pending), FINAL_NORM).y;
}

/** Hidden [N,C], normalized → logits [N,V]. */
function logits(graph: Graph, options: LayerOptions & Pick<ServingGraphOptions, 'config'>, hidden: Value): Value {
  const { config } = options;
  const z = linearLayer(graph, headLinear(config), options, hidden);
  const divided = config.logitDivisor === undefined ? z : ops.div(z, config.logitDivisor);
  return config.logitSoftcap === undefined ? divided : ops.mul(ops.tanh(ops.div(divided, config.logitSoftcap)), config.logitSoftcap);
}

/** One token a row: tokens int64 [B,1], last_index, longest, the cache → logits [B,V]. */
function decodeGraph(options: ServingGraphOptions): Graph {
  const graph = new Graph(`decode.${options.adapters}`);
  const stream = body(graph, options, graph.input('tokens', 'int64', ['B', 1]), true);
  graph.output(logits(graph, options, finalNorm(graph, options, stream, undefined)), 'logits');
  return graph;
}

/**
 * A piece of one row's text on top of what its slot holds: tokens int64 [1,T], the cache bound to views of the slot; rows int64 [N]
 * says which tokens' hidden states [N,C], normalized for the head, are wanted. GroupQueryAttention takes several tokens on a past
 * for one row only.
 */
function chunkGraph(options: ServingGraphOptions): Graph {
  return hiddenGraph('chunk', options, true);
}

/** Whole right-padded rows from an empty past: tokens int64 [B,T], rows int64 [N] into [B·T] → hidden [N,C]. Padding is after a row's end. */
function batchGraph(options: ServingGraphOptions): Graph {
  return hiddenGraph('batch', options, false);
}

function hiddenGraph(name: string, options: ServingGraphOptions, cached: boolean): Graph {
  if (options.adapters === 'rows') throw new Error('several tokens a row take one adapter for all rows');
  const graph = new Graph(`${name}.${options.adapters}`);
  const stream = body(graph, options, graph.input('tokens', 'int64', ['B', 'T']), cached);
  graph.output(finalNorm(graph, options, stream, graph.input('rows', 'int64', ['N'])), 'hidden');
  return graph;
}

/** The head: hidden [N,C] → logits [N,V]. */
function headGraph(options: LayerOptions & Pick<ServingGraphOptions, 'config'>): Graph {
  const graph = new Graph('head');
  const hidden = graph.input('hidden', 'float32', ['N', options.config.hiddenSize]);
  graph.output(logits(graph, options, hidden), 'logits');
  return graph;
}

/** The head for scoring: hidden [N,C], candidates int64 [N,L] → log_probabilities [N,L], normalized over the vocabulary. */
function scoreGraph(options: LayerOptions & Pick<ServingGraphOptions, 'config'>): Graph {
  const graph = new Graph('score');
  const hidden = graph.input('hidden', 'float32', ['N', options.config.hiddenSize]);
  const candidates = graph.input('candidates', 'int64', ['N', 'L']);
  graph.output(ops.gatherElements(ops.logSoftmax(logits(graph, options, hidden), -1), candidates, 1), 'log_probabilities');
  return graph;
}

/** A classification head: hidden [N,C], weight [K,C] → log_probabilities [N,K]. In float32 whatever the form: it is small. */
function classifyGraph({ config }: Pick<ServingGraphOptions, 'config'>): Graph {
  const graph = new Graph('classify');
  const hidden = graph.input('hidden', 'float32', ['N', config.hiddenSize]);
  const weight = graph.input('weight', 'float32', ['K', config.hiddenSize]);
  graph.output(ops.logSoftmax(ops.fusedMatMul(hidden, weight, { transB: true }), -1), 'log_probabilities');
  return graph;
}

export type SharedForm = Exclude<AdapterForm, 'rows'>;
export type ServingSessionKind = `decode.${AdapterForm}` | `chunk.${SharedForm}` | `batch.${SharedForm}` | 'head' | 'score' | 'classify';

/** A graph of the serving form as ONNX, and the names of the initializers that it must be given. */
export function servingModel(kind: ServingSessionKind, options: Omit<ServingGraphOptions, 'adapters'>): { model: Uint8Array; weights: readonly string[] } {
  const graph = servingGraph(kind, options);
  return { model: serialize(graph), weights: graph.weights.map((weight) => weight.name) };
}

export function servingGraph(kind: ServingSessionKind, options: Omit<ServingGraphOptions, 'adapters'>): Graph {
  if (kind === 'head') return headGraph(options);
  if (kind === 'score') return scoreGraph(options);
  if (kind === 'classify') return classifyGraph(options);
  const [step, adapters] = kind.split('.') as ['decode' | 'chunk' | 'batch', AdapterForm];
  return { decode: decodeGraph, chunk: chunkGraph, batch: batchGraph }[step]({ ...options, adapters });
}
