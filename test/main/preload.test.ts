import { describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import { silentLogger, type Logger } from '../../src/common/logger.js';
import type { ResolvedTarget } from '../../src/engine/index.js';
import { preloadConfigured } from '../../src/main/preload.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';

const models = { checkpoint: (id: string) => Promise.resolve({ id, digest: `sha256:${id}` } as Checkpoint) };

async function preload(configured: readonly string[], failure?: Error): Promise<{ targets: ResolvedTarget[]; logged: string[] }> {
  const targets: ResolvedTarget[] = [];
  const logged: string[] = [];
  const logger: Logger = { ...silentLogger, info: () => logged.push('info'), warn: () => logged.push('warn') };
  const engine = {
    preload: (target: ResolvedTarget) => {
      targets.push(target);
      return failure === undefined ? Promise.resolve() : Promise.reject(failure);
    },
  };
  await preloadConfigured({ engine, models, configured, logger });
  return { targets, logged };
}

describe('preloadConfigured', () => {
  test('loads the one configured base, by its digest', async () => {
    expect(await preload(['m'])).toEqual({ targets: [{ modelId: 'm', modelDigest: 'sha256:m' }], logged: ['info'] });
  });

  test('loads nothing where no base or several are configured', async () => {
    for (const configured of [[], ['m', 'n']]) expect(await preload(configured)).toEqual({ targets: [], logged: [] });
  });

  test('a failure is logged and not thrown; a stop is no failure', async () => {
    expect((await preload(['m'], new Error('disk'))).logged).toEqual(['warn']);
    expect((await preload(['m'], new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'stopping'))).logged).toEqual([]);
  });
});
