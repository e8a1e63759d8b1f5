/**
 * The training form's head: losses of a piece of rows, and their gradients, with the outputs (the vocabulary, or labels) in blocks. Losses and both
 * gradients are runs of their own, so that a piece can have more rows before a run gets long: the more rows, the less often the whole table is read.
 * What they hand on are differences e - s·onehot(target) with e = exp(z - max z) and s = Σ e: s times those of softmax and target. Dividing by s, like
 * weighting the losses, is left to a factor per row, which costs no pass over the outputs.
 * Invariant: of a piece, differences are the only thing with a value per output that outlives a run.
 */
import { backward } from '../autodiff/index.js';
import { Graph, ops, type Value } from '../onnx/index.js';
import { familyOf, type DecoderConfig } from './config.js';
import { normalized } from './training-form-norm.js';

/**
 * Outputs of a block. Rows of a matrix that lie a multiple of 4,096 bytes apart fall into the same few sets of a cache; a product whose left factor lies
 * like that runs at 115 instead of 175 GFLOPS (Zen 4), and most vocabularies are such multiples.
 */
const BLOCK_OUTPUTS = 6 * 1024 + 16;

export interface OutputBlock {
  readonly start: number;
  readonly size: number;
}

/** The blocks that segments with so many outputs take their table, differences and gradients in. */
export function outputBlocks(outputs: number): readonly OutputBlock[] {
  return Array.from({ length: Math.ceil(outputs / BLOCK_OUTPUTS) }, (_, i) => ({ start: i * BLOCK_OUTPUTS, size: Math.min(BLOCK_OUTPUTS, outputs - i * BLOCK_OUTPUTS) }));
}

/** Rows of x [M,C] at `rows` [N] after the final norm with gain [C], of a layer norm bias [C]: h [N,C]. */
interface Rows {
  readonly graph: Graph;
  readonly selected: Value;
  readonly gain: Value;
  readonly bias: Value | undefined;
  readonly h: Value;
}

function normalizedRows(name: string, config: DecoderConfig): Rows {
  const { hiddenSize: c } = config;
  const graph = new Graph(name);
  const selected = ops.gather(graph.input('x', 'float32', ['M', c]), graph.input('rows', 'int64', ['N']), 0);
  const gain = graph.input('gain', 'float32', [c]);
  const bias = familyOf(config).norm === 'layer' ? graph.input('bias', 'float32', [c]) : undefined;
  return { graph, selected, gain, bias, h: normalized(config, selected, gain, bias).y };
}

/** Inputs `name.0`, `name.1`, ... [size,C], a block each. */
function tableBlocks(graph: Graph, name: string, { hiddenSize }: DecoderConfig, outputs: number): Value[] {
  return outputBlocks(outputs).map(({ size }, i) => graph.input(`${name}.${i}`, 'float32', [size, hiddenSize]));
}

function differenceBlocks(graph: Graph, outputs: number): Value[] {
  return outputBlocks(outputs).map(({ size }, i) => graph.input(`difference.${i}`, 'float32', ['N', size]));
}

const summed = (values: readonly Value[]): Value => values.reduce((sum, value) => ops.add(sum, value));

/** Logits [N,size] of normalized rows h [N,C], divided and capped as the config says. */
function logitsOf({ logitDivisor = 1, logitSoftcap: cap }: DecoderConfig, h: Value, table: Value): Value {
  const z = ops.fusedMatMul(h, table, { transB: true, alpha: 1 / (logitDivisor * (cap ?? 1)) });
  return cap === undefined ? z : ops.mul(ops.tanh(z), cap);
}

/**
 * rows of x [M,C] at `rows` [N], their `targets` [N] (indices of outputs), gain, bias, `table.0`, ... → `losses` [N], the cross entropies in nats; with
 * `differences` also, for the gradients of Σ weights · losses with `weights` [N]: `factor` [N,1] = weight / (s · divisor), and `difference.0`, ... [N,size].
 * With a soft cap c differences get the factor 1 - (z/c)². With the token table this is the language model's head, with a score matrix [K,C] the
 * classification head of transformers' *ForSequenceClassification.
 */
export function headLossSegment(config: DecoderConfig, outputs: number, differences: boolean): Graph {
  const { logitDivisor = 1, logitSoftcap: cap } = config;
  const { graph, h } = normalizedRows('head-loss', config);
  const target = ops.unsqueeze(graph.input('targets', 'int64', ['N']), [1]);
  const logits = tableBlocks(graph, 'table', config, outputs).map((table) => logitsOf(config, h, table));
  const largest = logits.map((z) => ops.reduceMax(z, [1])).reduce((a, b) => ops.max(a, b));
  const exponentials = logits.map((z) => ops.exp(ops.sub(z, largest)));
  const sum = summed(exponentials.map((e) => ops.reduceSum(e, [1])));
  // A target is in one block; in the others it stands for their nearest column with weight 0.
  const places = outputBlocks(outputs).map(({ start, size }) => {
    const column = ops.min(ops.max(ops.sub(target, start), 0), size - 1);
    return { column, inside: ops.cast(ops.equal(ops.add(column, start), target), 'float32') };
  });
  const ofTarget = summed(places.map(({ column, inside }, i) => ops.mul(ops.gatherElements(logits[i]!, column, 1), inside)));
  graph.output(ops.squeeze(ops.sub(ops.add(ops.log(sum), largest), ofTarget), [1]), 'losses');
  if (!differences) return graph;
  const weight = ops.unsqueeze(graph.input('weights', 'float32', ['N']), [1]);
  graph.output(ops.div(weight, ops.mul(sum, logitDivisor)), 'factor');
  for (const [i, { column, inside }] of places.entries()) {
    const plain = ops.scatterElements(exponentials[i]!, column, ops.neg(ops.mul(inside, sum)), 1, 'add');
    const capped = cap === undefined ? undefined : ops.div(logits[i]!, cap);
    graph.output(capped === undefined ? plain : ops.mul(plain, ops.sub(1, ops.mul(capped, capped))), `difference.${i}`);
  }
  return graph;
}

/** What lies below the head and is differentiated. */
export interface HeadInputs {
  /** Whether something below the head is trained. */
  readonly inputGradient: boolean;
  readonly trainNorm: boolean;
  /** Of a layer norm. */
  readonly trainNormBias: boolean;
}

/**
 * What headLossSegment gives, with its rows and table → as `wrt` says `dx` [N,C] (rows of the piece only), `gradient.norm` [C], `gradient.normBias` [C]; when
 * `adding`, to `sum.norm` and `sum.normBias`. dh = factor ∘ (Σ differences · table).
 */
export function headInputSegment(config: DecoderConfig, outputs: number, { inputGradient, trainNorm, trainNormBias }: HeadInputs, adding: boolean): Graph {
  const { graph, selected, gain, bias, h } = normalizedRows('head-input', config);
  const factor = graph.input('factor', 'float32', ['N', 1]);
  const tables = tableBlocks(graph, 'table', config, outputs);
  const product = differenceBlocks(graph, outputs).reduce<Value | undefined>(
    (sum, difference, i) => (sum === undefined ? ops.matMul(difference, tables[i]!) : ops.gemm(difference, tables[i]!, sum)), undefined,
  );
  const wrt = [
    ...(inputGradient ? [{ value: selected, name: 'dx', sum: undefined }] : []),
    ...(trainNorm ? [{ value: gain, name: 'gradient.norm', sum: 'sum.norm' }] : []),
    ...(trainNormBias ? [{ value: bias!, name: 'gradient.normBias', sum: 'sum.normBias' }] : []),
  ];
  const cotangents = backward(graph, new Map([[h, ops.mul(product!, factor)]]), wrt.map(({ value }) => value));
  for (const [i, { value, name, sum }] of wrt.entries()) {
    const cotangent = cotangents[i] ?? null;
    if (cotangent === null) throw new Error(`the head does not depend on ${value.name}`);
    graph.output(adding && sum !== undefined ? ops.add(graph.input(sum, 'float32', value.shape), cotangent) : cotangent, name);
  }
  return graph;
}

/**
 * What headLossSegment gives, with its rows → `gradient.head.0`, ... [size,C], written, or added to `sum.head.0`, ... (which may be their memory) when
 * `adding`: differencesᵀ · (factor ∘ h).
 */
export function headTableSegment(config: DecoderConfig, outputs: number, adding: boolean): Graph {
  const { graph, h } = normalizedRows('head-table', config);
  const scaled = ops.mul(h, graph.input('factor', 'float32', ['N', 1]));
  const sums = adding ? tableBlocks(graph, 'sum.head', config, outputs) : undefined;
  for (const [i, difference] of differenceBlocks(graph, outputs).entries()) {
    const gradient = sums === undefined ? ops.fusedMatMul(difference, scaled, { transA: true }) : ops.gemm(difference, scaled, sums[i]!, { transA: true });
    graph.output(gradient, `gradient.head.${i}`);
  }
  return graph;
}

/** Logits of the rows of x [M,C] at `rows` [N] → [N,outputs], with the whole `table` [outputs,C]. */
export function logitsSegment(config: DecoderConfig, outputs: number): Graph {
  const { graph, h } = normalizedRows('logits', config);
  graph.output(logitsOf(config, h, graph.input('table', 'float32', [outputs, config.hiddenSize])), 'logits');
  return graph;
}
