/**
 * What a session takes and gives, and whether a set of tensors agrees with it. All checks happen here, in TypeScript, before
 * native code sees an address. A symbolic dimension has one size in a run; 'B*T' and 'T-1' are
 * computed from the sizes of their symbols.
 */
import { invalidFields, type FieldViolation } from '../common/errors.js';
import { describe, type Tensor } from './tensor.js';
import type { ValueInfo } from './types.js';

/** Size of a symbolic dimension: of the symbol, or of the polynomial 'T-1', '2*B*T+1'; undefined while one of its symbols is unknown. */
function sizeOf(dimension: string, sizes: ReadonlyMap<string, number>): number | undefined {
  const known = sizes.get(dimension);
  if (known !== undefined) return known;
  let sum = 0;
  for (const term of dimension.replace(/(?!^)-/g, '+-').split('+')) {
    let product = term.startsWith('-') ? -1 : 1;
    for (const factor of term.replace(/^-/, '').split('*')) {
      const size = /^\d+$/.test(factor) ? Number(factor) : sizes.get(factor);
      if (size === undefined) return undefined;
      product *= size;
    }
    sum += product;
  }
  return sum;
}

function unify(session: string, kind: string, info: ValueInfo, tensor: Tensor, sizes: Map<string, number>, found: FieldViolation[]): void {
  const wrong = (why: string): void => {
    found.push({ field: `${session}.${info.name}`, description: `${kind} is ${describe(info)}, got ${describe(tensor)}${why}` });
  };
  if (tensor.dtype !== info.dtype || tensor.shape.length !== info.shape.length) {
    wrong('');
    return;
  }
  for (const [axis, expected] of info.shape.entries()) {
    const got = tensor.shape[axis] as number;
    if (expected === '?') continue;
    const size = typeof expected === 'number' ? expected : sizeOf(expected, sizes);
    if (size === undefined) sizes.set(String(expected), got);
    else if (size !== got) wrong(typeof expected === 'number' ? '' : `, but ${expected} is ${size} here`);
  }
}

/** Polynomials are checked after the plain symbols that they are made of. */
function plainFirst(infos: readonly ValueInfo[]): ValueInfo[] {
  const polynomials = (info: ValueInfo): number => info.shape.filter((dim) => typeof dim === 'string' && /[*+-]/.test(dim)).length;
  return [...infos].sort((a, b) => polynomials(a) - polynomials(b));
}

/**
 * Throws INVALID_ARGUMENT with every disagreement in dtype, rank, dimension or symbol, an input that is missing (all of them are
 * needed). Outputs may be a part of the session's; their shapes are checked where the inputs settle them.
 */
export function checkTensors(session: string, inputs: readonly ValueInfo[], outputs: readonly ValueInfo[],
  boundInputs: ReadonlyMap<string, Tensor>, boundOutputs: ReadonlyMap<string, Tensor>): void {
  const found: FieldViolation[] = [];
  const sizes = new Map<string, number>();
  for (const info of plainFirst(inputs)) {
    const tensor = boundInputs.get(info.name);
    if (tensor === undefined) found.push({ field: `${session}.${info.name}`, description: `input ${describe(info)} is not bound` });
    else unify(session, 'input', info, tensor, sizes, found);
  }
  for (const info of plainFirst(outputs)) {
    const tensor = boundOutputs.get(info.name);
    if (tensor !== undefined) unify(session, 'output', info, tensor, sizes, found);
  }
  if (found.length > 0) throw invalidFields(found);
}
