/** Where a training step's time goes, from the profiles that ONNX Runtime writes for every session. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface OperatorShare {
  /** Kind of segment: 'layer-forward', 'layer-backward', 'head', … */
  readonly segment: string;
  readonly work: 'products with weights' | 'products of LoRA' | 'products of attention' | 'softmax' | 'everything else';
  readonly millisecondsPerStep: number;
  /** Of all operators' time. */
  readonly share: number;
}

interface ProfileEvent {
  readonly cat?: string;
  readonly name: string;
  readonly dur: number;
  readonly args?: { readonly op_name?: string; readonly input_type_shape?: readonly Readonly<Record<string, readonly number[]>>[] };
}

const PRODUCTS = new Set(['MatMul', 'FusedMatMul', 'Gemm', 'MatMulIntegerToFloat']);

/** Reads every profile `profile-<segment>_<time>.json` of the folder; `rank` tells LoRA's products from the others. Most first. */
export async function operatorShares(folder: string, rank: number, steps: number): Promise<OperatorShare[]> {
  const totals = new Map<string, { segment: string; work: OperatorShare['work']; microseconds: number }>();
  for (const file of (await readdir(folder)).filter((name) => name.endsWith('.json'))) {
    const segment = /^profile-(.*)_\d{4}-/.exec(file)?.[1] ?? file;
    const events = JSON.parse(await readFile(join(folder, file), 'utf8')) as ProfileEvent[];
    for (const event of events) {
      if (event.cat !== 'Node' || !event.name.endsWith('_kernel_time')) continue;
      const work = workOf(event, rank);
      const key = `${segment}/${work}`;
      const total = totals.get(key) ?? { segment, work, microseconds: 0 };
      total.microseconds += event.dur;
      totals.set(key, total);
    }
  }
  const sum = [...totals.values()].reduce((all, { microseconds }) => all + microseconds, 0);
  return [...totals.values()]
    .map(({ segment, work, microseconds }) => ({ segment, work, millisecondsPerStep: microseconds / 1000 / steps, share: microseconds / sum }))
    .sort((a, b) => b.share - a.share);
}

function workOf({ args }: ProfileEvent, rank: number): OperatorShare['work'] {
  const operator = args?.op_name ?? '';
  if (operator.endsWith('Softmax')) return 'softmax';
  if (!PRODUCTS.has(operator)) return 'everything else';
  const shapes = (args?.input_type_shape ?? []).flatMap((input) => Object.values(input));
  if (shapes.some((shape) => shape.length > 2)) return 'products of attention';
  return shapes.some((shape) => shape.includes(rank)) ? 'products of LoRA' : 'products with weights';
}
