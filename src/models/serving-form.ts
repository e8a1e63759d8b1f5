/**
 * The serving form of a decoder: fused operators over a KV cache in contiguous slots, quantized or float32 weights as external
 * initializers, adapters as inputs. What a layer computes is decoder.ts's; a test holds this form equal to the training form.
 * B rows, T tokens, S slot length (contextTokens), H heads, KV key/value heads, D head dimension, V vocabulary, R rank.
 */
import { LoricaError } from '../common/errors.js';
import { Graph, ops, serialize, type Value } from '../onnx/index.js';
import type { DecoderConfig } from './config.js';
import { decoderLayer, FINAL_NORM_WEIGHT, layerPrefix, type DecoderLowering } from './decoder.js';
import { QUANTIZATION_BLOCK } from './quantize.js';
import { linearFormat } from './serving-formats.js';
import { withLora, type AdapterForm } from './serving-form-lora.js';
import {
  embeddingIsQuantized, embeddingTensors, headLinear, linearTensors, mergedLinears, NOTHING_STORED, ROPE_COS, ROPE_SIN, type MergedLinear, type ServingForm,
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
  if (config.headDim % 16 === 0) return;
  throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `heads of ${config.headDim} are not a multiple of 16, which serving needs`);
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

class ServingLowering implements DecoderLowering<Stream, Value> {
  readonly #linears: ReturnType<typeof mergedLinears>;

  constructor(
    private readonly graph: Graph, private readonly options: ServingGraphOptions, private readonly layer: number,
    private readonly positions: Positions, private readonly cached: boolean, private readonly rope: { cos: Value; sin: Value },
  ) {
    this.#linears = mergedLinears(options.config, layer);
  }

  norm(stream: Stream, weight: string): Value {
    const { graph, options: { config } } = this;
    const gain = graph.weight(weight, 'float32', [config.hiddenSize]);
    const epsilon = { epsilon: config.rmsNormEpsilon };
    if (stream.pending === undefined) return ops.simplifiedLayerNorm(stream.sum, gain, epsilon).y;
    const { y, sum } = ops.skipSimplifiedLayerNorm(stream.sum, stream.pending, gain, epsilon);
    stream.sum = sum;
    stream.pending = undefined;
    return y;
  }

  project(x: Value, modules: readonly string[]): readonly Value[] {
    const linear = Object.values(this.#linears).find((candidate) => candidate.modules[0] === modules[0]);
    if (linear?.modules.length !== modules.length) throw new Error(`the serving form does not merge ${modules.join(', ')}`);
    return [withLora(this.graph, this.options.adapters, linear, x, linearLayer(this.graph, linear, this.options, x))];
  }

  attention([qkv]: readonly Value[]): Value {
    const { graph, layer, options: { config, contextTokens } } = this;
    const names = cacheNames(layer);
    const shape = ['B', config.kvHeads, contextTokens, config.headDim];
    const past = this.cached
      ? { pastKey: graph.input(names.pastKey, 'float32', shape), pastValue: graph.input(names.pastValue, 'float32', shape) }
      : {};
    const { y, presentKey, presentValue } = ops.groupQueryAttention(
      { qkv: qkv!, ...past, seqlensK: this.positions.lastIndex, totalSequenceLength: this.positions.longest, ...this.rope },
      {
        numHeads: config.heads, kvNumHeads: config.kvHeads,
        ...(config.slidingWindowTokens === undefined ? {} : { localWindowSize: config.slidingWindowTokens }),
      },
    );
    if (this.cached) {
      graph.output(presentKey, names.presentKey);
      graph.output(presentValue, names.presentValue);
    }
    return y;
  }

  gatedUnit([gateUp]: readonly Value[]): Value {
    const [gate, up] = ops.split(gateUp!, 2, -1);
    return ops.mul(ops.quickGelu(gate!, 1), up!);
  }

  residual(stream: Stream, delta: Value): Stream {
    if (stream.pending !== undefined) throw new Error('two additions to the residual stream without a norm between them');
    return { sum: stream.sum, pending: delta };
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

function embed(graph: Graph, { config, form }: ServingGraphOptions, tokens: Value): Value {
  const [table, scales] = embeddingTensors(config, form).map((tensor) => graph.weight(tensor.name, tensor.dtype, tensor.shape));
  if (!embeddingIsQuantized(config, form)) return ops.gather(table!, tokens);
  return ops.gatherBlockQuantized(table!, tokens, scales!, null, { bits: 8, blockSize: QUANTIZATION_BLOCK });
}

/** Embedding and all layers; tokens int64 [B,T]. The stream is left as it is before the final norm. */
function body(graph: Graph, options: ServingGraphOptions, tokens: Value, cached: boolean): Stream {
  const { config, contextTokens } = options;
  const positions: Positions = { lastIndex: graph.input('last_index', 'int32', ['B']), longest: graph.input('longest', 'int32', []) };
  const half = [contextTokens, config.headDim / 2];
  const rope = { cos: graph.weight(ROPE_COS, 'float32', half), sin: graph.weight(ROPE_SIN, 'float32', half) };
  let stream: Stream = { sum: embed(graph, options, tokens), pending: undefined };
  for (let layer = 0; layer < config.layers; layer++) {
    stream = decoderLayer(new ServingLowering(graph, options, layer, positions, cached, rope), layerPrefix(layer), stream);
  }
  return stream;
}

/** Final norm of the stream's rows [N,C] named by `rows` (int64, into [B·T]), or of all of them; only they reach the head. */
function finalNorm(graph: Graph, { config }: ServingGraphOptions, stream: Stream, rows: Value | undefined): Value {
  const pick = (value: Value): Value => {
    const flat = ops.reshape(value, [-1, config.hiddenSize]);
    return rows === undefined ? flat : ops.gather(flat, rows);
  };
  const gain = graph.weight(FINAL_NORM_WEIGHT, 'float32', [config.hiddenSize]);
  const epsilon = { epsilon: config.rmsNormEpsilon };
  return stream.pending === undefined
    ? ops.simplifiedLayerNorm(pick(stream.sum), gain, epsilon).y
    : ops.skipSimplifiedLayerNorm(pick(stream.sum), pick(stream.pending), gain, epsilon).y;
}

/** One token a row: tokens int64 [B,1], last_index, longest, the cache → logits [B,V]. */
function decodeGraph(options: ServingGraphOptions): Graph {
  const graph = new Graph(`decode.${options.adapters}`);
  const stream = body(graph, options, graph.input('tokens', 'int64', ['B', 1]), true);
  graph.output(linearLayer(graph, headLinear(options.config), options, finalNorm(graph, options, stream, undefined)), 'logits');
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
  graph.output(linearLayer(graph, headLinear(options.config), options, hidden), 'logits');
  return graph;
}

/** The head for scoring: hidden [N,C], candidates int64 [N,L] → log_probabilities [N,L], normalized over the vocabulary. */
function scoreGraph(options: LayerOptions & Pick<ServingGraphOptions, 'config'>): Graph {
  const graph = new Graph('score');
  const hidden = graph.input('hidden', 'float32', ['N', options.config.hiddenSize]);
  const candidates = graph.input('candidates', 'int64', ['N', 'L']);
  const logits = linearLayer(graph, headLinear(options.config), options, hidden);
  graph.output(ops.gatherElements(ops.logSoftmax(logits, -1), candidates, 1), 'log_probabilities');
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
