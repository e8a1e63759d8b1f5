/** The one check that a checkpoint holds the tensors of its config: all of them, in the right shapes, and no others. */
import { LoricaError } from '../common/errors.js';

type Shapes = ReadonlyMap<string, readonly number[]>;

function some(names: readonly string[]): string {
  return names.slice(0, 5).join(', ') + (names.length > 5 ? ` and ${names.length - 5} more` : '');
}

/** Throws CHECKPOINT_CORRUPT for missing or misshapen tensors, MODEL_UNSUPPORTED for tensors that the config has no place for. */
export function checkShapes(path: string, expected: Shapes, found: Shapes): void {
  const missing = [...expected.keys()].filter((name) => !found.has(name));
  if (missing.length > 0) throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${path} lacks ${missing.length} tensors of its config: ${some(missing)}`);
  const wrong = [...expected].flatMap(([name, shape]) => {
    const is = (found.get(name) ?? []).join();
    return is === shape.join() ? [] : [`${name} is [${is}] and should be [${shape.join()}]`];
  });
  if (wrong.length > 0) {
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${path} disagrees with its config: ${some(wrong)}`);
  }
  const extra = [...found.keys()].filter((name) => !expected.has(name));
  if (extra.length > 0) {
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${path} has ${extra.length} tensors that its config has no place for: ${some(extra)}`);
  }
}
