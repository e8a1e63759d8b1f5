/**
 * How a family's Hugging Face checkpoints hold the canonical tensors: under other names, stacked, transposed. Read by hf-folder.ts
 * and written by hf-folder-write.ts; nothing else knows that there are other names.
 * Invariant: every canonical tensor is in exactly one stored one, as whole rows of its outputs.
 */
import { weightShapes, type DecoderConfig } from './config.js';
import { HEAD_WEIGHT } from './decoder.js';
import { familyOf } from './families/index.js';
import type { CheckpointLayout } from './family.js';

/** A tensor as the files hold it. */
export interface StoredTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Canonical tensors stacked in it along their first dimension, in order. */
  readonly parts: readonly string[];
  /** Stored as [in, out]. */
  readonly transposed: boolean;
}

/** Where a canonical tensor is: rows from `firstRow` of the stored tensor turned to [out, in]. */
export interface StoredPlace {
  readonly stored: StoredTensor;
  readonly firstRow: number;
}

/** The stored tensors of a model, in the order of their first canonical one. */
export function storedTensors(config: DecoderConfig): readonly StoredTensor[] {
  const layout = familyOf(config).hf.layout ?? {};
  const shapes = weightShapes(config);
  const parts = new Map<string, string[]>();
  for (const name of shapes.keys()) {
    const stored = storedName(name, layout);
    parts.set(stored, [...(parts.get(stored) ?? []), name]);
  }
  return [...parts].map(([name, names]) => {
    const [, ...rest] = shapes.get(names[0]!)!;
    const rows = names.reduce((sum, part) => sum + shapes.get(part)![0]!, 0);
    const transposed = layout.transposed === true && rest.length === 1 && /^model\.layers\./.test(names[0]!);
    return { name, parts: names, transposed, shape: transposed ? [...rest, rows] : [rows, ...rest] };
  });
}

/** The place of every canonical tensor. */
export function storedPlaces(config: DecoderConfig): ReadonlyMap<string, StoredPlace> {
  const shapes = weightShapes(config);
  const places = new Map<string, StoredPlace>();
  for (const stored of storedTensors(config)) {
    let firstRow = 0;
    for (const part of stored.parts) {
      places.set(part, { stored, firstRow });
      firstRow += shapes.get(part)![0]!;
    }
  }
  return places;
}

/** A name from a file as `storedTensors` spells it: older files lack the prefix. Undefined for a tensor that holds no parameters. */
export function nameInFile(name: string, config: DecoderConfig): string | undefined {
  const { prefix, ignored } = familyOf(config).hf.layout ?? {};
  if (name.endsWith('.rotary_emb.inv_freq') || ignored?.test(name) === true || (name === HEAD_WEIGHT && config.tieWordEmbeddings)) return undefined;
  return prefix === undefined || name === HEAD_WEIGHT || name.startsWith(prefix) ? name : prefix + name;
}

/** [rows, columns] → [columns, rows]. */
export function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) out[column * rows + row] = values[row * columns + column]!;
  return out;
}

function storedName(canonical: string, { prefix = '', layers = 'model.layers.', modules = {}, fused = {} }: CheckpointLayout): string {
  if (canonical === HEAD_WEIGHT) return canonical;
  const [, index, inLayer] = /^model\.layers\.(\d+)\.(.+)$/.exec(canonical) ?? [];
  const local = inLayer ?? canonical;
  const dot = local.lastIndexOf('.');
  const [module, kind] = [local.slice(0, dot), local.slice(dot + 1)];
  const holder = Object.entries(fused).find(([, names]) => names.includes(module));
  const stored = holder?.[0] ?? modules[module] ?? module;
  return `${prefix}${index === undefined ? '' : `${layers}${index}.`}${stored}.${kind}`;
}
