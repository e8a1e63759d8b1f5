/**
 * A folder with weights as serving made them: rounding a model takes many times as long as reading it, so the result is kept as one safetensors
 * file per checkpoint and form and mapped into memory at the next start. A file's name says the checkpoint's digest, the form and the rules it was
 * made by; what lacks a tensor or has one of another shape is not used. Files can be deleted at any time, also while they are in use, but not
 * changed in place. At most MOST_FILES stay: a write deletes those that were used longest ago, and all that older rules made.
 */
import { mkdir, open, readdir, rm, stat, utimes, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { DTYPES } from '../tensor/dtype.js';
import type { HostTensor } from '../tensor/host-tensor.js';
import { readSafetensorsHeader, readTensor, writeSafetensors, type SafetensorsEntry, type SafetensorsFile } from '../tensor/safetensors.js';
import type { ServingForm, ServingTensor, ServingWeightGroup } from './serving-form-weights.js';

/** Rises with every change of how weights are rounded or laid out. */
const RULES = 2;
/** Files in the folder, the one just written counted. */
const MOST_FILES = 8;
/** Of the first tensor in a file: a cache line. */
const FILE_ALIGNMENT_BYTES = 64;
/** A tensor at another address is read instead of mapped: native code takes what an allocator would give. */
const TENSOR_ALIGNMENT_BYTES = 16;

type MadeTensor = Float32Array | Uint8Array;
export type MadeTensors = ReadonlyMap<string, MadeTensor>;
/** The bytes of a file without reading it, read-only; undefined where files can't be mapped. */
export type MapFile = (path: string) => ArrayBuffer | undefined;

/** What a file is for. */
export interface ServingCacheKey {
  /** `sha256:…` */
  readonly digest: string;
  readonly form: ServingForm;
}

export class ServingCache {
  /** Without `mapFile` files are read into memory. */
  constructor(private readonly folder: string, private readonly mapFile: MapFile = () => undefined) {}

  /** float32 weights are not kept: a copy of the checkpoint would be as slow to read. */
  keeps({ form }: ServingCacheKey): boolean {
    return form !== 'float32';
  }

  /**
   * The tensors of `groups`, all but those that come from the config alone, by name; undefined when there is no file or not a whole one. They
   * are read-only. A tensor that shares the memory of an earlier one of its group is the same object.
   */
  async read(key: ServingCacheKey, groups: readonly ServingWeightGroup[]): Promise<MadeTensors | undefined> {
    const path = this.#path(key);
    try {
      const file = await readSafetensorsHeader(path);
      const wanted = groups.filter(fromCheckpoint).flatMap((group) => group.tensors);
      if (!wanted.every((tensor) => fits(file, tensor))) return undefined;
      const tensors = await this.#tensors(file, wanted.filter(({ name }) => file.metadata[name] === undefined));
      for (const { name } of wanted) {
        const sharedWith = file.metadata[name];
        if (sharedWith !== undefined) tensors.set(name, tensors.get(sharedWith)!);
      }
      // The time of the last use, for the bound on the folder.
      await utimes(path, new Date(), new Date()).catch(() => undefined);
      return tensors;
    } catch {
      return undefined;
    }
  }

  /** Keeps the tensors of `groups`. Throws STORAGE_FULL or STORAGE_FAILED and then leaves no file. */
  async write(key: ServingCacheKey, groups: readonly ServingWeightGroup[], made: MadeTensors): Promise<void> {
    const tensors = new Map<string, HostTensor>();
    const metadata: Record<string, string> = {};
    for (const group of groups.filter(fromCheckpoint)) {
      const known = new Map<MadeTensor, string>();
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
    // Before the write, so that the disk need not hold one more.
    await this.#makeRoom();
    await writeSafetensors(this.#path(key), tensors, metadata, FILE_ALIGNMENT_BYTES);
  }

  /** All of `wanted` at once: mapped, or read side by side. */
  async #tensors(file: SafetensorsFile, wanted: readonly ServingTensor[]): Promise<Map<string, MadeTensor>> {
    const mapped = this.mapFile(file.path);
    let handle: FileHandle | undefined;
    try {
      handle = await open(file.path, 'r');
      const reading = wanted.map(async ({ name }) => {
        const entry = file.tensors.get(name)!;
        const data = mapped === undefined ? undefined : view(mapped, entry);
        return [name, data ?? ((await readTensor(file, name, handle)).data as MadeTensor)] as const;
      });
      return new Map((await Promise.allSettled(reading)).map((result) => {
        if (result.status === 'rejected') throw result.reason;
        return result.value;
      }));
    } finally {
      await handle?.close();
    }
  }

  /** Deletes what no start will read again, and what was used longest ago beyond the bound. */
  async #makeRoom(): Promise<void> {
    const current: { path: string; usedMs: number }[] = [];
    for (const name of await readdir(this.folder)) {
      const path = join(this.folder, name);
      // Temporary files are left by a process that ended while it wrote; a data folder belongs to one process at a time.
      const stale = name.endsWith('.tmp') || (name.endsWith('.safetensors') && !name.endsWith(`.${RULES}.safetensors`));
      if (stale) await rm(path, { force: true });
      else if (name.endsWith('.safetensors')) current.push({ path, usedMs: (await stat(path)).mtimeMs });
    }
    current.sort((a, b) => b.usedMs - a.usedMs);
    for (const { path } of current.slice(MOST_FILES - 1)) await rm(path, { force: true });
  }

  #path({ digest, form }: ServingCacheKey): string {
    return join(this.folder, `${digest.replace(/^sha256:/, '')}.${form}.${RULES}.safetensors`);
  }
}

/** Rotary tables depend on the length of the context, and cost nothing to make. */
function fromCheckpoint({ sources }: ServingWeightGroup): boolean {
  return sources.length > 0;
}

/** Whether the file has the tensor, or says with which of its tensors it shares its elements. */
function fits(file: SafetensorsFile, { name, dtype, shape }: ServingTensor): boolean {
  const sharedWith = file.metadata[name];
  const entry = file.tensors.get(sharedWith ?? name);
  if (entry?.dtype !== dtype) return false;
  return sharedWith === undefined ? entry.shape.join() === shape.join() : elements(entry.shape) === elements(shape);
}

/** The elements where they lie in the mapped file; undefined where that address does not suit. */
function view(mapped: ArrayBuffer, { dtype, shape, offsetBytes, lengthBytes }: SafetensorsEntry): MadeTensor | undefined {
  if (offsetBytes % TENSOR_ALIGNMENT_BYTES !== 0 || offsetBytes + lengthBytes > mapped.byteLength) return undefined;
  return new DTYPES[dtype].array(mapped, offsetBytes, elements(shape)) as MadeTensor;
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}
