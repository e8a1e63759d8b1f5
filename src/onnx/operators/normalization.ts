/** Layer normalizations over the last dimension: x [..., C], gain [C]. Statistics are float32 whatever x is (stash_type 1). */
import type { Value } from '../graph.js';
import { check, float, floating, int, sameDType } from './node.js';

function gainFits(operator: string, x: Value, gain: Value): void {
  floating(operator, x, gain);
  sameDType(operator, x, gain);
  check(x.shape.length >= 1 && gain.shape.length === 1 && gain.shape[0] === x.shape.at(-1), operator, 'the gain is not [C]', x, gain);
}

/** RMSNorm: y = x·r·gain with r = 1/sqrt(mean(x²) + epsilon), [..., 1]. (Zhang & Sennrich 2019.) */
export function simplifiedLayerNorm(
  x: Value,
  gain: Value,
  options: { readonly epsilon: number },
): { readonly y: Value; readonly inverseDeviation: Value } {
  gainFits('SimplifiedLayerNormalization', x, gain);
  const [y, inverseDeviation] = x.graph.emit({
    operator: 'SimplifiedLayerNormalization',
    inputs: [x, gain],
    outputs: [x, { dtype: 'float32', shape: [...x.shape.slice(0, -1), 1] }],
    attributes: { axis: int(-1), epsilon: float(options.epsilon), stash_type: int(1) },
  }) as [Value, Value];
  return { y, inverseDeviation };
}

/** y = (x − mean)·r·gain + bias with r = 1/sqrt(variance + epsilon). (Ba et al. 2016.) */
export function layerNorm(
  x: Value,
  gain: Value,
  bias: Value | null,
  options: { readonly epsilon: number },
): { readonly y: Value; readonly mean: Value; readonly inverseDeviation: Value } {
  gainFits('LayerNormalization', x, gain);
  if (bias !== null) gainFits('LayerNormalization', x, bias);
  const statistic = { dtype: 'float32' as const, shape: [...x.shape.slice(0, -1), 1] };
  const [y, mean, inverseDeviation] = x.graph.emit({
    operator: 'LayerNormalization',
    inputs: bias === null ? [x, gain] : [x, gain, bias],
    outputs: [x, statistic, statistic],
    attributes: { axis: int(-1), epsilon: float(options.epsilon), stash_type: int(1) },
  }) as [Value, Value, Value];
  return { y, mean, inverseDeviation };
}

/** RMSNorm of sum = input + skip, both returned. Serving form: no gradient rule. x [B,T,C] or [T,C]. */
export function skipSimplifiedLayerNorm(
  input: Value,
  skip: Value,
  gain: Value,
  options: { readonly epsilon: number },
): { readonly y: Value; readonly sum: Value } {
  gainFits('SkipSimplifiedLayerNormalization', input, gain);
  sameDType('SkipSimplifiedLayerNormalization', input, skip);
  check(
    input.shape.length === skip.shape.length && input.shape.every((dim, i) => dim === skip.shape[i]),
    'SkipSimplifiedLayerNormalization',
    'shapes differ',
    input,
    skip,
  );
  const [y, , , sum] = input.graph.emit({
    operator: 'SkipSimplifiedLayerNormalization',
    domain: 'com.microsoft',
    inputs: [input, skip, gain],
    outputs: [input, null, null, input],
    attributes: { epsilon: float(options.epsilon) },
  });
  return { y: y as Value, sum: sum as Value };
}
