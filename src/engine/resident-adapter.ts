/**
 * A LoRA adapter in memory, packed for the serving form of one model, with its classification head where it has one: bound as it lies where all rows share it, copied into the
 * arena where rows differ. Immutable once packed.
 */
import type { LoraInput, LoraModule } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import type { DecoderConfig } from '../models/config.js';
import { loraLayout, loraModules, packLora } from '../models/serving-form-lora.js';
import type { Runtime, Tensor } from '../runtime/index.js';
import { ResidentHead } from './resident-head.js';
import type { Resident } from './resident-cache.js';

export class ResidentAdapter implements Resident {
  readonly kind = 'lora';
  readonly name: string;
  readonly digest: string;
  readonly rank: number;
  readonly bytes: number;
  /** Start of each matrix in `elements`, by graph input name. */
  readonly offsets: ReadonlyMap<string, number>;
  users = 0;
  lastUsedMs = 0;
  /** By graph input name, for graphs in which all rows share the adapter. */
  readonly inputs: ReadonlyMap<string, Tensor>;
  readonly #memory: Tensor;

  private constructor(
    readonly modelId: string, config: DecoderConfig, name: string, digest: string, rank: number, memory: Tensor, readonly head: ResidentHead | undefined,
  ) {
    this.name = name;
    this.digest = digest;
    this.rank = rank;
    this.bytes = memory.byteLength + (head?.bytes ?? 0);
    this.#memory = memory;
    const { tensors } = rank === 0 ? { tensors: [] } : loraLayout(config, rank);
    this.offsets = new Map(tensors.map((tensor) => [tensor.name, tensor.offset]));
    this.inputs = new Map(tensors.map((tensor) => [tensor.name, memory.view(tensor.shape, tensor.offset)]));
  }

  /** ADAPTER_INCOMPATIBLE, naming the module, when it does not fit the base. */
  static async pack(
    runtime: Runtime, modelId: string, config: DecoderConfig, name: string, digest: string, { modules, head }: Pick<LoraInput, 'modules' | 'head'>,
  ): Promise<ResidentAdapter> {
    checkModules(config, modules);
    const rank = Math.max(0, ...[...modules.values()].map((module) => module.rank));
    const memory = runtime.empty('float32', [rank === 0 ? 0 : loraLayout(config, rank).elements]);
    if (rank > 0) await packLora(config, rank, modules, memory.f32());
    return new ResidentAdapter(modelId, config, name, digest, rank, memory, head && new ResidentHead(runtime, head));
  }

  /** False for a classification head alone, which runs on the base as it is. */
  get changesLayers(): boolean {
    return this.rank > 0;
  }

  get elements(): Float32Array {
    return this.#memory.f32();
  }

  dispose(): void {
    for (const tensor of this.inputs.values()) tensor.dispose();
    this.#memory.dispose();
    this.head?.dispose();
  }
}

function checkModules(config: DecoderConfig, modules: ReadonlyMap<string, LoraModule>): void {
  const known = new Map(loraModules(config).map((sizes) => [sizes.module, sizes]));
  for (const [name, { rank, a, b }] of modules) {
    const sizes = known.get(name);
    const wrong = sizes === undefined
      ? 'is not a linear layer that adapters are served on'
      : a.length !== rank * sizes.inputs || b.length !== sizes.outputs * rank
        ? `does not have rank ${rank} over [${sizes.outputs},${sizes.inputs}]`
        : undefined;
    if (wrong !== undefined) throw new LoricaError('FAILED_PRECONDITION', 'ADAPTER_INCOMPATIBLE', `module ${name} ${wrong}`);
  }
}
