/**
 * What one tuning job may add to the server's memory: an equal part for each that may run at once. What others hold at the moment has no part in it: the
 * same job makes the same choices whatever runs beside it, and one that was accepted is not refused later because others came before.
 */
import type { ServerConfig } from '../config/config.js';
import { memorySizeBytes } from '../runtime/index.js';

/** Of the memory of the container or machine, where nothing is configured. The rest is for serving weights, caches and the process itself. */
const DEFAULT_SHARE = 0.75;

export function tuningJobMemoryBytes({ tuningMemoryBytes = DEFAULT_SHARE * memorySizeBytes(), tuningConcurrency }: Pick<ServerConfig, 'tuningMemoryBytes' | 'tuningConcurrency'>): number {
  return Math.floor(tuningMemoryBytes / tuningConcurrency);
}
