import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { chooseBase } from '../../../src/cli/quickstart/model.js';

const options = { signal: new AbortController().signal, onProgress: () => undefined };
const before = { ...process.env };
let folder = '';

/** Nothing can be had: an empty cache, and a hub and an index at a port where nobody listens. */
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lorica-model-'));
  Object.assign(process.env, {
    LORICA_MODEL_CACHE: folder, HF_HOME: folder, HF_ENDPOINT: 'http://127.0.0.1:9', PIP_INDEX_URL: 'http://127.0.0.1:9/simple', PIP_RETRIES: '0', PIP_CONFIG_FILE: '/dev/null',
  });
});
afterAll(async () => {
  process.env = before;
  await rm(folder, { recursive: true, force: true });
});

describe('the base of the quickstart', () => {
  test('where no model can be had it is the embedded one, with the reasons', async () => {
    const base = await chooseBase(undefined, options);
    expect(base).toMatchObject({ id: 'tiny', embedded: true });
    expect(base.why).toContain('smollm2-135m-instruct cannot be had');
    expect(base.why).toMatch(/hub.*pip/s);
  });

  test('a model asked for by name is not replaced by another', async () => {
    await expect(chooseBase('smollm2-135m-instruct', options)).rejects.toMatchObject({ code: 'UNAVAILABLE', reason: 'UPSTREAM_UNAVAILABLE' });
    await expect(chooseBase('no-such-model', options)).rejects.toMatchObject({ code: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND' });
  });

  test('a path gets an id that the API allows', async () => {
    expect(await chooseBase(folder, options)).toMatchObject({ path: folder, embedded: false });
    expect((await chooseBase(folder, options)).id).toMatch(/^[a-z][a-z0-9.-]*$/);
  });
});
