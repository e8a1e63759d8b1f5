/**
 * Rotary embedding and the attention operators of the serving form. D is the head dimension, H heads, KV key/value heads.
 * Only rotaryEmbedding has a gradient rule: the training form builds attention from products and softmax.
 */
import { broadcastShapes, divideDims, equalShapes, multiplyDims, type Dim } from '../dims.js';
import type { Attribute, Value } from '../graph.js';
import { check, dimAt, fail, flag, float, floating, int, one, sameDType, string } from './node.js';

export interface RotaryOptions {
  readonly numHeads: number;
  /** Pairs are neighbours (2i, 2i+1) instead of halves (i, i + D/2). */
  readonly interleaved?: boolean;
}

/**
 * Rotates each head by its position's angles (Su et al. 2021). x [B,T,H·D] or [B,H,T,D]; positions int64 [B,T] or [1] (an offset);
 * cos and sin [positions, D/2], or narrower: then only that many pairs at the start of each head of [B,T,H·D] are rotated.
 * com.microsoft RotaryEmbedding.
 */
export function rotaryEmbedding(x: Value, positions: Value, cos: Value, sin: Value, options: RotaryOptions): Value {
  const operator = 'RotaryEmbedding';
  floating(operator, x);
  sameDType(operator, x, cos, sin);
  check(positions.dtype === 'int64', operator, 'positions are not int64', positions);
  check(cos.shape.length === 2 && equalShapes(cos.shape, sin.shape), operator, 'cos and sin are not [positions, D/2]', cos, sin);
  check(x.shape.length === 3 || x.shape.length === 4, operator, 'x is neither [B,T,H*D] nor [B,H,T,D]', x);
  const half = dimAt(cos, 1);
  const whole = x.shape.length === 3 ? x.shape[2] === multiplyDims(2 * options.numHeads, half) : x.shape[1] === options.numHeads && x.shape[3] === multiplyDims(2, half);
  const width = divideDims(dimAt(x, 2), options.numHeads);
  const part = x.shape.length === 3 && typeof half === 'number' && typeof width === 'number' && 2 * half < width ? 2 * half : undefined;
  check(whole || part !== undefined, operator, `x is not ${options.numHeads} heads of at least twice the width of cos`, x, cos);
  const tokens: Dim[] = [dimAt(x, 0), dimAt(x, x.shape.length === 3 ? 1 : 2)];
  check(
    equalShapes(positions.shape, [1]) || equalShapes(positions.shape, tokens),
    operator,
    'positions are neither [B,T] nor [1]',
    x,
    positions,
  );
  const attributes = {
    num_heads: int(options.numHeads),
    interleaved: flag(options.interleaved ?? false),
    ...(part === undefined ? {} : { rotary_embedding_dim: int(part) }),
  };
  return one(x.graph, { operator, domain: 'com.microsoft', inputs: [x, positions, cos, sin], output: x, attributes });
}

export interface GroupQueryInputs {
  /** [B,T,(H+2·KV)·D], or query [B,T,H·D] with key and value [B,T,KV·D]. */
  readonly qkv?: Value;
  readonly query?: Value;
  readonly key?: Value;
  readonly value?: Value;
  /** [B,KV,slots,D]; bind present to the same buffers to update in place. Without them the past is empty. */
  readonly pastKey?: Value;
  readonly pastValue?: Value;
  /** int32 [B]: index of each row's last valid token after this call (its length minus one). */
  readonly seqlensK: Value;
  /** int32 []: the longest row's length after this call. */
  readonly totalSequenceLength: Value;
  /** [positions, D/2] or narrower, to rotate the start of each head; without them q and k are taken as they are. */
  readonly cos?: Value;
  readonly sin?: Value;
}

export interface GroupQueryOptions {
  readonly numHeads: number;
  readonly kvNumHeads: number;
  readonly scale?: number;
  readonly localWindowSize?: number;
  readonly softcap?: number;
}

export interface AttentionResult {
  /** [B,T,H·D]. */
  readonly y: Value;
  readonly presentKey: Value;
  readonly presentValue: Value;
}

/** Causal attention over a contiguous cache, rotary inside. com.microsoft GroupQueryAttention. */
export function groupQueryAttention(inputs: GroupQueryInputs, options: GroupQueryOptions): AttentionResult {
  const operator = 'GroupQueryAttention';
  const { numHeads, kvNumHeads } = options;
  const query = inputs.qkv ?? inputs.query;
  if (query === undefined) return fail(operator, 'neither qkv nor query is given');
  const { key = null, value = null } = inputs.qkv === undefined ? inputs : {};
  const { pastKey = null, pastValue = null, seqlensK, totalSequenceLength, cos = null, sin = null } = inputs;
  const batch = dimAt(query, 0);
  check(query.shape.length === 3 && numHeads % kvNumHeads === 0, operator, `${numHeads} heads over ${kvNumHeads} key/value heads`, query);
  check(
    (key === null) === (value === null) && (inputs.qkv !== undefined || key !== null),
    operator,
    'key and value come together',
    query,
    key,
    value,
  );
  const heads = key === null ? numHeads + 2 * kvNumHeads : numHeads;
  const headDim = divideDims(dimAt(query, 2), heads) ?? fail(operator, `the query is not ${heads} heads`, query);
  if (key !== null && value !== null) {
    const expected: Dim[] = [batch, dimAt(query, 1), multiplyDims(kvNumHeads, headDim)];
    check(
      equalShapes(key.shape, expected) && equalShapes(value.shape, expected),
      operator,
      'key and value are not [B,T,KV*D]',
      query,
      key,
      value,
    );
  }
  check((pastKey === null) === (pastValue === null), operator, 'pastKey and pastValue come together', pastKey, pastValue);
  const slots = pastKey === null ? dimAt(query, 1) : (pastKey.shape[2] ?? fail(operator, 'the past is not [B,KV,slots,D]', pastKey));
  const present = { dtype: query.dtype, shape: [batch, kvNumHeads, slots, headDim] };
  for (const past of [pastKey, pastValue])
    check(past === null || equalShapes(past.shape, present.shape), operator, 'the past is not [B,KV,slots,D]', query, past);
  check(seqlensK.dtype === 'int32' && equalShapes(seqlensK.shape, [batch]), operator, 'seqlensK is not int32 [B]', query, seqlensK);
  check(
    totalSequenceLength.dtype === 'int32' && totalSequenceLength.shape.length === 0,
    operator,
    'totalSequenceLength is not an int32 scalar',
    totalSequenceLength,
  );
  check((cos === null) === (sin === null), operator, 'cos and sin come together', cos, sin);
  const attributes: Record<string, Attribute> = {
    num_heads: int(numHeads),
    kv_num_heads: int(kvNumHeads),
    do_rotary: flag(cos !== null),
    ...(options.scale === undefined ? {} : { scale: float(options.scale) }),
    ...(options.localWindowSize === undefined ? {} : { local_window_size: int(options.localWindowSize) }),
    ...(options.softcap === undefined ? {} : { softcap: float(options.softcap) }),
  };
  const [y, presentKey, presentValue] = query.graph.emit({
    operator,
    domain: 'com.microsoft',
    attributes,
    inputs: [query, key, value, pastKey, pastValue, seqlensK, totalSequenceLength, ...(cos === null ? [] : [cos, sin])],
    outputs: [{ dtype: query.dtype, shape: [batch, dimAt(query, 1), multiplyDims(numHeads, headDim)] }, present, present],
  }) as [Value, Value, Value];
  return { y, presentKey, presentValue };
}

/**
 * `update` [B,KV,T,D] written into `past` [B,KV,slots,D] from slot writeIndices[b] (int64 [B]) on. Opset 24. In place when past and
 * result are bound to one buffer.
 */
export function tensorScatter(
  past: Value,
  update: Value,
  writeIndices: Value,
  options: { readonly axis?: number; readonly mode?: 'linear' | 'circular' } = {},
): Value {
  const operator = 'TensorScatter';
  const { axis = 2, mode = 'linear' } = options;
  check(past.graph.opset >= 24, operator, 'needs a graph of opset 24', past);
  sameDType(operator, past, update);
  const fits = past.shape.length === update.shape.length && past.shape.every((dim, i) => i === axis || dim === update.shape[i]);
  check(fits, operator, `past and update differ beside axis ${axis}`, past, update);
  check(
    writeIndices.dtype === 'int64' && equalShapes(writeIndices.shape, [dimAt(past, 0)]),
    operator,
    'writeIndices is not int64 [B]',
    past,
    writeIndices,
  );
  return one(past.graph, {
    operator,
    inputs: [past, update, writeIndices],
    output: past,
    attributes: { axis: int(axis), mode: string(mode) },
  });
}

export interface AttentionOptions {
  /** Bool or float, broadcasts to [B,H,T,slots]; true takes part. */
  readonly mask?: Value;
  /** int64 [B]: valid slots of each row. */
  readonly nonpadKvSequenceLength?: Value;
  readonly causal?: boolean;
  readonly scale?: number;
  readonly softcap?: number;
}

/** softmax(q·kᵀ·scale)·v with grouped heads: q [B,H,T,D], k and v [B,KV,slots,D] give [B,H,T,D]. ONNX Attention, opset 24. */
export function attention(query: Value, key: Value, value: Value, options: AttentionOptions = {}): Value {
  const operator = 'Attention';
  check(query.graph.opset >= 24, operator, 'needs a graph of opset 24', query);
  sameDType(operator, query, key, value);
  check(
    query.shape.length === 4 && key.shape.length === 4 && equalShapes(key.shape.slice(0, 3), value.shape.slice(0, 3)),
    operator,
    'needs q [B,H,T,D], k and v [B,KV,slots,D]',
    query,
    key,
    value,
  );
  check(
    divideDims(dimAt(query, 1), dimAt(key, 1)) !== undefined && query.shape[0] === key.shape[0] && query.shape[3] === key.shape[3],
    operator,
    'heads, rows or head dimension do not fit',
    query,
    key,
  );
  const { mask = null, nonpadKvSequenceLength: lengths = null } = options;
  if (mask !== null) {
    const scores = [dimAt(query, 0), dimAt(query, 1), dimAt(query, 2), dimAt(key, 2)];
    const shape = broadcastShapes(mask.shape, scores);
    check(shape !== undefined && equalShapes(shape, scores), operator, 'the mask does not broadcast to [B,H,T,slots]', query, key, mask);
  }
  const optional = lengths !== null ? [mask, null, null, lengths] : mask !== null ? [mask] : [];
  const attributes: Record<string, Attribute> = {
    is_causal: flag(options.causal ?? false),
    ...(options.scale === undefined ? {} : { scale: float(options.scale) }),
    ...(options.softcap === undefined ? {} : { softcap: float(options.softcap) }),
  };
  const shape = [...query.shape.slice(0, 3), dimAt(value, 3)];
  return one(query.graph, { operator, inputs: [query, key, value, ...optional], output: { dtype: query.dtype, shape }, attributes });
}
