/**
 * The training form's ends but for the head (training-form-head.ts): embedding lookup and its gradient, and the way from a micro-batch's
 * rows to pieces of them and back.
 * Invariant: nothing here depends on the order in which threads finish; sums over equal tokens are products, not scattered adds.
 */
import { Graph, ops, type Value } from '../onnx/index.js';
import { familyOf, type DecoderConfig } from './config.js';
import { dropped, EMBEDDING_DROPOUT_MASK } from './training-form-dropout.js';
import { TOKENS } from './training-form-linear.js';

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
