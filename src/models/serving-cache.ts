/**
 * A folder with weights as serving made them: rounding a model takes many times as long as reading it, so the result is kept as one safetensors
 * file per checkpoint and form and read at the next start. A file's name says the checkpoint's digest, the form and the rules it was made by;
 * what lacks a tensor or has one of another shape is not used. Files can be deleted at any time.
 */
import { mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostTensor } from '../tensor/host-tensor.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../tensor/safetensors.js';
import type { ServingForm, ServingWeightGroup } from './serving-form-weights.js';

/** Rises with every change of how weights are rounded or laid out. */
const RULES = 1;

export type MadeTensors = ReadonlyMap<string, Float32Array | Uint8Array>;

/** What a file is for. */
export interface ServingCacheKey {
  /** `sha256:…` */
  readonly digest: string;
  readonly form: ServingForm;
}

export class ServingCache {
  constructor(private readonly folder: string) {}

  /** float32 weights are not kept: a copy of the checkpoint would be as slow to read. */
  keeps({ form }: ServingCacheKey): boolean {
    return form !== 'float32';
  }

  /**
   * The tensors of `groups`, all but those that come from the config alone, by name, in memory of their own; undefined when there is no file or not a whole one. A tensor that shares the memory of
   * an earlier one of its group is the same object.
   */
  async read(key: ServingCacheKey, groups: readonly ServingWeightGroup[]): Promise<MadeTensors | undefined> {
    try {
      const file = await readSafetensorsHeader(this.#path(key));
      const handle = await open(file.path, 'r');
      try {
        const tensors = new Map<string, Float32Array | Uint8Array>();
        for (const { name, dtype, shape } of groups.filter(fromCheckpoint).flatMap((group) => group.tensors)) {
          const sharedWith = file.metadata[name];
          if (sharedWith !== undefined) {
            const shared = tensors.get(sharedWith);
            if (shared?.length !== elements(shape)) return undefined;
            tensors.set(name, shared);
            continue;
          }
          const entry = file.tensors.get(name);
          if (entry?.dtype !== dtype || entry.shape.join() !== shape.join()) return undefined;
          tensors.set(name, (await readTensor(file, name, handle)).data as Float32Array | Uint8Array);
        }
        return tensors;
      } finally {
        await handle.close();
      }
    } catch {
      return undefined;
    }
  }

  /** Keeps the tensors of `groups`. Throws STORAGE_FULL or STORAGE_FAILED and then leaves no file. */
  async write(key: ServingCacheKey, groups: readonly ServingWeightGroup[], made: MadeTensors): Promise<void> {
    const tensors = new Map<string, HostTensor>();
    const metadata: Record<string, string> = {};
    for (const group of groups.filter(fromCheckpoint)) {
      const known = new Map<Float32Array | Uint8Array, string>();
      for (const { name, dtype, shape } of group.tensors) {
        const data = made.get(name);
        if (data === undefined) throw new Error(`${name} was not made`);
        const first = known.get(data);
        if (first !== undefined) metadata[name] = first;
        else tensors.set(name, { dtype, shape, data });
        known.set(data, first ?? name);
      }
    }
    await mkdir(this.folder, { recursive: true });
    // Left by a process that ended while it wrote; a data folder belongs to one process at a time.
    for (const name of await readdir(this.folder)) if (name.endsWith('.tmp')) await rm(join(this.folder, name), { force: true });
    await writeSafetensors(this.#path(key), tensors, metadata);
  }

  #path({ digest, form }: ServingCacheKey): string {
    return join(this.folder, `${digest.replace(/^sha256:/, '')}.${form}.${RULES}.safetensors`);
  }
}

/** Rotary tables depend on the length of the context, and cost nothing to make. */
function fromCheckpoint({ sources }: ServingWeightGroup): boolean {
  return sources.length > 0;
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}
