/**
 * The training form of a decoder: plain differentiable ONNX, one graph per *kind* of segment, called for every layer with that
 * layer's weights as inputs. This file lowers one decoder layer and cuts it into a forward and a backward segment.
 * Invariants: activations are [B*T, C] at every border; weights are [out, in]; B and T are symbolic; the backward segment computes
 * only what the trainable set needs and takes from the forward segment only what it would otherwise have to recompute.
 * It must not run anything. The embedding and the head are in training-form-ends.ts.
 */
import { backward, customVjp } from '../autodiff/index.js';
import { extract, Graph, ops, type Dim, type Value } from '../onnx/index.js';
import type { DecoderConfig } from './config.js';
import { decoderLayer, LAYER_NORMS, LINEAR_MODULES, type DecoderLowering, type LinearModule } from './decoder.js';

/** Rows of every activation: batch times length. */
export const TOKENS: Dim = 'B*T';

export interface LoraKind {
  readonly rank: number;
  readonly scaling: number;
  /** With a trained magnitude per output (DoRA, Liu et al. 2024). */
  readonly dora?: boolean;
  /** What kept inputs of the low-rank path are multiplied by; without it nothing is dropped. The mask is an input, `dropoutMask`. */
  readonly dropoutScale?: number;
}

/** What tells one layer's graphs from another's. Names are local to the layer: 'self_attn.q_proj.weight'. */
export interface LayerKind {
  readonly lora: ReadonlyMap<LinearModule, LoraKind>;
  /** Parameters to differentiate: weights, biases, gains, and LoRA matrices by the names of `loraA` and `loraB`. */
  readonly trainable: ReadonlySet<string>;
  /** Whether something below this layer is trained. */
  readonly inputGradient: boolean;
  /** 'linear' keeps what the linear layers and attention read; 'layer' keeps nothing and recomputes. */
  readonly saved: 'linear' | 'layer';
  /** Rows hold several sequences: the mask is [B,1,1,T,T], each row's own, instead of [T,T]. */
  readonly packed?: boolean;
}

/** A value that the forward segment hands to the backward segment of the same layer. */
export interface SavedValue {
  readonly name: string;
  readonly shape: readonly Dim[];
}

export interface LayerSegments {
  /** x, weights, positions, cos, sin, mask → y and the saved values. */
  readonly forward: Graph;
  /** dy, what it needs of x, weights and saved values → dx (if asked for) and `gradient.<local name>` of every trainable parameter. */
  readonly backward: Graph;
  /** Like `backward`, but adds to `sum.<local name>`, which may be the memory of the output. */
  readonly backwardAdding: Graph;
  readonly saved: readonly SavedValue[];
}

export const loraA = (module: string): string => `${module}.lora_A.weight`;
export const loraB = (module: string): string => `${module}.lora_B.weight`;
export const loraMagnitude = (module: string): string => `${module}.lora_magnitude_vector.weight`;
/** uint8 [B*T, in]: 1 keeps an element of the input of the low-rank path, 0 drops it. */
export const dropoutMask = (module: string): string => `${module}.lora_dropout.mask`;

/** Parameters of one layer by local name, with shapes; LoRA matrices included. */
export function layerParameters(config: DecoderConfig, lora: LayerKind['lora']): Map<string, readonly number[]> {
  const { hiddenSize: c, intermediateSize: f } = config;
  const q = config.heads * config.headDim;
  const kv = config.kvHeads * config.headDim;
  const linear: Record<LinearModule, readonly [number, number]> = {
    'self_attn.q_proj': [q, c], 'self_attn.k_proj': [kv, c], 'self_attn.v_proj': [kv, c], 'self_attn.o_proj': [c, q],
    'mlp.gate_proj': [f, c], 'mlp.up_proj': [f, c], 'mlp.down_proj': [c, f],
  };
  const parameters = new Map<string, readonly number[]>(LAYER_NORMS.map((norm) => [`${norm}.weight`, [c]]));
  for (const module of LINEAR_MODULES) {
    const [out, input] = linear[module];
    parameters.set(`${module}.weight`, [out, input]);
    if (module.startsWith('mlp.') ? config.mlpBias : config.attentionBias) parameters.set(`${module}.bias`, [out]);
    const matrices = lora.get(module);
    if (matrices === undefined) continue;
    parameters.set(loraA(module), [matrices.rank, input]);
    parameters.set(loraB(module), [out, matrices.rank]);
    if (matrices.dora === true) parameters.set(loraMagnitude(module), [out]);
  }
  return parameters;
}

const PREFIX = 'layer';

/** A forward-only layer: same inputs as the forward segment, output y alone. */
export function layerForward(config: DecoderConfig, lora: LayerKind['lora'], packed = false): Graph {
  const lowering = new TrainingLowering(config, lora, new Set(), packed);
  const y = lowering.build();
  return extract(lowering.graph, { name: 'layer-forward-only', outputs: [y], stopAt: [] });
}

/** Forward and backward segments of one kind of layer. */
export function layerSegments(config: DecoderConfig, kind: LayerKind): LayerSegments {
  const first = differentiate(config, kind, false);
  const adding = differentiate(config, kind, true);
  return { ...first, backwardAdding: adding.backward };
}

function differentiate(config: DecoderConfig, kind: LayerKind, adding: boolean): Omit<LayerSegments, 'backwardAdding'> {
  const lowering = new TrainingLowering(config, kind.lora, adding ? kind.trainable : new Set(), kind.packed === true);
  const { graph } = lowering;
  const y = lowering.build();
  const dy = graph.input('dy', 'float32', [TOKENS, config.hiddenSize]);
  const names = [...kind.trainable];
  const wrt = [...(kind.inputGradient ? [graph.value('x')] : []), ...names.map((name) => graph.value(name))];
  const cotangents = backward(graph, new Map([[y, dy]]), wrt);
  const outputs = cotangents.map((cotangent, i) => {
    if (cotangent === null) throw new Error(`the layer does not depend on ${wrt[i]?.name ?? ''}`);
    const name = kind.inputGradient ? names[i - 1] : names[i];
    return name === undefined ? graph.rename(cotangent, 'dx') : graph.rename(lowering.accumulated(name, cotangent), `gradient.${name}`);
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
  private readonly sums = new Map<string, Value>();
  private readonly summed = new Set<string>();
  private readonly positions: Value;
  private readonly cos: Value;
  private readonly sin: Value;
  private readonly mask: Value;

  constructor(private readonly config: DecoderConfig, private readonly lora: LayerKind['lora'], adding: ReadonlySet<string>, packed: boolean) {
    const { graph } = this;
    graph.input('x', 'float32', [TOKENS, config.hiddenSize]);
    this.positions = graph.input('positions', 'int64', ['B', 'T']);
    this.cos = graph.input('cos', 'float32', ['P', config.headDim / 2]);
    this.sin = graph.input('sin', 'float32', ['P', config.headDim / 2]);
    this.mask = graph.input('mask', 'float32', packed ? ['B', 1, 1, 'T', 'T'] : ['T', 'T']);
    const parameters = layerParameters(config, lora);
    for (const [name, shape] of parameters) {
      graph.input(name, 'float32', shape);
      if (adding.has(name)) this.sums.set(name, graph.input(`sum.${name}`, 'float32', shape));
    }
    for (const [module, { dropoutScale }] of lora) {
      if (dropoutScale !== undefined) graph.input(dropoutMask(module), 'uint8', [TOKENS, parameters.get(`${module}.weight`)![1]!]);
    }
  }

  build(): Value {
    return this.graph.rename(decoderLayer(this, PREFIX, this.graph.value('x')), 'y');
  }

  /** The gradient of a parameter plus what earlier micro-batches left, unless its rule added that already. */
  accumulated(name: string, gradient: Value): Value {
    const sum = this.sums.get(name);
    return sum === undefined || this.summed.has(name) ? gradient : ops.add(sum, gradient);
  }

  norm(stream: Value, weight: string): Value {
    const { y, inverseDeviation } = ops.simplifiedLayerNorm(stream, this.graph.value(local(weight)), { epsilon: this.config.rmsNormEpsilon });
    this.keep(inverseDeviation, `${local(weight)}.inverseDeviation`);
    return y;
  }

  project(x: Value, modules: readonly string[]): readonly Value[] {
    return modules.map((name) => {
      const module = local(name) as LinearModule;
      const y = this.linear(x, module);
      // DoRA keeps the sum that its magnitude multiplies; y is cheap to recompute from that.
      return this.lora.get(module)?.dora === true ? y : this.keep(y, `${module}.output`, ['self_attn.o_proj', 'mlp.down_proj']);
    });
  }

  residual(stream: Value, delta: Value): Value {
    const sum = ops.add(stream, delta);
    return this.kept.some((value) => value.name === 'attended') ? sum : this.keep(sum, 'attended');
  }

  /** q [B*T, H*D], k and v [B*T, KV*D] → [B*T, H*D]. */
  attention(qkv: readonly Value[]): Value {
    const [q, k, v] = qkv as readonly [Value, Value, Value];
    const { heads, kvHeads } = this.config;
    const output = this.attend(this.grouped(this.rotate(q, heads), heads), this.grouped(this.rotate(k, kvHeads), kvHeads), this.grouped(v, kvHeads));
    return this.keep(output, 'self_attn.output');
  }

  /** SiLU(a)·b; with s = sigmoid(a): d/da = d·b·s·(1 + a·(1 − s)), d/db = d·a·s. */
  gatedUnit(gateUp: readonly Value[]): Value {
    const [a, b] = gateUp as readonly [Value, Value];
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

  /**
   * y = g∘z + bias with z = x·Wᵀ, with LoRA + scaling·u·Bᵀ, u = x'·Aᵀ. x' is x, after dropout where it is on (inverted, on the low-rank
   * path alone); g is 1, with DoRA magnitude / n, where n = ‖W + scaling·B·A‖ of each output's row is a constant to the gradient
   * (Liu et al. 2024, section 4.3). With dz = g∘dy and v = scaling·dz·B: dA = vᵀ·x', dB = scaling·dzᵀ·u, dx = dz·W + v·A through the
   * mask, dW = dzᵀ·x, dmagnitude = Σ dy∘z / n: the merged weight's gradient is never formed for LoRA.
   */
  private linear(x: Value, module: LinearModule): Value {
    const weight = this.graph.value(`${module}.weight`);
    const bias = this.graph.has(`${module}.bias`) ? this.graph.value(`${module}.bias`) : undefined;
    const lora = this.lora.get(module);
    const a = lora === undefined ? undefined : this.graph.value(loraA(module));
    const b = lora === undefined ? undefined : this.graph.value(loraB(module));
    const magnitude = lora?.dora === true ? this.graph.value(loraMagnitude(module)) : undefined;
    const scaling = lora?.scaling ?? 1;
    const mask = lora?.dropoutScale === undefined ? undefined : ops.mul(ops.cast(this.graph.value(dropoutMask(module)), 'float32'), lora.dropoutScale);
    const operands = [x, weight, bias, a, b, magnitude].filter((value) => value !== undefined);
    let dropped = x;
    let u: Value | undefined;
    let z: Value;
    let n: Value;
    let g: Value | undefined;
    const [y] = customVjp(
      operands,
      () => {
        const base = bias === undefined || magnitude !== undefined ? ops.fusedMatMul(x, weight, { transB: true }) : ops.gemm(x, weight, bias, { transB: true });
        if (a === undefined || b === undefined) return [base];
        if (mask !== undefined) dropped = ops.mul(x, mask);
        u = this.keep(ops.fusedMatMul(dropped, a, { transB: true }), `${module}.lora_A.output`);
        const sum = ops.gemm(u, b, base, { transB: true, alpha: scaling });
        if (magnitude === undefined) return [sum];
        z = this.keep(sum, `${module}.output`);
        n = rowNorms(ops.gemm(b, a, weight, { alpha: scaling }));
        g = ops.div(magnitude, n);
        const scaled = ops.mul(z, g);
        return [bias === undefined ? scaled : ops.add(scaled, bias)];
      },
      ([dy], needed) => {
        const needs = (value: Value): boolean => needed[operands.indexOf(value)] === true;
        const dz = g === undefined ? dy! : ops.mul(dy!, g);
        const v = a !== undefined && b !== undefined && (needs(x) || needs(a)) ? ops.fusedMatMul(dz, b, { alpha: scaling }) : undefined;
        return operands.map((operand) => {
          if (!needs(operand)) return null;
          if (operand === x) return v === undefined ? ops.matMul(dz, weight) : this.inputGradient(v, a!, ops.matMul(dz, weight), mask);
          if (operand === weight) return this.product(weight, dz, x, 1);
          if (operand === bias) return ops.reduceSum(dy!, [0], false);
          if (operand === magnitude) return ops.div(ops.reduceSum(ops.mul(dy!, z), [0], false), n);
          return operand === a ? this.product(a, v!, dropped, 1) : this.product(operand, dz, u!, scaling);
        });
      },
    );
    return y!;
  }

  /** base + v·A, the product through the mask where there is one. */
  private inputGradient(v: Value, a: Value, base: Value, mask: Value | undefined): Value {
    return mask === undefined ? ops.gemm(v, a, base) : ops.add(base, ops.mul(ops.matMul(v, a), mask));
  }

  /** alpha·leftᵀ·right, the gradient of a matrix parameter, added to its sum in the same product. */
  private product(parameter: Value, left: Value, right: Value, alpha: number): Value {
    const sum = this.sums.get(parameter.name);
    if (sum === undefined) return ops.fusedMatMul(left, right, { transA: true, alpha });
    this.summed.add(parameter.name);
    return ops.gemm(left, right, sum, { transA: true, alpha });
  }

  /** Rotary positions on [B*T, n*D] → [B, T, n*D]. */
  private rotate(x: Value, numHeads: number): Value {
    const rows = ops.reshape(x, ['B', 'T', numHeads * this.config.headDim]);
    return ops.rotaryEmbedding(rows, this.positions, this.cos, this.sin, { numHeads });
  }

  /** Heads of a group side by side: [.., n*D] → [B, KV, (n/KV)*T, D]. */
  private grouped(x: Value, numHeads: number): Value {
    const { headDim, kvHeads } = this.config;
    const heads = ops.transpose(ops.reshape(x, ['B', 'T', numHeads, headDim]), [0, 2, 1, 3]);
    return ops.reshape(heads, ['B', kvHeads, groupRows(numHeads / kvHeads), headDim]);
  }

  /** [B, KV, g*T, D] back to [B*T, H*D]. */
  private ungrouped(x: Value): Value {
    const { heads, headDim } = this.config;
    return ops.reshape(ops.transpose(ops.reshape(x, ['B', heads, 'T', headDim]), [0, 2, 1, 3]), [TOKENS, heads * headDim]);
  }

  /**
   * softmax(q·kᵀ/√D + mask)·v on grouped heads, out as [B*T, H*D]. With P the probabilities and O the output:
   * dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − Σ_D dO∘O), dQ = dS·K/√D, dK = dSᵀ·Q/√D; products over a group sum its queries by themselves.
   */
  private attend(q: Value, k: Value, v: Value): Value {
    const { heads, kvHeads, headDim } = this.config;
    const group = heads / kvHeads;
    const alpha = headDim ** -0.5;
    let p: Value;
    let output: Value;
    const [o] = customVjp(
      [q, k, v],
      () => {
        const scores = ops.reshape(ops.fusedMatMul(q, k, { transB: true, alpha }), ['B', kvHeads, group, 'T', 'T']);
        p = ops.reshape(ops.softmax(ops.add(scores, this.mask), -1), ['B', kvHeads, groupRows(group), 'T']);
        output = this.ungrouped(ops.matMul(p, v));
        return [output];
      },
      ([d], [needsQ, needsK, needsV]) => {
        const dOutput = this.grouped(d!, heads);
        const dv = needsV === true ? ops.fusedMatMul(p, dOutput, { transA: true }) : null;
        if (needsQ !== true && needsK !== true) return [null, null, dv];
        const perHead = ops.reduceSum(ops.reshape(ops.mul(d!, output), ['B', 'T', heads, headDim]), [3]);
        const delta = ops.reshape(ops.transpose(perHead, [0, 2, 1, 3]), ['B', kvHeads, groupRows(group), 1]);
        const dScores = ops.mul(p, ops.sub(ops.fusedMatMul(dOutput, v, { transB: true }), delta));
        return [needsQ === true ? ops.fusedMatMul(dScores, k, { alpha }) : null, needsK === true ? ops.fusedMatMul(dScores, q, { transA: true, alpha }) : null, dv];
      },
    );
    return o!;
  }

  private keep(value: Value, name: string, except: readonly string[] = []): Value {
    if (except.some((module) => name === `${module}.output`)) return value;
    this.kept.push(this.graph.rename(value, name));
    return value;
  }
}

/** [O,I] → the 2-norm of every row [O]. */
export function rowNorms(matrix: Value): Value {
  return ops.sqrt(ops.reduceSum(ops.mul(matrix, matrix), [1], false));
}

/** Rows of g query heads over the same keys. */
function groupRows(group: number): Dim {
  return group === 1 ? 'T' : `${group}*T`;
}

function local(name: string): string {
  return name.slice(PREFIX.length + 1);
}
