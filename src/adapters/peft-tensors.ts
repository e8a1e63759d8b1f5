/** LoRA matrices to and from PEFT's tensor names: base_model.model.{module}.lora_A.weight [r,in] and .lora_B.weight [out,r]. */
import type { FieldViolation } from '../common/errors.js';
import { hostTensor, toFloat32, type HostTensor } from '../tensor/host-tensor.js';
import type { LoraModule } from './adapter.js';
import { incompatible } from './compatibility.js';
import type { PeftConfig } from './peft-config.js';

const PREFIX = 'base_model.model.';
const KEY = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/;
const FLOATS = new Set(['float32', 'float16', 'bfloat16', 'float64']);

/** The modules of a tensor file; INVALID_ARGUMENT / ADAPTER_INCOMPATIBLE naming every tensor that is no LoRA matrix, lacks its partner or disagrees with the configuration. */
export function toModules(tensors: ReadonlyMap<string, HostTensor>, config: PeftConfig, baseModel: string): Map<string, LoraModule> {
  const violations: FieldViolation[] = [];
  const pairs = new Map<string, Partial<Record<'A' | 'B', HostTensor>>>();
  for (const [name, tensor] of tensors) {
    const match = KEY.exec(name);
    if (match === null) {
      violations.push({ field: name, description: 'is not a LoRA matrix of a linear layer' });
      continue;
    }
    if (tensor.shape.length !== 2 || !FLOATS.has(tensor.dtype))
      violations.push({
        field: name,
        description: `is ${tensor.dtype} [${tensor.shape.join(',')}]; a matrix of floating point numbers is needed`,
      });
    const module = match[1] as string;
    pairs.set(module, { ...pairs.get(module), [match[2] as 'A' | 'B']: tensor });
  }
  const modules = new Map<string, LoraModule>();
  for (const [module, { A: a, B: b }] of pairs) {
    if (a === undefined || b === undefined) {
      violations.push({ field: `${PREFIX}${module}`, description: `has no lora_${a === undefined ? 'A' : 'B'}.weight` });
      continue;
    }
    const rank = a.shape[0] ?? 0;
    if (b.shape[1] !== rank || config.rank(module) !== rank) {
      violations.push({
        field: `${PREFIX}${module}`,
        description: `lora_A is [${a.shape.join(',')}], lora_B is [${b.shape.join(',')}], adapter_config.json says rank ${config.rank(module)}`,
      });
      continue;
    }
    if (violations.length === 0)
      modules.set(module, { module, rank, scaling: config.scaling(module, rank), a: toFloat32(a), b: toFloat32(b) });
  }
  if (violations.length > 0) throw incompatible(violations, baseModel);
  return modules;
}

/** The canonical tensors of modules: float32, under PEFT's names. Shares memory. */
export function fromModules(modules: Iterable<LoraModule>): Map<string, HostTensor> {
  const tensors = new Map<string, HostTensor>();
  for (const { module, rank, a, b } of modules) {
    tensors.set(`${PREFIX}${module}.lora_A.weight`, hostTensor('float32', [rank, a.length / rank], a));
    tensors.set(`${PREFIX}${module}.lora_B.weight`, hostTensor('float32', [b.length / rank, rank], b));
  }
  return tensors;
}
