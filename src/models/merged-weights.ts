/**
 * The weights of a base with an adapter or variant merged into them, computed tensor by tensor when asked for, so that a merged
 * checkpoint can be written without a second copy of the model in memory. The base is never changed.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { toFloat32, type HostTensor } from '../tensor/host-tensor.js';
import type { Checkpoint, WeightSource } from './checkpoint-types.js';
import type { DecoderConfig } from './config.js';
import type { LabelHead } from './hf-folder-write.js';
import { variantConfig, variantOrigin, type VariantArchitecture } from './variant-architecture.js';

/** weight + scaling · b · a */
export interface LowRankChange {
  readonly rank: number;
  readonly scaling: number;
  /** [rank, in] */
  readonly a: Float32Array;
  /** [out, rank] */
  readonly b: Float32Array;
}

export type WeightChange = (
  /** By module name, `model.layers.0.self_attn.q_proj`. */
  | { readonly kind: 'lora'; readonly modules: ReadonlyMap<string, LowRankChange> }
  /** Whole tensors by their Hugging Face name, and the architecture where it is not the base's. */
  | { readonly kind: 'variant'; readonly tensors: ReadonlyMap<string, HostTensor>; readonly architecture?: VariantArchitecture }
) & {
  /** Scores labels in the language model head's place. */
  readonly head?: LabelHead;
};

/** The model that the change makes: its config, and its weights by their names in it. `change` must fit the base, as the adapter registry checks. */
export function mergedModel(base: Pick<Checkpoint, 'config' | 'weights'>, change: WeightChange): { readonly config: DecoderConfig; readonly weights: Pick<WeightSource, 'float32'> } {
  const architecture = change.kind === 'variant' ? change.architecture : undefined;
  const source = { float32: (name: string) => base.weights.float32(variantOrigin(base.config, architecture, name)) };
  return { config: variantConfig(base.config, architecture), weights: mergedWeights(source, change) };
}

function mergedWeights(base: Pick<WeightSource, 'float32'>, change: WeightChange): Pick<WeightSource, 'float32'> {
  if (change.kind === 'variant') {
    return {
      float32(name) {
        const tensor = change.tensors.get(name);
        return tensor === undefined ? base.float32(name) : Promise.resolve(toFloat32(tensor));
      },
    };
  }
  return {
    async float32(name) {
      const weight = await base.float32(name);
      const module = name.endsWith('.weight') ? change.modules.get(name.slice(0, -'.weight'.length)) : undefined;
      if (module !== undefined) await addLowRank(weight, module);
      return weight;
    },
  };
}

/** About 2 ms of work between turns of the event loop. */
const PRODUCTS_PER_TURN = 1 << 21;

/** weight [out, in] += scaling · b · a, each element summed in float64 and rounded once. */
async function addLowRank(weight: Float32Array, { rank, scaling, a, b }: LowRankChange): Promise<void> {
  const outputs = b.length / rank;
  const inputs = a.length / rank;
  const sums = new Float64Array(inputs);
  const rowsPerTurn = Math.ceil(PRODUCTS_PER_TURN / a.length);
  for (let out = 0; out < outputs; out++) {
    if (out % rowsPerTurn === 0) await nextTurn();
    sums.fill(0);
    for (let r = 0; r < rank; r++) {
      const factor = scaling * (b[out * rank + r] as number);
      for (let i = 0; i < inputs; i++) sums[i] = (sums[i] as number) + factor * (a[r * inputs + i] as number);
    }
    for (let i = 0; i < inputs; i++) weight[out * inputs + i] = (weight[out * inputs + i] as number) + (sums[i] as number);
  }
}
