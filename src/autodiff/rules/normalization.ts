/** Rules of the normalizations and of rotary embedding, in terms of what the forward operator has computed already. */
import { graphError, ops, type Value } from '../../onnx/index.js';
import { numberOf, type Rule } from '../rule.js';

const { add, cast, mul, neg, reduceMean, reduceSum, sub } = ops;

/** Sums over all dimensions but the last: [..., C] to [C]. */
function overRows(x: Value): Value {
  return reduceSum(
    x,
    x.shape.slice(0, -1).map((_, i) => i),
    false,
  );
}

/**
 * y = x·r·gain, r = (mean(x²) + ε)^(-1/2). With g = d·gain: dx = r·g − x·r³·mean(g·x), and r's own cotangent adds −x·r³/C of it.
 */
const rmsNorm: Rule = (c) => {
  const [x, gain] = c.inputs as [Value, Value];
  const r = cast(c.outputs[1] as Value, x.dtype);
  const d = c.cotangents[0] ?? null;
  const given = c.cotangents[1] ?? null;
  const dr = given === null ? null : cast(given, x.dtype);
  const width = x.shape[x.shape.length - 1];
  if (typeof width !== 'number')
    throw graphError('SimplifiedLayerNormalization', 'needs a fixed last dimension to be differentiated', c.node.origin);
  let dx: Value | null = null;
  if (c.needs[0] === true) {
    const cubed = mul(r, mul(r, r));
    const g = d === null ? null : mul(d, gain);
    let pull = g === null ? null : reduceMean(mul(g, x), [-1]);
    if (dr !== null) pull = pull === null ? mul(dr, 1 / width) : add(pull, mul(dr, 1 / width));
    const away = mul(x, mul(pull as Value, cubed));
    dx = g === null ? neg(away) : sub(mul(g, r), away);
  }
  return [dx, c.needs[1] === true && d !== null ? overRows(mul(d, mul(x, r))) : null];
};

/** y = n·gain + bias with n = (x − mean)·r. With g = d·gain: dx = r·(g − mean(g) − n·mean(g·n)). */
const layerNorm: Rule = (c) => {
  const [x, gain] = c.inputs as [Value, Value];
  const [mean, r] = c.outputs.slice(1).map((statistic) => cast(statistic as Value, x.dtype)) as [Value, Value];
  if (c.cotangents[1] != null || c.cotangents[2] != null) {
    throw graphError('LayerNormalization', 'has no gradient rule for its mean and inverse deviation', c.node.origin);
  }
  const n = mul(sub(x, mean), r);
  let dx: Value | null = null;
  if (c.needs[0] === true) {
    const g = mul(c.d, gain);
    dx = mul(r, sub(sub(g, reduceMean(g, [-1])), mul(n, reduceMean(mul(g, n), [-1]))));
  }
  return [dx, c.needs[1] === true ? overRows(mul(c.d, n)) : null, c.needs[2] === true ? overRows(c.d) : null];
};

/** A rotation's adjoint is the rotation back: the same operator with the sines negated. */
const rotary: Rule = (c) => {
  const [, positions, cos, sin] = c.inputs as [Value, Value, Value, Value];
  if (c.needs[2] === true || c.needs[3] === true) {
    throw graphError('RotaryEmbedding', 'has no gradient rule for its tables of cosines and sines', c.node.origin);
  }
  const options = { numHeads: numberOf(c.node, 'num_heads'), interleaved: numberOf(c.node, 'interleaved') === 1 };
  return [ops.rotaryEmbedding(c.d, positions, cos, neg(sin), options)];
};

export const normalization: Readonly<Record<string, Rule>> = {
  SimplifiedLayerNormalization: rmsNorm,
  LayerNormalization: layerNorm,
  'com.microsoft.RotaryEmbedding': rotary,
};
