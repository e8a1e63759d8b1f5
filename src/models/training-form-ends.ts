/**
 * The training form's ends: embedding lookup and its gradient, the head with its loss, and logits. All run on pieces of a
 * micro-batch, so that no run is long and no run holds logits of more than a piece.
 * Invariant: nothing here depends on the order in which threads finish; sums over equal tokens are products, not scattered adds.
 */
import { backward, customVjp } from '../autodiff/index.js';
import { Graph, ops, type Value } from '../onnx/index.js';
import { familyOf, type DecoderConfig } from './config.js';
import { dropped, EMBEDDING_DROPOUT_MASK } from './training-form-dropout.js';
import { TOKENS } from './training-form-linear.js';
import { normalized } from './training-form-norm.js';

/**
 * tokens [B,T], table [V,C] → y [B*T, C], scaled as the config says; where positions are learned, with the rows of `position_table`
 * [P,C] at `positions` [B,T] added. `dropoutScale` where embeddings are dropped.
 */
export function embeddingSegment(config: DecoderConfig, dropoutScale?: number): Graph {
  const graph = new Graph('embedding');
  const tokens = graph.input('tokens', 'int64', ['B', 'T']);
  const table = graph.input('table', 'float32', [config.vocabSize, config.hiddenSize]);
  const rows = ops.gather(table, tokens, 0);
  const scaled = config.embeddingMultiplier === undefined ? rows : ops.mul(rows, config.embeddingMultiplier);
  const learned = (): Value =>
    ops.gather(graph.input('position_table', 'float32', [config.maxPositionTokens, config.hiddenSize]), graph.input('positions', 'int64', ['B', 'T']), 0);
  const y = ops.reshape(familyOf(config).positions === 'learned' ? ops.add(scaled, learned()) : scaled, [TOKENS, config.hiddenSize]);
  graph.output(dropped(y, EMBEDDING_DROPOUT_MASK, [TOKENS, config.hiddenSize], dropoutScale), 'y');
  return graph;
}

/**
 * sum [V,C] + Σ over positions of dy, at each position's token → gradient [V,C] (may be sum's memory). tokens [N], dy [N,C];
 * `distinct` [U] holds each token that occurs once. Positions of one token are summed by a product with their membership matrix,
 * which is deterministic; then every row of the table is written at most once. `dropoutScale` as in the lookup, with the mask's rows [N,C].
 * `of` 'positions' is the table of learned positions [P,C], with positions for tokens.
 */
export function embeddingGradientSegment(config: DecoderConfig, dropoutScale?: number, of: 'tokens' | 'positions' = 'tokens'): Graph {
  const graph = new Graph('embedding-gradient');
  const multiplier = of === 'tokens' ? (config.embeddingMultiplier ?? 1) : 1;
  const tokens = graph.input('tokens', 'int64', ['N']);
  const distinct = graph.input('distinct', 'int64', ['U']);
  const dy = graph.input('dy', 'float32', ['N', config.hiddenSize]);
  const sum = graph.input('sum', 'float32', [of === 'tokens' ? config.vocabSize : config.maxPositionTokens, config.hiddenSize]);
  const member = ops.cast(ops.equal(ops.unsqueeze(distinct, [1]), ops.unsqueeze(tokens, [0])), 'float32');
  const rows = ops.fusedMatMul(member, dropped(dy, EMBEDDING_DROPOUT_MASK, ['N', config.hiddenSize], dropoutScale), { alpha: multiplier });
  graph.output(ops.scatterND(sum, ops.unsqueeze(distinct, [1]), rows, 'add'), 'gradient');
  return graph;
}

export interface HeadKind {
  /** What a row is scored over: V tokens, or the K labels of a classification head. */
  readonly outputs: number;
  readonly trainHead: boolean;
  readonly trainNorm: boolean;
  /** Of a layer norm. */
  readonly trainNormBias?: boolean;
  /** Whether something below the head is trained. */
  readonly inputGradient: boolean;
  /** Adds to `sum.head`, `sum.norm` and `sum.normBias` instead of writing. */
  readonly adding: boolean;
}

/**
 * One piece of the head with loss: rows of x [M,C] at `rows` [N], their `targets` [N] (indices of outputs), gain [C], of a layer norm
 * bias [C], table [outputs,C] → losses [N], the cross entropies in nats. As the kind says, also the gradients of Σ weights · losses with
 * `weights` [N]: dx [N,C] (rows of the piece only), gradient.head [outputs,C], gradient.norm [C], gradient.normBias [C]. With the token
 * table this is the language model's head, with a score matrix [K,C] the classification head of transformers' *ForSequenceClassification.
 */
export function headSegment(config: DecoderConfig, kind: HeadKind): Graph {
  const { hiddenSize: c } = config;
  const graph = new Graph('head');
  const x = graph.input('x', 'float32', ['M', c]);
  const rows = graph.input('rows', 'int64', ['N']);
  const targets = graph.input('targets', 'int64', ['N']);
  const { gain, bias } = finalNormInputs(graph, config);
  const table = graph.input('table', 'float32', [kind.outputs, c]);
  const sumHead = kind.adding && kind.trainHead ? graph.input('sum.head', 'float32', [kind.outputs, c]) : null;
  const sumNorm = kind.adding && kind.trainNorm ? graph.input('sum.norm', 'float32', [c]) : null;
  const sumNormBias = kind.adding && kind.trainNormBias === true ? graph.input('sum.normBias', 'float32', [c]) : null;
  const selected = ops.gather(x, rows, 0);
  const normed = normalized(config, selected, gain, bias).y;
  const losses = crossEntropy(config, normed, table, ops.unsqueeze(targets, [1]), sumHead);
  graph.output(ops.squeeze(losses, [1]), 'losses');
  const wrt = [...(kind.inputGradient ? [selected] : []), ...(kind.trainHead ? [table] : []), ...(kind.trainNorm ? [gain] : []), ...(kind.trainNormBias === true ? [bias!] : [])];
  if (wrt.length === 0) return graph;
  const seed = ops.unsqueeze(graph.input('weights', 'float32', ['N']), [1]);
  backward(graph, new Map([[losses, seed]]), wrt).forEach((cotangent, i) => {
    if (cotangent === null) throw new Error(`the head does not depend on ${wrt[i]?.name ?? ''}`);
    if (wrt[i] === selected) graph.output(cotangent, 'dx');
    else if (wrt[i] === table) graph.output(cotangent, 'gradient.head');
    else {
      const [sum, name] = wrt[i] === gain ? ([sumNorm, 'gradient.norm'] as const) : ([sumNormBias, 'gradient.normBias'] as const);
      graph.output(sum === null ? cotangent : ops.add(sum, cotangent), name);
    }
  });
  return graph;
}

/** The final norm's gain [C] and, of a layer norm, bias [C]. */
function finalNormInputs(graph: Graph, config: DecoderConfig): { gain: Value; bias: Value | undefined } {
  const gain = graph.input('gain', 'float32', [config.hiddenSize]);
  return { gain, bias: familyOf(config).norm === 'layer' ? graph.input('bias', 'float32', [config.hiddenSize]) : undefined };
}

/** Logits [N,V] of normalized rows h [N,C], divided and capped as the config says. */
function logitsOf({ logitDivisor = 1, logitSoftcap: cap }: DecoderConfig, h: Value, table: Value): Value {
  const z = ops.fusedMatMul(h, table, { transB: true, alpha: 1 / (logitDivisor * (cap ?? 1)) });
  return cap === undefined ? z : ops.mul(ops.tanh(z), cap);
}

/**
 * −log softmax(z)[target] per row, [N,1], with logits z = h·Eᵀ / divisor. With D = P − onehot(target): dh = d·(D·E) / divisor,
 * dE = Dᵀ·(d∘h) / divisor (+ sum). The one-hot matrix is never formed: D is P with one element a row lowered by 1. With a soft cap c,
 * D gets the factor 1 − (z/c)².
 */
function crossEntropy(config: DecoderConfig, h: Value, table: Value, targets: Value, sum: Value | null): Value {
  const { logitDivisor, logitSoftcap: cap } = config;
  let z: Value;
  let logProbabilities: Value;
  const [losses] = customVjp(
    [h, table],
    () => {
      z = logitsOf(config, h, table);
      logProbabilities = ops.logSoftmax(z, -1);
      return [ops.neg(ops.gatherElements(logProbabilities, targets, 1))];
    },
    ([d], [needsH, needsTable]) => {
      const minusOne = ops.expand(h.graph.constant([-1], 'float32', [1, 1]), targets);
      const plain = ops.scatterElements(ops.exp(logProbabilities), targets, minusOne, 1, 'add');
      const capped = cap === undefined ? undefined : ops.div(z, cap);
      const difference = capped === undefined ? plain : ops.mul(plain, ops.sub(1, ops.mul(capped, capped)));
      const factor = logitDivisor === undefined ? d! : ops.div(d!, logitDivisor);
      const dh = needsH === true ? ops.mul(ops.matMul(difference, table), factor) : null;
      const dTable = needsTable === true ? tableGradient(difference, ops.mul(h, factor), sum) : null;
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
  const { gain, bias } = finalNormInputs(graph, config);
  const table = graph.input('table', 'float32', [outputs, c]);
  graph.output(logitsOf(config, normalized(config, ops.gather(x, rows, 0), gain, bias).y, table), 'logits');
  return graph;
}
