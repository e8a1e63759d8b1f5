/**
 * Gives memory that native code has freed back to the operating system. Building a session packs every weight before it looks for a
 * shared copy, and glibc keeps what such temporaries leave: one packed copy of the model for each session. Does nothing where the C
 * library has no malloc_trim (macOS, Windows, musl).
 */
import koffi from 'koffi';
import type { NativeFunction } from './library.js';

let libc: ReturnType<typeof koffi.load> | undefined;
let trim: NativeFunction | undefined;
let started: Promise<void> | undefined;

function find(): NativeFunction | undefined {
  if (process.platform !== 'linux') return undefined;
  try {
    libc = koffi.load('libc.so.6');
    return libc.func('malloc_trim', 'int', ['size_t']) as NativeFunction;
  } catch {
    return undefined;
  }
}

/** Resolves when done, off the event loop. Calls that overlap share one pass. Never rejects. */
export function trimNativeHeap(): Promise<void> {
  trim ??= find();
  const native = trim;
  if (native === undefined) return Promise.resolve();
  started ??= new Promise((resolve) => {
    native.async(0, () => {
      started = undefined;
      resolve();
    });
  });
  return started;
}
