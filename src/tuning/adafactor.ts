/**
 * Adafactor (Shazeer & Stern 2018, in the form of PyTorch's `torch.optim.Adafactor`): the second moments of a matrix [N,K] are kept as
 * means of its rows [N] and columns [K], so that a stage keeps values and gradients and little else. With g the scaled gradient:
 *   w = t^beta2Decay; row ← row + w·(mean_K g² − row); column ← column + w·(mean_N g² − column); V = row·columnᵀ / mean(row)
 *   u = g / √max(V, ε₁²); p ← p·(1 − lr·decay) − u · min(lr, 1/√t) · max(ε₂, RMS p) / max(1, RMS u / d)
 * A vector keeps its second moments whole. A matrix goes through in pieces of whole rows, three times: sums of squares, the RMS of the
 * update, the update. Sums over pieces are float32 for columns and float64 for the rest, in a fixed order.
 */
import { Graph, ops, type Value } from '../onnx/index.js';
import type { Binding, Runtime, Session, Tensor } from '../runtime/index.js';
import type { CheckpointTensor } from './checkpoint.js';
import { RANGE_ELEMENTS, restoreMoments, type Optimizer } from './optimizer.js';
import type { ParameterPlace, Parameters } from './parameters.js';
import type { BaseLease } from './training-host.js';

export interface AdafactorSettings {
  /** Exponent of the decay of second moments; at most 0. */
  readonly beta2Decay: number;
  /** Least root of a second moment (ε₁) and least RMS of a parameter (ε₂). */
  readonly epsilons: readonly [number, number];
  /** An update whose RMS is above this (d) is scaled down to it; at least 1. */
  readonly clipThreshold: number;
  readonly weightDecay: number;
}

const { max, min, sqrt } = Math;

const scalarInput = (graph: Graph, name: string): Value => graph.input(name, 'float32', [1]);
const scaledGradient = (graph: Graph, shape: readonly (number | string)[]): Value => ops.mul(graph.input('g', 'float32', [...shape]), scalarInput(graph, 'gradientScale'));

function put(graph: Graph, outputs: Readonly<Record<string, Value>>): Graph {
  for (const [name, value] of Object.entries(outputs)) graph.output(value, name);
  return graph;
}

const squares = (x: Value): Value => ops.mul(x, x);

/** p, g [r,K] → sums of g² over each row [r], added to those over the columns [K], and the sum of p² [1]. */
function matrixSums(): Graph {
  const graph = new Graph('adafactor-sums');
  const g2 = squares(scaledGradient(graph, ['r', 'K']));
  const columns = ops.add(graph.input('columns', 'float32', ['K']), ops.reduceSum(g2, [0], false));
  return put(graph, { rows: ops.reduceSum(g2, [1], false), nextColumns: columns, values: ops.reduceSum(squares(ops.reshape(graph.input('p', 'float32', ['r', 'K']), ['r*K'])), [0]) });
}

/** p, g, v [n] and the weight of the new squares → v [n] and the sum of p² [1]. */
function vectorSums(): Graph {
  const graph = new Graph('adafactor-vector-sums');
  const v = graph.input('v', 'float32', ['n']);
  const nextV = ops.add(v, ops.mul(scalarInput(graph, 'weight'), ops.sub(squares(scaledGradient(graph, ['n'])), v)));
  return put(graph, { nextV, values: ops.reduceSum(squares(graph.input('p', 'float32', ['n'])), [0]) });
}

/** u: of a matrix from row [r,1] (over the mean of all rows) and column [K], of a vector from v [n]. */
function updateOf(graph: Graph, kind: 'matrix' | 'vector', epsilon: number): Value {
  const matrix = kind === 'matrix';
  const g = scaledGradient(graph, matrix ? ['r', 'K'] : ['n']);
  const v = matrix ? ops.mul(graph.input('row', 'float32', ['r', 1]), graph.input('column', 'float32', ['K'])) : graph.input('v', 'float32', ['n']);
  return ops.div(g, ops.sqrt(ops.max(v, epsilon ** 2)));
}

/** → the sum of u² [1]. */
function updateSquares(kind: 'matrix' | 'vector', epsilon: number): Graph {
  const graph = new Graph('adafactor-update-squares');
  const u = updateOf(graph, kind, epsilon);
  return put(graph, { sum: ops.reduceSum(squares(kind === 'matrix' ? ops.reshape(u, ['r*K']) : u), [0]) });
}

/** p ← p·keep − u·rate. */
function applyUpdate(kind: 'matrix' | 'vector', epsilon: number): Graph {
  const graph = new Graph('adafactor-apply');
  const u = updateOf(graph, kind, epsilon);
  const p = graph.input('p', 'float32', [...u.shape]);
  return put(graph, { nextP: ops.sub(ops.mul(p, scalarInput(graph, 'keep')), ops.mul(u, scalarInput(graph, 'rate'))) });
}

type Phase = 'sums' | 'squares' | 'apply';
type Sessions = Readonly<Record<'matrix' | 'vector', Readonly<Record<Phase, Session>>>>;

export class Adafactor implements Optimizer {
  private step = 0;

  private constructor(
    private readonly settings: AdafactorSettings,
    private readonly gradientScale: Tensor,
    private readonly factored: readonly FactoredParameter[],
  ) {}

  static async create(lease: BaseLease, parameters: Parameters, settings: AdafactorSettings): Promise<Adafactor> {
    const [epsilon] = settings.epsilons;
    const phases = async (kind: 'matrix' | 'vector') => ({
      sums: await lease.session(`adafactor-${kind}-sums`, kind === 'matrix' ? matrixSums : vectorSums),
      squares: await lease.session(`adafactor-${kind}-squares:${epsilon}`, () => updateSquares(kind, epsilon)),
      apply: await lease.session(`adafactor-${kind}-apply:${epsilon}`, () => applyUpdate(kind, epsilon)),
    });
    const sessions: Sessions = { matrix: await phases('matrix'), vector: await phases('vector') };
    const gradientScale = lease.runtime.empty('float32', [1]);
    return new Adafactor(settings, gradientScale, parameters.places.map((place) => new FactoredParameter(lease.runtime, sessions, parameters, place, gradientScale)));
  }

  async update(learningRate: number, gradientScale: number): Promise<void> {
    this.step += 1;
    this.gradientScale.f32()[0] = gradientScale;
    for (const parameter of this.factored) await parameter.update(this.step, learningRate, this.settings);
  }

  moments(): Map<string, CheckpointTensor> {
    return new Map(this.factored.flatMap((parameter) => parameter.moments()));
  }

  async restore(step: number, read: (moment: string) => Promise<Float32Array>): Promise<void> {
    this.step = step;
    await restoreMoments(this.moments(), read);
  }

  dispose(): void {
    for (const parameter of this.factored) parameter.dispose();
    this.gradientScale.dispose();
  }
}

/** One tensor with its moments and the bindings of its pieces. */
class FactoredParameter {
  private readonly kind: 'matrix' | 'vector';
  private readonly tensors: Tensor[] = [];
  private readonly bindings: Record<Phase, Binding[]> = { sums: [], squares: [], apply: [] };
  /** N and K; of a vector 1 and n. */
  private readonly rowCount: number;
  private readonly columnCount: number;
  /** Of a matrix: means of its rows' squares (kept), their sums in this step, and what the update multiplies by. */
  private readonly rowMeans: Float32Array;
  private readonly rowSums: Tensor;
  private readonly rowFactors: Tensor;
  /** Means (of a vector: second moments), and of a matrix their sums in this step. */
  private readonly columnMeans: Tensor;
  private readonly columnSums: Tensor;
  private readonly weight: Tensor;
  private readonly rate: Tensor;
  private readonly keep: Tensor;
  /** Per piece. */
  private readonly valueSquares: Tensor;
  private readonly updateSquares: Tensor;

  constructor(runtime: Runtime, private readonly sessions: Sessions, parameters: Parameters, private readonly place: ParameterPlace, gradientScale: Tensor) {
    this.kind = place.shape.length > 1 ? 'matrix' : 'vector';
    this.columnCount = place.shape.at(-1)!;
    this.rowCount = place.elements / this.columnCount;
    const made = (shape: readonly number[]): Tensor => this.own(runtime.empty('float32', shape));
    this.rowMeans = new Float32Array(this.kind === 'matrix' ? this.rowCount : 0);
    this.rowSums = made([this.rowCount]);
    this.rowFactors = made([this.rowCount, 1]);
    this.columnMeans = made([this.columnCount]);
    this.columnSums = made([this.columnCount]);
    [this.weight, this.rate, this.keep] = [made([1]), made([1]), made([1])];
    const rows = max(1, Math.floor(RANGE_ELEMENTS / this.columnCount));
    const pieces = Math.ceil(this.rowCount / rows);
    [this.valueSquares, this.updateSquares] = [made([pieces]), made([pieces])];
    for (let piece = 0; piece < pieces; piece++) {
      const first = piece * rows;
      this.bind(piece, first, min(rows, this.rowCount - first), parameters, gradientScale);
    }
  }

  async update(step: number, learningRate: number, { beta2Decay, epsilons, clipThreshold, weightDecay }: AdafactorSettings): Promise<void> {
    const { decays, rateFactor, elements } = this.place;
    const rate = learningRate * rateFactor;
    const weight = step ** beta2Decay;
    this.weight.f32()[0] = weight;
    this.columnSums.f32().fill(0);
    await this.run('sums');
    if (this.kind === 'matrix') this.foldSums(weight, epsilons[0]);
    await this.run('squares');
    const clip = max(1, rootMean(this.updateSquares, elements) / clipThreshold);
    this.rate.f32()[0] = (min(rate, 1 / sqrt(step)) * max(epsilons[1], rootMean(this.valueSquares, elements))) / clip;
    this.keep.f32()[0] = decays ? 1 - rate * weightDecay : 1;
    await this.run('apply');
  }

  moments(): [string, CheckpointTensor][] {
    const { name } = this.place;
    const column = { shape: [this.columnCount], data: this.columnMeans.f32() };
    if (this.kind === 'vector') return [[`adafactor/second/${name}`, column]];
    return [[`adafactor/row/${name}`, { shape: [this.rowCount], data: this.rowMeans }], [`adafactor/column/${name}`, column]];
  }

  dispose(): void {
    for (const binding of Object.values(this.bindings).flat()) binding.dispose();
    for (const tensor of this.tensors) tensor.dispose();
  }

  private own(tensor: Tensor): Tensor {
    this.tensors.push(tensor);
    return tensor;
  }

  private bind(piece: number, first: number, rows: number, parameters: Parameters, gradientScale: Tensor): void {
    const { kind, columnCount } = this;
    const shape = kind === 'matrix' ? [rows, columnCount] : [columnCount];
    const part = (tensor: Tensor): Tensor => this.own(tensor.view(shape, this.place.start + first * columnCount));
    const [p, g] = [part(parameters.values), part(parameters.gradients)];
    const at = (tensor: Tensor): Tensor => this.own(tensor.view([1], piece));
    const binding = (phase: Phase): Binding => {
      const made = this.sessions[kind][phase].binding().input('g', g).input('gradientScale', gradientScale);
      this.bindings[phase].push(made);
      return made;
    };
    const sums = binding('sums').input('p', p).output('values', at(this.valueSquares));
    if (kind === 'matrix') sums.input('columns', this.columnSums).output('nextColumns', this.columnSums).output('rows', this.own(this.rowSums.view([rows], first)));
    else sums.input('v', this.columnMeans).output('nextV', this.columnMeans).input('weight', this.weight);
    const row = this.own(this.rowFactors.view([rows, 1], first));
    const moments = (of: Binding): Binding => (kind === 'matrix' ? of.input('row', row).input('column', this.columnMeans) : of.input('v', this.columnMeans));
    moments(binding('squares')).output('sum', at(this.updateSquares));
    moments(binding('apply')).input('p', p).output('nextP', p).input('rate', this.rate).input('keep', this.keep);
  }

  private async run(phase: Phase): Promise<void> {
    for (const binding of this.bindings[phase]) await this.sessions[this.kind][phase].run(binding, { lane: 'training' });
  }

  /** Moves the means towards this step's and brings the rows over their mean. */
  private foldSums(weight: number, epsilon: number): void {
    const towards = (means: Float32Array, sums: Float32Array, count: number): void => {
      for (let i = 0; i < means.length; i++) means[i]! += weight * (sums[i]! / count - means[i]!);
    };
    towards(this.rowMeans, this.rowSums.f32(), this.columnCount);
    towards(this.columnMeans.f32(), this.columnSums.f32(), this.rowCount);
    const mean = max(epsilon, this.rowMeans.reduce((sum, value) => sum + value, 0) / this.rowCount);
    const factors = this.rowFactors.f32();
    for (let i = 0; i < factors.length; i++) factors[i] = this.rowMeans[i]! / mean;
  }
}

/** √(Σ sums / count). */
function rootMean(sums: Tensor, count: number): number {
  return sqrt(sums.f32().reduce((total, sum) => total + sum, 0) / count);
}
