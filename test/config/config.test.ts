import { describe, expect, test } from '@jest/globals';
import { resolve } from 'node:path';
import { formatAddress, isLoopback, loadConfig, parseAddress } from '../../src/config/config.js';
import { packageRoot } from '../../src/config/package-root.js';

describe('loadConfig', () => {
  test('defaults', () => {
    expect(loadConfig({})).toMatchObject({
      listen: { host: '127.0.0.1', port: 50051 },
      metricsListen: { host: '127.0.0.1', port: 9464 },
      dataDir: resolve('.lorica'),
      databaseUrl: undefined,
      device: 'cpu',
      servingForm: 'int8',
      timeSharing: { weights: { generation: 9, work: 1 }, awaited: [] },
      tuningConcurrency: 1,
      tuningMemoryBytes: undefined,
      maxSequences: 8,
      maxContextTokens: 1024,
      maxDatasetBytes: 256 << 20,
      graceMs: 20_000,
      logLevel: 'info',
      protoFolder: resolve('proto'),
    });
    expect(packageRoot()).toBe(process.cwd());
  });

  test('flags before variables before defaults; an empty variable is none', () => {
    const environment = { LORICA_LISTEN: '0.0.0.0:1', LORICA_MAX_SEQUENCES: '4', LORICA_DEVICE: '', LORICA_MODELS: 'a=/x, b=models/tiny' };
    const config = loadConfig(environment, { listen: '[::1]:0' });
    expect(config).toMatchObject({ listen: { host: '::1', port: 0 }, maxSequences: 4, device: 'cpu' });
    expect([...config.models]).toEqual([
      ['a', '/x'],
      ['b', resolve('models/tiny')],
    ]);
    expect(Object.isFrozen(config)).toBe(true);
  });

  test('every wrong setting is named as it was given', () => {
    const wrong = {
      LORICA_LISTEN: 'here',
      LORICA_MODELS: 'a=/x,a=/y,B',
      LORICA_DEVICE: 'gpu',
      LORICA_THREADS: '0',
      LORICA_SERVING_FORM: 'int2',
      LORICA_TIME_SHARING: 'weighted:1',
      LORICA_TUNING_CONCURRENCY: '17',
      LORICA_TUNING_MEMORY_BYTES: '2G',
      LORICA_GRACE: '1.5',
    };
    expect(() => loadConfig(wrong, { maxContext: '1', logLevel: 'loud' })).toThrow(
      expect.objectContaining({
        violations: [
          'LORICA_LISTEN',
          'LORICA_MODELS',
          'LORICA_MODELS',
          'LORICA_DEVICE',
          'LORICA_THREADS',
          'LORICA_SERVING_FORM',
          'LORICA_TIME_SHARING',
          'LORICA_TUNING_CONCURRENCY',
          'LORICA_TUNING_MEMORY_BYTES',
          '--max-context',
          'LORICA_GRACE',
          '--log-level',
        ]
          .map((field) => expect.objectContaining({ field }))
          .sort() as unknown,
      }),
    );
  });
});

test('addresses', () => {
  expect(parseAddress('host.name:80')).toEqual({ host: 'host.name', port: 80 });
  expect(parseAddress('[fe80::1]:80')).toEqual({ host: 'fe80::1', port: 80 });
  for (const wrong of ['', ':80', 'a', 'a:', 'a:99999', 'a:b', '::1:80', 'a b:80', 'http://a:80'])
    expect(parseAddress(wrong)).toBeUndefined();
  expect(formatAddress({ host: '::1', port: 1 })).toBe('[::1]:1');
});

test('only this machine is loopback', () => {
  for (const host of ['127.0.0.1', '127.9.9.9', 'localhost', '::1']) expect(isLoopback(host)).toBe(true);
  for (const host of ['0.0.0.0', '::', '10.0.0.1', '127.0.0.1.example.com', 'localhost.example.com', ''])
    expect(isLoopback(host)).toBe(false);
});
