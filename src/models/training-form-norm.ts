/** Norms of the training form: of the family's kind, over the last dimension, with gradients from the operators' own rules. */
import { ops, type Value } from '../onnx/index.js';
import { familyOf, type DecoderConfig } from './config.js';

/** Norm of x [..., W] with its gain [W] and, for a layer norm, its bias [W]. Also what is worth keeping of it, [..., 1] each. */
export function normalized(config: DecoderConfig, x: Value, gain: Value, bias: Value | undefined): { readonly y: Value; readonly statistics: Readonly<Record<string, Value>> } {
  const { norm } = familyOf(config);
  const epsilon = { epsilon: config.rmsNormEpsilon };
  if (norm === 'layer') {
    const { y, mean, inverseDeviation } = ops.layerNorm(x, gain, bias ?? null, epsilon);
    return { y, statistics: { mean, inverseDeviation } };
  }
  const { y, inverseDeviation } = ops.simplifiedLayerNorm(x, norm === 'rmsPlusOne' ? ops.add(gain, 1) : gain, epsilon);
  return { y, statistics: { inverseDeviation } };
}
