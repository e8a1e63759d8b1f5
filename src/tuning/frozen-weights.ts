/**
 * In which forms a layer's frozen linear weights come to its segments, and their tensors. Invariant: only weights that are the base's own
 * take an integer form; one that is trained, or was changed by an earlier stage, is float32.
 */
import type { DecoderConfig } from '../models/config.js';
import { LINEAR_MODULES, type LinearModule } from '../models/decoder.js';
import { layerParameters } from '../models/training-form.js';
import { integerInputs, type FrozenWeights, type IntegerForm } from '../models/training-form-weights.js';
import type { Tensor } from '../runtime/index.js';
import type { StageModel } from './layer-pass.js';
import type { BaseLease } from './training-host.js';

/** Modules whose forward product may be of integers too: elsewhere it costs more of the gradient than it gains (docs/performance.md). */
const INTEGER_FORWARD: ReadonlySet<LinearModule> = new Set(['mlp.gate_proj', 'mlp.up_proj']);

/** `differentiated`: the layer has a backward segment; without one its products stay float32. */
export function frozenForms(config: DecoderConfig, lease: BaseLease, model: StageModel, prefix: string, differentiated: boolean): FrozenWeights {
  const parameters = layerParameters(config, new Map());
  const forms = new Map<LinearModule, readonly IntegerForm[]>();
  for (const module of LINEAR_MODULES.filter((name) => parameters.has(`${name}.weight`))) {
    const base = model.baseName(`${prefix}.${module}.weight`);
    if (base === undefined) continue;
    const held = lease.held(base);
    if (held !== 'float32') forms.set(module, [held]);
    else if (lease.use.int8Products === true && differentiated) forms.set(module, INTEGER_FORWARD.has(module) ? ['int8ByInput', 'int8ByOutput'] : ['int8ByInput']);
  }
  return forms;
}

/** Tensors of those forms by the names of their inputs, and the local names of the weights that they take the place of. */
export async function integerTensors(lease: BaseLease, model: StageModel, prefix: string, frozen: FrozenWeights): Promise<{ readonly tensors: Map<string, Tensor>; readonly instead: ReadonlySet<string> }> {
  const tensors = new Map<string, Tensor>();
  const instead = new Set<string>();
  for (const [module, forms] of frozen) {
    const local = `${module}.weight`;
    for (const form of forms) {
      const names = integerInputs(local, form);
      const { values, scales } = await lease.integers(model.baseName(`${prefix}.${local}`)!, form);
      tensors.set(names.values, values).set(names.scales, scales);
      if (form === 'int8' || form === 'int4') instead.add(local);
    }
  }
  return { tensors, instead };
}
