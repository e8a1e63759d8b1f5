/**
 * The training form's ends: embedding lookup and its gradient, the head with its loss, and logits. All run on pieces of a
 * micro-batch, so that no run is long and no run holds logits of more than a piece.
 * Invariant: nothing here depends on the order in which threads finish; sums over equal tokens are products, not scattered adds.
 */
import { backward, customVjp } from '../autodiff/index.js';
import { Graph, ops, type Value } from '../onnx/index.js';
import type { DecoderConfig } from './config.js';
import { dropped, EMBEDDING_DROPOUT_MASK } from './training-form-dropout.js';
import { TOKENS } from './training-form-linear.js';

/** tokens [B,T], table [V,C] → y [B*T, C]; `dropoutScale` where embeddings are dropped. */
export function embeddingSegment(config: DecoderConfig, dropoutScale?: number): Graph {
  const graph = new Graph('embedding');
  const tokens = graph.input('tokens', 'int64', ['B', 'T']);
  const table = graph.input('table', 'float32', [config.vocabSize, config.hiddenSize]);
  const y = ops.reshape(ops.gather(table, tokens, 0), [TOKENS, config.hiddenSize]);
  graph.output(dropped(y, EMBEDDING_DROPOUT_MASK, [TOKENS, config.hiddenSize], dropoutScale), 'y');
  return graph;
}

/**
 * sum [V,C] + Σ over positions of dy, at each position's token → gradient [V,C] (may be sum's memory). tokens [N], dy [N,C];
 * `distinct` [U] holds each token that occurs once. Positions of one token are summed by a product with their membership matrix,
 * which is deterministic; then every row of the table is written at most once. `dropoutScale` as in the lookup, with the mask's rows [N,C].
 */
export function embeddingGradientSegment(config: DecoderConfig, dropoutScale?: number): Graph {
  const graph = new Graph('embedding-gradient');
  const tokens = graph.input('tokens', 'int64', ['N']);
  const distinct = graph.input('distinct', 'int64', ['U']);
  const dy = graph.input('dy', 'float32', ['N', config.hiddenSize]);
  const sum = graph.input('sum', 'float32', [config.vocabSize, config.hiddenSize]);
  const member = ops.cast(ops.equal(ops.unsqueeze(distinct, [1]), ops.unsqueeze(tokens, [0])), 'float32');
  graph.output(ops.scatterND(sum, ops.unsqueeze(distinct, [1]), ops.matMul(member, dropped(dy, EMBEDDING_DROPOUT_MASK, ['N', config.hiddenSize], dropoutScale)), 'add'), 'gradient');
  return graph;
}

export interface HeadKind {
  /** What a row is scored over: V tokens, or the K labels of a classification head. */
  readonly outputs: number;
  readonly trainHead: boolean;
  readonly trainNorm: boolean;
  /** Whether something below the head is trained. */
  readonly inputGradient: boolean;
  /** Adds to `sum.head` and `sum.norm` instead of writing. */
  readonly adding: boolean;
}

/**
 * One piece of the head with loss: rows of x [M,C] at `rows` [N], their `targets` [N] (indices of outputs), gain [C], table [outputs,C]
 * → losses [N], the cross entropies in nats. As the kind says, also the gradients of Σ weights · losses with `weights` [N]: dx [N,C] (rows of
 * the piece only), gradient.head [outputs,C], gradient.norm [C]. With the token table this is the language model's head, with a
 * score matrix [K,C] the classification head of transformers' *ForSequenceClassification.
 */
export function headSegment(config: DecoderConfig, kind: HeadKind): Graph {
  const { hiddenSize: c } = config;
  const graph = new Graph('head');
  const x = graph.input('x', 'float32', ['M', c]);
  const rows = graph.input('rows', 'int64', ['N']);
  const targets = graph.input('targets', 'int64', ['N']);
  const gain = graph.input('gain', 'float32', [c]);
  const table = graph.input('table', 'float32', [kind.outputs, c]);
  const sumHead = kind.adding && kind.trainHead ? graph.input('sum.head', 'float32', [kind.outputs, c]) : null;
  const sumNorm = kind.adding && kind.trainNorm ? graph.input('sum.norm', 'float32', [c]) : null;
  const selected = ops.gather(x, rows, 0);
  const normed = ops.simplifiedLayerNorm(selected, gain, { epsilon: config.rmsNormEpsilon }).y;
  const losses = crossEntropy(normed, table, ops.unsqueeze(targets, [1]), sumHead);
  graph.output(ops.squeeze(losses, [1]), 'losses');
  const wrt = [...(kind.inputGradient ? [selected] : []), ...(kind.trainHead ? [table] : []), ...(kind.trainNorm ? [gain] : [])];
  if (wrt.length === 0) return graph;
  const seed = ops.unsqueeze(graph.input('weights', 'float32', ['N']), [1]);
  backward(graph, new Map([[losses, seed]]), wrt).forEach((cotangent, i) => {
    if (cotangent === null) throw new Error(`the head does not depend on ${wrt[i]?.name ?? ''}`);
    if (wrt[i] === selected) graph.output(cotangent, 'dx');
    else if (wrt[i] === table) graph.output(cotangent, 'gradient.head');
    else graph.output(sumNorm === null ? cotangent : ops.add(sumNorm, cotangent), 'gradient.norm');
  });
  return graph;
}

/**
 * −log softmax(h·Eᵀ)[target] per row, [N,1]. With D = P − onehot(target): dh = d·(D·E), dE = Dᵀ·(d∘h) (+ sum). The one-hot matrix is
 * never formed: D is P with one element a row lowered by 1.
 */
function crossEntropy(h: Value, table: Value, targets: Value, sum: Value | null): Value {
  let logProbabilities: Value;
  const [losses] = customVjp(
    [h, table],
    () => {
      logProbabilities = ops.logSoftmax(ops.fusedMatMul(h, table, { transB: true }), -1);
      return [ops.neg(ops.gatherElements(logProbabilities, targets, 1))];
    },
    ([d], [needsH, needsTable]) => {
      const minusOne = ops.expand(h.graph.constant([-1], 'float32', [1, 1]), targets);
      const difference = ops.scatterElements(ops.exp(logProbabilities), targets, minusOne, 1, 'add');
      const dh = needsH === true ? ops.mul(ops.matMul(difference, table), d!) : null;
      const dTable = needsTable === true ? tableGradient(difference, ops.mul(h, d!), sum) : null;
      return [dh, dTable];
    },
  );
  return losses!;
}

function tableGradient(difference: Value, h: Value, sum: Value | null): Value {
  return sum === null ? ops.fusedMatMul(difference, h, { transA: true }) : ops.gemm(difference, h, sum, { transA: true });
}

/** Puts the rows of pieces back: `updates` [N,C] at `rows` [N] of a zero matrix with the shape of x [M,C] → dx [M,C]. */
export function scatterRowsSegment(config: DecoderConfig): Graph {
  const graph = new Graph('scatter-rows');
  const x = graph.input('x', 'float32', ['M', config.hiddenSize]);
  const rows = graph.input('rows', 'int64', ['N']);
  const updates = graph.input('updates', 'float32', ['N', config.hiddenSize]);
  const zeros = ops.expand(graph.constant([0], 'float32', [1, 1]), x);
  graph.output(ops.scatterND(zeros, ops.unsqueeze(rows, [1]), updates), 'dx');
  return graph;
}

/** Logits of the rows of x [M,C] at `rows` [N] → [N,outputs]. */
export function logitsSegment(config: DecoderConfig, outputs: number): Graph {
  const { hiddenSize: c } = config;
  const graph = new Graph('logits');
  const x = graph.input('x', 'float32', ['M', c]);
  const rows = graph.input('rows', 'int64', ['N']);
  const gain = graph.input('gain', 'float32', [c]);
  const table = graph.input('table', 'float32', [outputs, c]);
  const normed = ops.simplifiedLayerNorm(ops.gather(x, rows, 0), gain, { epsilon: config.rmsNormEpsilon }).y;
  graph.output(ops.fusedMatMul(normed, table, { transB: true }), 'logits');
  return graph;
}
