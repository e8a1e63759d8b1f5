import { describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import { Fields } from '../../src/services/fields.js';
import { needName, parseModelName, parseName, versionName, type NameKind } from '../../src/services/names.js';

const identity = { tenant: 'acme', roles: ['tenant' as const] };
const HEX = 'a'.repeat(64);

const parse = (kind: NameKind, value: string) => needName(kind, 'name', value, identity, new Fields());

describe('names', () => {
  test.each([
    ['dataset', 'tenants/-/datasets/d', 'tenants/acme/datasets/d', ['d']],
    ['tuningJob', 'tenants/acme/tuningJobs/j-1', 'tenants/acme/tuningJobs/j-1', ['j-1']],
    ['adapterAlias', 'tenants/-/adapters/a/aliases/prod', 'tenants/acme/adapters/a/aliases/prod', ['a', 'prod']],
    ['adapterVersion', `tenants/-/adapters/a/versions/${HEX}`, `tenants/acme/adapters/a/versions/${HEX}`, ['a', HEX]],
    ['reference', 'tenants/-/adapters/a@prod', 'tenants/acme/adapters/a@prod', ['a', 'prod']],
    ['reference', `tenants/acme/adapters/a@sha256:${HEX}`, `tenants/acme/adapters/a@sha256:${HEX}`, ['a', `sha256:${HEX}`]],
    ['reference', `tenants/-/adapters/a/versions/${HEX}`, `tenants/acme/adapters/a/versions/${HEX}`, ['a', HEX]],
    ['tenant', 'tenants/-', 'tenants/acme', []],
  ] as const)('%s %s', (kind, value, name, ids) => {
    expect(parse(kind, value)).toEqual({ name, tenant: 'acme', ids });
  });

  test.each([
    ['dataset', ''],
    ['dataset', 'tenants/acme/datasets/'],
    ['dataset', 'tenants/acme/datasets/D'],
    ['dataset', 'tenants/acme/datasets/d/x'],
    ['dataset', ' tenants/acme/datasets/d'],
    ['tenant', 'tenants/acme/'],
    ['adapterVersion', 'tenants/-/adapters/a/versions/abc'],
    ['reference', 'tenants/-/adapters/a@'],
    ['dataset', 'tenants/../datasets/d'],
    ['dataset', 'tenants/acme/datasets/d\n'],
  ] as const)('%s %j is malformed', (kind, value) => {
    expect(() => parse(kind, value)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', violations: [expect.objectContaining({ field: 'name' })] }),
    );
  });

  test("another tenant's name is NOT_FOUND, without a look", () => {
    expect(() => parse('dataset', 'tenants/other/datasets/d')).toThrow(
      expect.objectContaining({ code: 'NOT_FOUND', reason: 'DATASET_NOT_FOUND', message: 'tenants/other/datasets/d does not exist' }),
    );
  });

  test('violations add up', () => {
    const fields = new Fields();
    parseName('tenant', 'parent', 'x', identity, fields);
    parseModelName('model', 'm', fields);
    expect(() => fields.done()).toThrow(LoricaError);
    expect(fields.violations.map(({ field }) => field)).toEqual(['parent', 'model']);
  });

  test('models and versions', () => {
    expect(parseModelName('m', 'models/smollm2-135m.v1', new Fields())).toBe('smollm2-135m.v1');
    expect(versionName('t', 'a', `sha256:${HEX}`)).toBe(`tenants/t/adapters/a/versions/${HEX}`);
  });
});
