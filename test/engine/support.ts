/** Shared by the engine's tests: a tiny Llama served by a runtime, adapters made up for it, and reference runs over the sessions. */
import { fileURLToPath } from 'node:url';
import type { AdapterContent } from '../../src/adapters/index.js';
import { Xoshiro128 } from '../../src/common/random.js';
import { ServingModel } from '../../src/engine/serving-model.js';
import { ServingWeights } from '../../src/engine/serving-weights.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { loraModules } from '../../src/models/serving-form-lora.js';
import type { ServingForm } from '../../src/models/serving-form-weights.js';
import { type Runtime } from '../../src/runtime/index.js';

export const goldenPath = (name: string): string => fileURLToPath(new URL(`../golden/${name}`, import.meta.url));

export async function openTiny(name = 'tiny-serving'): Promise<Checkpoint> {
  return openCheckpoint(goldenPath(name), { id: name });
}

export async function serve(runtime: Runtime, checkpoint: Checkpoint, form: ServingForm, contextTokens: number): Promise<ServingModel> {
  const weights = await ServingWeights.load(runtime, checkpoint, form, contextTokens);
  return new ServingModel({ runtime, checkpoint, weights, config: checkpoint.config, form, contextTokens });
}

/** A LoRA adapter with random matrices on all linear modules, or on those that `on` accepts. */
export function randomLora(checkpoint: Checkpoint, seed: number, rank: number, on: (module: string) => boolean = () => true): AdapterContent & { kind: 'lora' } {
  const random = new Xoshiro128(seed);
  const noise = (count: number, size: number): Float32Array => Float32Array.from({ length: count }, () => (random.nextUint32() / 2 ** 32 - 0.5) * size);
  const modules = loraModules(checkpoint.config).filter(({ module }) => on(module));
  return {
    kind: 'lora', digest: `sha256:lora-${seed}-${rank}`,
    modules: new Map(modules.map(({ module, inputs, outputs }) =>
      [module, { module, rank, scaling: 1.5, a: noise(rank * inputs, 0.5), b: noise(outputs * rank, 0.5) }])),
  };
}

/** Log-softmax of a row, in float64. */
export function logSoftmax(logits: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(logits);
  const largest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = values.reduce((total, v) => total + Math.exp(v - largest), 0);
  return values.map((v) => v - largest - Math.log(sum));
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} and ${b.length} values`);
  let largest = 0;
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!));
  return largest;
}

/** Logits [tokens, V] of one sequence in one pass from an empty past. */
export async function oneShotLogits(model: Pick<ServingModel, 'runtime' | 'session'>, tokens: readonly number[]): Promise<Float32Array> {
  const { runtime } = model;
  const batch = await model.session('batch.none');
  const head = await model.session('head');
  const { hidden } = await batch.call({
    tokens: runtime.from(tokens, 'int64', [1, tokens.length]),
    last_index: runtime.from([tokens.length - 1], 'int32', [1]),
    longest: runtime.from([tokens.length], 'int32', []),
    rows: runtime.from(tokens.map((_, i) => i), 'int64', [tokens.length]),
  }, { lane: 'generation' });
  const { logits } = await head.call({ hidden: hidden! }, { lane: 'generation' });
  return logits!.f32().slice();
}
