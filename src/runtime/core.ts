/** What the objects of one Runtime share. Made by Runtime only; not exported from the layer. */
import type { Device } from './device.js';
import type { Environment } from './environment.js';
import type { RunQueue } from './run-queue.js';
import type { RunReport } from './types.js';

export interface Core {
  readonly environment: Environment;
  readonly device: Device;
  readonly queue: RunQueue;
  /** OrtRunOptions*, shared by all runs because there is one at a time on a device. */
  readonly runOptions: bigint;
  /** Sessions that are not disposed yet; close() disposes them. */
  readonly sessions: Set<{ dispose(): void }>;
  report(report: RunReport): void;
  assertOpen(): void;
}
