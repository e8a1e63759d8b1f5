import { resolve } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { judge, readFloors } from '../../scripts/accept/floors.js';

const file = resolve(import.meta.dirname, '../../acceptance/floors.json');

describe('floors', () => {
  test('the file reads, with an id for each check', async () => {
    const checks = await readFloors(file, 'issue-3');
    expect(checks.map((check) => check.id)).toEqual(['quickstart', 'tests', 'quickstart-without-model', 'ci', 'smoke']);
    await expect(readFloors(file, 'issue-0')).rejects.toThrow('has no floors for issue-0');
  });

  test.each([
    [{ path: 'a.b', atLeast: 1 }, { a: { b: 1 } }, true],
    [{ path: 'a.b', atLeast: 1 }, { a: { b: 0.999 } }, false],
    [{ path: 'a', atMost: 2 }, { a: 2 }, true],
    [{ path: 'a', atMost: 2 }, { a: 2.1 }, false],
    [{ path: 'a', above: 0 }, { a: 1e-9 }, true],
    [{ path: 'a', above: 0 }, { a: 0 }, false],
    [{ path: 'a.b', atMost: 2 }, { a: null }, false],
    [{ path: 'a', atMost: 2 }, { a: '1' }, false],
    [{ path: 'a', atMost: 2 }, null, false],
    [{ path: 'a', atLeast: 2 }, { a: Number.NaN }, false],
    [{ path: 'a', atLeast: 100, scaledBy: { path: 'm', reference: 400 } }, { a: 50, m: 200 }, true],
    [{ path: 'a', atLeast: 100, scaledBy: { path: 'm', reference: 400 } }, { a: 49.9, m: 200 }, false],
    [{ path: 'a', atLeast: 100, scaledBy: { path: 'm', reference: 400 } }, { a: 99, m: 800 }, false],
    [{ path: 'a', atLeast: 100, scaledBy: { path: 'm', reference: 400 } }, { a: 99 }, false],
  ])('%j of %j holds: %s', (floor, figures, held) => {
    expect(judge(figures, floor).held).toBe(held);
  });
});
