/** A decoder in float64 on plain arrays, for tests of exact properties: every sum runs in index order, whatever the widths. */
import { ropeTables, type DecoderConfig } from '../../src/models/config.js';
import { decoderLayer, EMBEDDING_WEIGHT, FINAL_NORM, HEAD_WEIGHT, layerPrefix, type DecoderLowering } from '../../src/models/decoder.js';

/** [T][width] */
type Rows = readonly Float64Array[];

function linear(x: Rows, weight: Float32Array, bias: Float32Array | undefined): Rows {
  const width = x[0]!.length;
  return x.map((row) =>
    Float64Array.from({ length: weight.length / width }, (_, out) => {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += row[i]! * weight[out * width + i]!;
      return sum + (bias?.[out] ?? 0);
    }),
  );
}

export interface Float64Decoder {
  /** [T,V] in rows. */
  logits(tokens: readonly number[]): Rows;
  /** Streams [T][C] before layer 0, after layer 0, … */
  readonly streams: Rows[];
  /** silu(gate)·up [T][F] of every layer. */
  readonly activations: Rows[];
}

export function float64Decoder(config: DecoderConfig, weight: (name: string) => Float32Array | undefined): Float64Decoder {
  const need = (name: string): Float32Array => {
    const data = weight(name);
    if (data === undefined) throw new Error(`no ${name}`);
    return data;
  };
  const { heads, kvHeads, headDim } = config;
  const streams: Rows[] = [];
  const activations: Rows[] = [];
  const norm = (stream: Rows, name: string): Rows =>
    stream.map((row) => {
      const deviation = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / row.length + config.rmsNormEpsilon);
      return row.map((value, i) => (value / deviation) * need(`${name}.weight`)[i]!);
    });
  const rotate = (x: Rows): Rows => {
    const { cos, sin } = ropeTables(config, x.length);
    const half = headDim / 2;
    return x.map((row, t) =>
      row.map((value, i) => {
        const at = i % headDim;
        const other = at < half ? -row[i + half]! : row[i - half]!;
        return value * cos[t * half + (at % half)]! + other * sin[t * half + (at % half)]!;
      }),
    );
  };
  const llamaHasNone = (): never => {
    throw new Error('not a step of the Llama family');
  };
  const lowering: DecoderLowering<Rows, Rows> = {
    norm,
    read: llamaHasNone,
    normOutput: llamaHasNone,
    normQueryKey: llamaHasNone,
    scale: llamaHasNone,
    project: (x, modules) => modules.map((module) => linear(x, need(`${module}.weight`), weight(`${module}.bias`))),
    attention([q, k, v]) {
      const [query, key] = [rotate(q!), rotate(k!)];
      return query.map((row, t) => {
        const out = new Float64Array(heads * headDim);
        for (let head = 0; head < heads; head++) {
          const shared = Math.floor(head / (heads / kvHeads)) * headDim;
          const scores = key.slice(0, t + 1).map((other) => {
            let sum = 0;
            for (let i = 0; i < headDim; i++) sum += row[head * headDim + i]! * other[shared + i]!;
            return Math.exp(sum / Math.sqrt(headDim));
          });
          const total = scores.reduce((sum, score) => sum + score, 0);
          for (let i = 0; i < headDim; i++) out[head * headDim + i] = scores.reduce((sum, score, s) => sum + (score / total) * v![s]![shared + i]!, 0);
        }
        return out;
      });
    },
    feedForwardUnit([gate, up]) {
      const out = gate!.map((row, t) => row.map((value, i) => (value / (1 + Math.exp(-value))) * up![t]![i]!));
      activations.push(out);
      return out;
    },
    residual: (stream, delta) => stream.map((row, t) => row.map((value, i) => value + delta[t]![i]!)),
  };
  return {
    streams,
    activations,
    logits(tokens) {
      streams.length = 0;
      activations.length = 0;
      const embedding = need(EMBEDDING_WEIGHT);
      const c = config.hiddenSize;
      let stream: Rows = tokens.map((token) => Float64Array.from(embedding.subarray(token * c, (token + 1) * c)));
      streams.push(stream);
      for (let layer = 0; layer < config.layers; layer++) streams.push((stream = decoderLayer(lowering, config, layerPrefix(layer), stream)));
      return linear(norm(stream, FINAL_NORM), config.tieWordEmbeddings ? embedding : need(HEAD_WEIGHT), undefined);
    },
  };
}
