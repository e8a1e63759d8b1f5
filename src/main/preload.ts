/**
 * Builds the serving form of the configured base after the start, so that the first request does not wait for it (seconds for a model
 * of 135M parameters). Only where one base is configured: with several, memory goes to those that are used.
 * Invariant: it never fails or holds up the server; calls that come meanwhile share the load.
 */
import { LoricaError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import type { Engine, ModelProvider } from '../engine/index.js';

export interface PreloadInput {
  readonly engine: Pick<Engine, 'preload'>;
  readonly models: ModelProvider;
  /** Ids of the configured bases. */
  readonly configured: readonly string[];
  readonly logger: Logger;
}

/** Settles when the base can generate, when that failed, or when the engine stopped; failures are logged, never thrown. */
export async function preloadConfigured({ engine, models, configured, logger }: PreloadInput): Promise<void> {
  const [model] = configured;
  if (model === undefined || configured.length > 1) return;
  const began = performance.now();
  try {
    const { digest } = await models.checkpoint(model);
    await engine.preload({ modelId: model, modelDigest: digest });
    logger.info('model preloaded', { model, seconds: (performance.now() - began) / 1000 });
  } catch (error) {
    if (error instanceof LoricaError && error.reason === 'SHUTTING_DOWN') return;
    logger.warn('a model could not be loaded ahead of its first request', { model, error });
  }
}
