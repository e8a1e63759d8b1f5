/**
 * Files mapped into memory, for weights that lie in a file as the graphs want them: nothing is copied, processes on one machine share
 * the pages, and pages that a session has packed into its own form can be given back, since the file still has them.
 * Invariants: a mapping lives until its buffer is collected, so no typed array over it ever dangles; it is read-only (a write ends the process). A
 * mapped file may be deleted or replaced, never cut or written in place. Where the C library is not glibc on Linux nothing is mapped.
 */
import { closeSync, fstatSync, openSync } from 'node:fs';
import koffi from 'koffi';
import type { NativeFunction } from './library.js';

const PROT_READ = 1;
const MAP_PRIVATE = 2;
const MADV_WILLNEED = 3;
const MADV_DONTNEED = 4;
/** `MAP_FAILED`: the address −1. */
const MAP_FAILED = 2n ** 64n - 1n;

interface Calls {
  readonly map: NativeFunction;
  readonly unmap: NativeFunction;
  readonly advise: NativeFunction;
}

interface Region {
  readonly address: bigint;
  readonly byteLength: number;
}

let libc: ReturnType<typeof koffi.load> | undefined;
let found: Calls | null | undefined;
/** Mappings in use. */
const regions = new Set<Region>();

function find(): Calls | null {
  if (process.platform !== 'linux') return null;
  try {
    libc = koffi.load('libc.so.6');
    return {
      map: libc.func('mmap', 'void *', ['void *', 'size_t', 'int', 'int', 'int', 'int64_t']) as NativeFunction,
      unmap: libc.func('munmap', 'int', ['void *', 'size_t']) as NativeFunction,
      advise: libc.func('madvise', 'int', ['void *', 'size_t', 'int']) as NativeFunction,
    };
  } catch {
    return null;
  }
}

const collected = new FinalizationRegistry<Region>((region) => {
  regions.delete(region);
  found?.unmap(region.address, region.byteLength);
});

/**
 * The bytes of the file at `path` [fileBytes], read-only, and read in by the system in the background; undefined where files can't be mapped
 * or this one is empty. Throws what opening it throws.
 */
export function mapFile(path: string): ArrayBuffer | undefined {
  found ??= find();
  if (found === null) return undefined;
  const file = openSync(path, 'r');
  try {
    const byteLength = fstatSync(file).size;
    if (byteLength === 0) return undefined;
    const address = found.map(null, byteLength, PROT_READ, MAP_PRIVATE, file, 0) as bigint | null;
    if (address === null || BigInt.asUintN(64, address) === MAP_FAILED) return undefined;
    const region = { address, byteLength };
    const buffer = koffi.view(address, byteLength);
    regions.add(region);
    collected.register(buffer, region);
    found.advise(address, byteLength, MADV_WILLNEED);
    return buffer;
  } finally {
    closeSync(file);
  }
}

/** Takes the pages of all mapped files out of this process's resident memory; what is used again comes back from the page cache. */
export function releaseMappedPages(): void {
  for (const { address, byteLength } of regions) found?.advise(address, byteLength, MADV_DONTNEED);
}
