import { describe, expect, test } from '@jest/globals';
import { pageCursor, requireResourceId, toPage, type PageRequest } from '../../src/storage/index.js';

const ROWS = Array.from({ length: 7 }, (_, index) => ({ ordinal: 7 - index }));

/** A list of seven rows, newest first. */
function list(request: PageRequest, query = ['things', 'acme']): { items: readonly number[]; nextPageToken: string } {
  const cursor = pageCursor(request, query);
  const rows = ROWS.filter((row) => row.ordinal < cursor.before).slice(0, cursor.limit + 1);
  return toPage(rows, cursor, query, (row) => row.ordinal);
}

describe('pages', () => {
  test('walk through a list without gaps or repeats and end', () => {
    const first = list({ pageSize: 3 });
    const second = list({ pageSize: 3, pageToken: first.nextPageToken });
    const third = list({ pageSize: 3, pageToken: second.nextPageToken });
    expect([first.items, second.items, third.items]).toEqual([[7, 6, 5], [4, 3, 2], [1]]);
    expect(third.nextPageToken).toBe('');
    expect(list({ pageSize: 7 })).toEqual({ items: [7, 6, 5, 4, 3, 2, 1], nextPageToken: '' });
  });

  test('sizes: 0 is 50, more than 1,000 is 1,000', () => {
    expect([undefined, 0, 1, 1000, 5000].map((pageSize) => pageCursor(pageSize === undefined ? {} : { pageSize }, []).limit)).toEqual([
      50, 50, 1, 1000, 1000,
    ]);
  });

  test.each([-1, 1.5, NaN])('the size %p is refused', (pageSize) => {
    expect(() => pageCursor({ pageSize }, [])).toThrow(expect.objectContaining({ reason: 'INVALID_FIELD' }));
  });

  test('a token of another list, or none at all, is refused', () => {
    const { nextPageToken } = list({ pageSize: 3 });
    expect(() => list({ pageToken: nextPageToken }, ['things', 'globex'])).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', violations: [expect.objectContaining({ field: 'page_token' })] }),
    );
    expect(() => list({ pageToken: 'nonsense' })).toThrow(/page_token/);
  });
});

describe('resource ids', () => {
  test.each(['a', 'acme-2', `a${'b'.repeat(62)}`])('%s is one', (id) => expect(() => requireResourceId('id', id)).not.toThrow());
  test.each(['', 'A', '2a', '-a', 'a_b', 'a/b', 'a.b', 'ä', `a${'b'.repeat(63)}`, 'a\n'])('%j is none', (id) => {
    expect(() => requireResourceId('id', id)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });
});
