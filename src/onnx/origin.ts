/**
 * Where a node was built: the first stack frame outside this layer and autodiff. Errors of graph construction carry it.
 * The stack is formatted only when somebody asks, since V8 does that lazily.
 */
import { fileURLToPath } from 'node:url';
import { LoricaError } from '../common/errors.js';

const SOURCE_ROOT = fileURLToPath(new URL('..', import.meta.url));
const PROJECT_ROOT = fileURLToPath(new URL('../..', import.meta.url));
const OWN_FOLDERS = [`${SOURCE_ROOT}onnx`, `${SOURCE_ROOT}autodiff`];
const FRAMES = 24;

/** Remembers the current call stack cheaply. */
export class Origin {
  readonly #error: Error;

  constructor() {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = FRAMES;
    this.#error = new Error('origin');
    Error.stackTraceLimit = limit;
  }

  /** 'src/models/decoder.ts:31:12', or 'unknown' when every remembered frame belongs to this layer. */
  toString(): string {
    for (const line of (this.#error.stack ?? '').split('\n').slice(1)) {
      const place = /\(?((?:file:\/\/)?[^\s()]+:\d+:\d+)\)?$/.exec(line)?.[1]?.replace('file://', '');
      if (place === undefined || place.startsWith('node:') || OWN_FOLDERS.some((folder) => place.startsWith(folder))) continue;
      return place.startsWith(PROJECT_ROOT) ? place.slice(PROJECT_ROOT.length) : place;
    }
    return 'unknown';
  }
}

/**
 * A mistake in building a graph. INTERNAL, since a graph is built by this program: a client never sees the text.
 * `origin` defaults to the caller's place.
 */
export function graphError(operator: string, problem: string, origin: Origin = new Origin()): LoricaError {
  return new LoricaError('INTERNAL', 'GRAPH_INVALID', `${operator}: ${problem} (built at ${origin.toString()})`);
}
