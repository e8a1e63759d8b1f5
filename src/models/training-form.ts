/**
 * The training form of a decoder: plain differentiable ONNX, one graph per *kind* of segment, called for every layer with that
 * layer's weights as inputs. This file lowers one decoder layer and cuts it into a forward and a backward segment.
 * Invariants: activations are [B*T, C] at every border; weights are [out, in]; B and T are symbolic; the backward segment computes
 * only what the trainable set needs and takes from the forward segment only what it would otherwise have to recompute.
 * It must not run anything. Linear layers are in training-form-linear.ts, attention in training-form-attention.ts, the embedding in
 * training-form-ends.ts and the head in training-form-head.ts.
 */
import { backward, customVjp } from '../autodiff/index.js';
import { extract, Graph, ops, type Dim, type Value } from '../onnx/index.js';
import { familyOf, layerShapes, linearShapes, rotaryWidth, type DecoderConfig } from './config.js';
import { decoderLayer, type DecoderLowering, type LinearModule } from './decoder.js';
import { AttentionLayers, keysOfBlock, maskInput } from './training-form-attention.js';
import { dropped, residualDropoutMask, type LayerDropout } from './training-form-dropout.js';
import { dropoutMask, GradientSums, LinearLayers, loraA, loraB, loraMagnitude, TOKENS, type LoraKind } from './training-form-linear.js';
import { normalized } from './training-form-norm.js';
import { declareWeight, type FrozenWeights } from './training-form-weights.js';

/** What tells one layer's graphs from another's. Names are local to the layer: 'self_attn.q_proj.weight'. */
export interface LayerKind {
  readonly lora: ReadonlyMap<LinearModule, LoraKind>;
  /** Parameters to differentiate: weights, biases, gains, and LoRA matrices by the names of `loraA` and `loraB`. */
  readonly trainable: ReadonlySet<string>;
  /** Whether something below this layer is trained. */
  readonly inputGradient: boolean;
  /** 'linear' keeps what the linear layers and attention read; 'layer' keeps nothing and recomputes. */
  readonly saved: 'linear' | 'layer';
  /** Rows hold several sequences: masks are each row's own. */
  readonly packed?: boolean;
  /** Blocks that attention takes queries in; T is a multiple of it. Default: 1. */
  readonly queryBlocks?: number;
  readonly dropout?: LayerDropout;
  readonly frozen?: FrozenWeights;
}

/** A value that the forward segment hands to the backward segment of the same layer. */
export interface SavedValue {
  readonly name: string;
  readonly shape: readonly Dim[];
}

export interface LayerSegments {
  /** x, weights, positions, cos, sin, masks → y and the saved values. */
  readonly forward: Graph;
  /** dy, what it needs of x, weights and saved values → dx (if asked for) and `gradient.<local name>` of every trainable parameter. */
  readonly backward: Graph;
  /** Like `backward`, but adds to `sum.<local name>`, which may be the memory of the output. */
  readonly backwardAdding: Graph;
  readonly saved: readonly SavedValue[];
}

/** Parameters of one layer by local name, with shapes; LoRA matrices included. The config's layers are all alike. */
export function layerParameters(config: DecoderConfig, lora: LayerKind['lora']): Map<string, readonly number[]> {
  const parameters = layerShapes(config, 0);
  for (const [module, { outputs, inputs }] of linearShapes(config, 0)) {
    const matrices = lora.get(module);
    if (matrices === undefined) continue;
    parameters.set(loraA(module), [matrices.rank, inputs]);
    parameters.set(loraB(module), [outputs, matrices.rank]);
    if (matrices.dora === true) parameters.set(loraMagnitude(module), [outputs]);
  }
  return parameters;
}

const PREFIX = 'layer';

/** What enters down_proj, [B*T, F]: an output of `layerForward` where it is asked for. */
export const ACTIVATION = 'mlp.activation';

export interface ForwardKind extends Pick<LayerKind, 'lora' | 'packed' | 'queryBlocks' | 'dropout' | 'frozen'> {
  /** Also gives `ACTIVATION`. */
  readonly activation?: boolean;
}

/** A forward-only layer: same inputs as the forward segment, output y and what the kind asks for. */
export function layerForward(config: DecoderConfig, { activation = false, ...kind }: ForwardKind): Graph {
  const lowering = new TrainingLowering(config, kind, new Set());
  const y = lowering.build();
  const outputs = activation ? [y, lowering.graph.rename(lowering.activation!, ACTIVATION)] : [y];
  return extract(lowering.graph, { name: 'layer-forward-only', outputs, stopAt: [] });
}

/** Forward and backward segments of one kind of layer. */
export function layerSegments(config: DecoderConfig, kind: LayerKind): LayerSegments {
  const first = differentiate(config, kind, false);
  const adding = differentiate(config, kind, true);
  return { ...first, backwardAdding: adding.backward };
}

function differentiate(config: DecoderConfig, kind: LayerKind, adding: boolean): Omit<LayerSegments, 'backwardAdding'> {
  const lowering = new TrainingLowering(config, kind, adding ? kind.trainable : new Set());
  const { graph } = lowering;
  const y = lowering.build();
  const dy = graph.input('dy', 'float32', [TOKENS, config.hiddenSize]);
  const names = [...kind.trainable];
  const wrt = [...(kind.inputGradient ? [graph.value('x')] : []), ...names.map((name) => graph.value(name))];
  const cotangents = backward(graph, new Map([[y, dy]]), wrt);
  const outputs = cotangents.map((cotangent, i) => {
    if (cotangent === null) throw new Error(`the layer does not depend on ${wrt[i]?.name ?? ''}`);
    const name = kind.inputGradient ? names[i - 1] : names[i];
    return name === undefined ? graph.rename(cotangent, 'dx') : graph.rename(lowering.sums.accumulated(name, cotangent), `gradient.${name}`);
  });
  const backwardGraph = extract(graph, { name: adding ? 'layer-backward-adding' : 'layer-backward', outputs, stopAt: kind.saved === 'linear' ? lowering.kept : [] });
  const used = new Set(backwardGraph.inputs.map((input) => input.name));
  const saved = lowering.kept.filter((value) => used.has(value.name));
  const forward = extract(graph, { name: 'layer-forward', outputs: [y, ...saved], stopAt: [] });
  return { forward, backward: backwardGraph, saved: saved.map(({ name, shape }) => ({ name, shape })) };
}

/** Plain ONNX with gradients of its own where derived ones would cost more. Activations are matrices [B*T, features]. */
class TrainingLowering implements DecoderLowering<Value, Value> {
  readonly graph = new Graph('layer');
  /** Worth handing to the backward segment; everything else is cheap to recompute from these. */
  readonly kept: Value[] = [];
  /** What enters down_proj, once built. */
  activation: Value | undefined;
  readonly sums = new GradientSums();
  private readonly linears: LinearLayers;
  private readonly attentionLayers: AttentionLayers;

  private readonly lora: LayerKind['lora'];
  private readonly dropout: LayerDropout;

  constructor(private readonly config: DecoderConfig, kind: Omit<ForwardKind, 'activation'>, adding: ReadonlySet<string>) {
    const { graph } = this;
    const { lora, packed = false, queryBlocks = 1, dropout = {}, frozen = new Map() as FrozenWeights } = kind;
    this.lora = lora;
    this.dropout = dropout;
    graph.input('x', 'float32', [TOKENS, config.hiddenSize]);
    const half = rotaryWidth(config) / 2;
    this.attentionLayers = new AttentionLayers(config, {
      positions: graph.input('positions', 'int64', ['B', 'T']),
      ...(half === 0 ? {} : { cos: graph.input('cos', 'float32', ['P', half]), sin: graph.input('sin', 'float32', ['P', half]) }),
      masks: Array.from({ length: queryBlocks }, (_, i) => graph.input(maskInput(i), 'float32', [...(packed ? ['B', 1, 1] : []), keysOfBlock(0, queryBlocks), keysOfBlock(i, queryBlocks)])),
    }, dropout.attention);
    const parameters = layerParameters(config, lora);
    this.linears = new LinearLayers(graph, lora, this.sums, frozen, parameters, (value, name) => this.keep(value, name));
    for (const [name, shape] of parameters) {
      declareWeight(graph, name, shape, frozen.get(name.replace(/\.weight$/, '') as LinearModule) ?? []);
      if (adding.has(name)) this.sums.declare(graph, name, shape);
    }
    for (const [module, { dropoutScale }] of lora) {
      if (dropoutScale !== undefined) graph.input(dropoutMask(module), 'uint8', [TOKENS, parameters.get(`${module}.weight`)![1]!]);
    }
  }

  build(): Value {
    return this.graph.rename(decoderLayer(this, this.config, PREFIX, this.graph.value('x')), 'y');
  }

  read(stream: Value): Value {
    return stream;
  }

  norm(stream: Value, name: string): Value {
    const gain = this.graph.value(`${local(name)}.weight`);
    const bias = this.graph.has(`${local(name)}.bias`) ? this.graph.value(`${local(name)}.bias`) : undefined;
    const { y, statistics } = normalized(this.config, stream, gain, bias);
    for (const [statistic, value] of Object.entries(statistics)) this.keep(value, `${local(name)}.${statistic}`);
    return y;
  }

  normOutput(x: Value, name: string): Value {
    return this.norm(x, name);
  }

  project(x: Value, modules: readonly string[]): readonly Value[] {
    return modules.map((name) => {
      const module = local(name) as LinearModule;
      const y = this.linears.lower(x, module);
      // DoRA keeps the sum that its magnitude multiplies; y is cheap to recompute from that.
      return this.lora.get(module)?.dora === true || this.addedAsItIs(module) ? y : this.keep(y, `${module}.output`);
    });
  }

  normQueryKey(qkv: readonly Value[], names: readonly [string, string], over: 'head' | 'projection'): readonly Value[] {
    const [q, k, v] = qkv as readonly [Value, Value, Value];
    const [normedQ, normedK] = [[q, names[0]] as const, [k, names[1]] as const].map(([x, name]) => this.attentionLayers.normed(x, this.graph.value(`${local(name)}.weight`), over));
    return [normedQ!, normedK!, v];
  }

  scale(x: Value, factor: number): Value {
    return ops.mul(x, factor);
  }

  residual(stream: Value, delta: Value): Value {
    const attended = this.kept.some((value) => value.name === 'attended');
    const mask = residualDropoutMask(attended ? 'mlp' : 'self_attn');
    const sum = ops.add(stream, dropped(delta, mask, [TOKENS, this.config.hiddenSize], this.dropout.residual));
    return attended ? sum : this.keep(sum, 'attended');
  }

  /** q [B*T, H*D], k and v [B*T, KV*D] → [B*T, H*D]. */
  attention(qkv: readonly Value[]): Value {
    const [q, k, v] = qkv as readonly [Value, Value, Value];
    return this.keep(this.attentionLayers.attention(q, k, v), 'self_attn.output');
  }

  feedForwardUnit(values: readonly Value[]): Value {
    const [first, up] = values as readonly [Value, Value?];
    const silu = this.config.activation !== 'geluTanh';
    if (up === undefined) this.activation = silu ? ops.mul(first, ops.sigmoid(first)) : ops.gelu(first, 'tanh');
    else this.activation = silu ? siluTimes(first, up) : ops.mul(ops.gelu(first, 'tanh'), up);
    return this.activation;
  }

  /** What no norm reads before it is added to the stream needs no keeping. */
  private addedAsItIs(module: LinearModule): boolean {
    const { norms } = familyOf(this.config);
    return (module === 'self_attn.o_proj' && norms.afterAttention === undefined) || (module === 'mlp.down_proj' && norms.afterFeedForward === undefined);
  }

  private keep(value: Value, name: string): Value {
    this.kept.push(this.graph.rename(value, name));
    return value;
  }
}

/** SiLU(a)·b; with s = sigmoid(a): d/da = d·b·s·(1 + a·(1 − s)), d/db = d·a·s. */
function siluTimes(a: Value, b: Value): Value {
  let s: Value;
  let silu: Value;
  const [y] = customVjp(
    [a, b],
    () => {
      s = ops.sigmoid(a);
      silu = ops.mul(a, s);
      return [ops.mul(silu, b)];
    },
    ([d], [needsA, needsB]) => {
      const slope = (): Value => ops.add(ops.sub(silu, ops.mul(silu, s)), s);
      return [needsA === true ? ops.mul(ops.mul(d!, b), slope()) : null, needsB === true ? ops.mul(d!, silu) : null];
    },
  );
  return y!;
}

function local(name: string): string {
  return name.slice(PREFIX.length + 1);
}
