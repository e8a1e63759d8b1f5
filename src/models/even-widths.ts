/**
 * A model whose layers differ in feed-forward width, as one whose layers are all as wide as the widest: neurons of zeros are added, which
 * compute nothing. For file formats that know one width. Tensors are padded one at a time, when they are read.
 */
import type { WeightSource } from './checkpoint-types.js';
import { feedForwardSize, type DecoderConfig } from './config.js';

type Weights = Pick<WeightSource, 'float32'>;

const FEED_FORWARD = /^model\.layers\.(\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.(weight|bias)$/;

/** The model itself where its layers are alike. */
export function evenWidths(config: DecoderConfig, weights: Weights): { readonly config: DecoderConfig; readonly weights: Weights } {
  const { intermediateSizes, ...even } = config;
  if (intermediateSizes === undefined) return { config, weights };
  const wide = config.intermediateSize;
  return {
    config: even,
    weights: {
      async float32(name) {
        const data = await weights.float32(name);
        const [, layer, module, kind] = FEED_FORWARD.exec(name) ?? [];
        const size = layer === undefined ? wide : feedForwardSize(config, Number(layer));
        if (size === wide || (module === 'down_proj' && kind === 'bias')) return data;
        const padded = new Float32Array((data.length / size) * wide);
        if (module !== 'down_proj') padded.set(data);
        else for (let row = 0; row < data.length / size; row++) padded.set(data.subarray(row * size, (row + 1) * size), row * wide);
        return padded;
      },
    },
  };
}
