/** The one file of floors (acceptance/floors.json), checked when it is read, and the comparison of figures with them. */
import { readFile } from 'node:fs/promises';

export interface Floor {
  /** Dotted path into the JSON that the command wrote. */
  readonly path: string;
  readonly unit?: string;
  readonly atLeast?: number;
  readonly atMost?: number;
  readonly above?: number;
  /**
   * An `atLeast` that was set on a machine where the figure at `path` was `reference`: on a slower machine it shrinks in proportion, on a
   * faster one it stays (docs/decisions/0008-floors-and-machines.md).
   */
  readonly scaledBy?: { readonly path: string; readonly reference: number };
}

export interface Check {
  readonly id: string;
  readonly title: string;
  /** In a fresh clone of HEAD with an empty HOME, or in this tree. */
  readonly where: 'clone' | 'here';
  /** For bash; `$FIGURES` is the file that it writes its figures to. */
  readonly command: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly limitSeconds: number;
  readonly figures: readonly Floor[];
}

export interface Verdict {
  readonly path: string;
  readonly value: number | undefined;
  /** Such as "≥ 0.91". */
  readonly floor: string;
  readonly held: boolean;
}

export async function readFloors(file: string, issue: string): Promise<Check[]> {
  const all = JSON.parse(await readFile(file, 'utf8')) as Record<string, Check[]>;
  const checks = all[issue];
  if (checks === undefined) throw new Error(`${file} has no floors for ${issue}; it has ${Object.keys(all).join(', ')}`);
  for (const check of checks) {
    for (const floor of check.figures) {
      const bounds = [floor.atLeast, floor.atMost, floor.above].filter((bound) => bound !== undefined);
      if (bounds.length !== 1) throw new Error(`${file}: ${check.id}: ${floor.path} needs exactly one of atLeast, atMost, above`);
      if (floor.scaledBy !== undefined && floor.atLeast === undefined) throw new Error(`${file}: ${check.id}: ${floor.path}: only atLeast can be scaled`);
    }
  }
  return checks;
}

/** The number at a dotted path; undefined where there is none. */
export function figureAt(figures: unknown, path: string): number | undefined {
  let node: unknown = figures;
  for (const key of path.split('.')) node = (node as Record<string, unknown> | null | undefined)?.[key];
  return typeof node === 'number' ? node : undefined;
}

/** Holds a figure against its floor; a figure that is missing or no finite number does not hold. */
export function judge(figures: unknown, floor: Floor): Verdict {
  const value = figureAt(figures, floor.path);
  const unit = floor.unit === undefined ? '' : ` ${floor.unit}`;
  const finite = value !== undefined && Number.isFinite(value);
  if (floor.atLeast !== undefined && floor.scaledBy !== undefined) {
    const { path, reference } = floor.scaledBy;
    const measured = figureAt(figures, path) ?? Number.NaN;
    const least = floor.atLeast * Math.min(1, measured / reference);
    const note = `≥ ${least.toFixed(1)}${unit}: ${floor.atLeast} where ${path} is ${reference} or more, here ${measured < 10 ? measured.toFixed(2) : measured.toFixed(0)}`;
    return { path: floor.path, value, floor: note, held: finite && value >= least };
  }
  if (floor.atLeast !== undefined) return { path: floor.path, value, floor: `≥ ${floor.atLeast}${unit}`, held: finite && value >= floor.atLeast };
  if (floor.atMost !== undefined) return { path: floor.path, value, floor: `≤ ${floor.atMost}${unit}`, held: finite && value <= floor.atMost };
  return { path: floor.path, value, floor: `> ${floor.above ?? Number.NaN}${unit}`, held: finite && value > (floor.above ?? Number.NaN) };
}
