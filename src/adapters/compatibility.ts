/**
 * Does content fit its base? Every tensor must exist there (or in the model that the variant's architecture makes of it) with the same
 * shape and hold finite numbers, and what the base has no values for must be there.
 * Invariant: what is published has passed this; the engine need not check shapes again.
 */
import { LoricaError, type FieldViolation } from '../common/errors.js';
import type { HostTensor } from '../tensor/host-tensor.js';
import { HEAD_TENSORS, headProblem } from './classification-head.js';
import type { BaseShapes, FitOf, LoraInput, LoraModule, VariantInput } from './adapter.js';

const MAX_VIOLATIONS = 20;
const VARIANT_DTYPES = new Set(['float32', 'float16', 'bfloat16']);

export function incompatible(violations: readonly FieldViolation[], baseModel: string): LoricaError {
  const [first] = violations;
  const more = violations.length > 1 ? ` (and ${violations.length - 1} more)` : '';
  return new LoricaError(
    'INVALID_ARGUMENT',
    'ADAPTER_INCOMPATIBLE',
    `the adapter does not fit ${baseModel}: ${first?.field ?? ''} ${first?.description ?? ''}${more}`,
    {
      violations: violations.slice(0, MAX_VIOLATIONS),
      hint: 'Use the base model that the adapter was trained on.',
    },
  );
}

/** Throws INVALID_ARGUMENT / ADAPTER_INCOMPATIBLE naming the tensors that do not fit. Lets the event loop run between tensors. */
export async function requireFit(content: LoraInput | VariantInput, fit: FitOf, baseModel: string): Promise<void> {
  const { shapes, required } = fit(content.kind === 'variant' ? content.architecture : undefined);
  const violations: FieldViolation[] = [];
  const tensors = content.kind === 'lora' ? content.modules : content.tensors;
  for (const name of required) if (!tensors.has(name)) violations.push({ field: name, description: 'is missing: the architecture needs it and the base has none of its shape' });
  if (tensors.size === 0 && content.head === undefined && !('architecture' in content)) violations.push({ field: 'tensors', description: 'there are none' });
  for (const [name, tensor] of tensors) {
    const problem = 'module' in tensor ? loraProblem(name, tensor, shapes) : variantProblem(name, tensor, shapes);
    if (problem !== undefined) violations.push({ field: name, description: problem });
    await new Promise((resolve) => setImmediate(resolve));
  }
  const problem = content.head === undefined ? undefined : headProblem(content.head, shapes);
  if (problem !== undefined) violations.push({ field: HEAD_TENSORS.variant, description: problem });
  if (violations.length > 0) throw incompatible(violations, baseModel);
}

function loraProblem(name: string, module: LoraModule, shapes: BaseShapes): string | undefined {
  if (module.module !== name) return `is listed under another name than its own, ${module.module}`;
  const shape = shapes.get(`${name}.weight`);
  if (shape === undefined) return 'is not a module of the base';
  const [out, input] = shape;
  if (shape.length !== 2 || out === undefined || input === undefined || name.endsWith('embed_tokens'))
    return `is not a linear layer of the base (its weight is [${shape.join(',')}])`;
  if (!Number.isInteger(module.rank) || module.rank < 1 || module.rank > Math.min(out, input))
    return `has rank ${module.rank}, possible are 1 to ${Math.min(out, input)}`;
  if (module.a.length !== module.rank * input)
    return `lora_A has ${module.a.length} elements, [${module.rank},${input}] has ${module.rank * input}`;
  if (module.b.length !== out * module.rank)
    return `lora_B has ${module.b.length} elements, [${out},${module.rank}] has ${out * module.rank}`;
  if (!Number.isFinite(module.scaling)) return `has the scaling ${module.scaling}`;
  if (!allFinite(module.a) || !allFinite(module.b)) return 'holds NaN or infinity';
  return undefined;
}

function variantProblem(name: string, tensor: HostTensor, shapes: BaseShapes): string | undefined {
  const shape = shapes.get(name);
  if (shape === undefined) return 'is not a tensor of the base';
  if (shape.length !== tensor.shape.length || shape.some((dim, index) => dim !== tensor.shape[index])) {
    return `has the shape [${tensor.shape.join(',')}], the base's is [${shape.join(',')}]`;
  }
  if (!VARIANT_DTYPES.has(tensor.dtype)) return `is ${tensor.dtype}; float32, float16 and bfloat16 are taken`;
  const finite =
    tensor.dtype === 'float32'
      ? allFinite(tensor.data as Float32Array)
      : allFinite16(tensor.data as Uint16Array, tensor.dtype === 'float16' ? 0x7c00 : 0x7f80);
  return finite ? undefined : 'holds NaN or infinity';
}

function allFinite(values: Float32Array): boolean {
  // A sum keeps every NaN and infinity (inf - inf is NaN); only large finite values can overflow it, and double cannot for float32 inputs.
  let sum = 0;
  for (let index = 0; index < values.length; index += 1) sum += values[index] as number;
  return Number.isFinite(sum);
}

/** 16-bit patterns: NaN and infinity are the values whose exponent bits are all ones. */
function allFinite16(patterns: Uint16Array, exponent: number): boolean {
  for (let index = 0; index < patterns.length; index += 1) if (((patterns[index] as number) & exponent) === exponent) return false;
  return true;
}
