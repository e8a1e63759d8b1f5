/** The option and description types of the runtime layer. No behaviour here; nothing native. */
import type { Logger } from '../common/logger.js';
import type { DType } from '../tensor/dtype.js';
import type { TimeSharing } from './time-sharing.js';

/** Where sessions compute. 'cuda:N' needs a CUDA build of ONNX Runtime (`libraryPath`); there is no fallback from it to the CPU. */
export type DeviceName = 'cpu' | `cuda:${number}`;

/** Who asks for a run. Generation is one share of the device's time, training and evaluation are the other (TimeSharing). */
export type Lane = 'generation' | 'training' | 'evaluation';

export interface RuntimeOptions {
  /** Default 'cpu'. */
  readonly device?: DeviceName;
  /** Path of a libonnxruntime 1.30.x; default: the one inside the onnxruntime-node package. Builds are never mixed in one process. */
  readonly libraryPath?: string;
  /** Threads that compute one run, the calling one included; default: the processors that this process may use. */
  readonly intraOpThreads?: number;
  /**
   * Whether idle threads of the pool spin for a while instead of sleeping. Default false: on processors that nobody else uses spinning
   * saves about 10 µs an operator, but where anything else runs (or a CPU quota is spent) it costs several times that.
   */
  readonly spinning?: boolean;
  /** How lanes share the device; of the first that opens it. Default: generation first. */
  readonly timeSharing?: TimeSharing;
  readonly logger?: Logger;
}

/** An input or output of a session. A string is a symbolic dimension ('B', 'B*T'); '?' is one without a name. */
export interface ValueInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly (number | string)[];
}

export interface RunOptions {
  readonly lane: Lane;
  /** Aborting removes a waiting run and terminates a started one between two operators; either rejects with CANCELLED. */
  readonly signal?: AbortSignal | undefined;
}

/** What happened in one native run, for metrics. */
export interface RunReport {
  readonly session: string;
  readonly lane: Lane;
  readonly waitedMs: number;
  readonly ranMs: number;
  readonly failed: boolean;
}
