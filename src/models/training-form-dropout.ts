/**
 * Dropout in the training form (Srivastava et al. 2014): values times an input mask that holds 1 for those kept and 0 for those dropped,
 * and times a scale that keeps their mean. Graphs never draw; who draws masks and when is decided in src/tuning/dropout.ts.
 */
import { ops, type Dim, type Value } from '../onnx/index.js';

/** What kept values are multiplied by, 1 / (1 − p); nothing is dropped where it is absent. The masks are inputs by the names below. */
export interface LayerDropout {
  /** Of attention's probabilities, after the softmax. */
  readonly attention?: number;
  /** Of what attention and the feed-forward unit add to the stream. */
  readonly residual?: number;
}

/** uint8 [B, KV, (H/KV)*T, T], the memory of [B,H,T,T]. */
export const ATTENTION_DROPOUT_MASK = 'self_attn.dropout.mask';
/** uint8 [B*T, C]. */
export const residualDropoutMask = (sublayer: 'self_attn' | 'mlp'): string => `${sublayer}.residual_dropout.mask`;
/** uint8, the shape of the embeddings' rows. */
export const EMBEDDING_DROPOUT_MASK = 'dropout.mask';

/** `value` with dropout by the input `name`, which is declared at the first use; `value` itself where there is no scale. */
export function dropped(value: Value, name: string, shape: readonly Dim[], scale: number | undefined): Value {
  if (scale === undefined) return value;
  const { graph } = value;
  const mask = graph.has(name) ? graph.value(name) : graph.input(name, 'uint8', shape);
  return maskedBy(value, mask, scale);
}

/** `value` times a mask of zeros and ones and the scale of dropout. */
export function maskedBy(value: Value, mask: Value, scale: number): Value {
  return ops.mul(value, ops.mul(ops.cast(mask, 'float32'), scale));
}
