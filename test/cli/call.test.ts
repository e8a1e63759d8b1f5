import { expect, test } from '@jest/globals';
import { join } from 'node:path';
import { call } from '../../src/cli/call.js';
import { packageRoot } from '../../src/config/package-root.js';

test('where no server is, the address and what to do are named', async () => {
  const asked = call('ModelService/ListModels', {
    address: '127.0.0.1:1',
    protoFolder: join(packageRoot(), 'proto'),
    key: undefined,
    tenant: undefined,
    deadlineMs: undefined,
    json: '{}',
    input: (async function* () {})(),
    write: () => undefined,
  });
  await expect(asked).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    message: 'no answer from 127.0.0.1:1: ECONNREFUSED',
    hint: 'Start a server with "lorica serve", or say where it is with --address or LORICA_ADDRESS.',
  });
});
