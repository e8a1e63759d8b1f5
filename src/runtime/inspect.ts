/** What `lorica doctor` shows: the library, its providers, and whether the device can be used. */
import { LoricaError } from '../common/errors.js';
import { usableProcessors } from './environment.js';
import { Runtime } from './runtime.js';
import type { DeviceName, RuntimeOptions } from './types.js';

export interface RuntimeInspection {
  readonly version: string;
  readonly libraryPath: string;
  readonly providers: readonly string[];
  readonly threads: number;
  readonly usableProcessors: number;
  readonly device: DeviceName;
  /** Why the device cannot be used, where it cannot. */
  readonly deviceProblem?: string;
}

/** Opens the runtime, which runs its self-check, and closes it. Throws RUNTIME_UNAVAILABLE when there is no working library at all. */
export async function inspectRuntime(options: RuntimeOptions = {}): Promise<RuntimeInspection> {
  const device = options.device ?? 'cpu';
  const host = Runtime.open({ ...options, device: 'cpu' });
  try {
    const { version, libraryPath, threads } = host;
    const inspection = { version, libraryPath, providers: host.providers(), threads, usableProcessors: usableProcessors(), device };
    if (device === 'cpu') return inspection;
    try {
      await Runtime.open(options).close();
      return inspection;
    } catch (error) {
      if (!(error instanceof LoricaError)) throw error;
      return { ...inspection, deviceProblem: error.message };
    }
  } finally {
    await host.close();
  }
}
