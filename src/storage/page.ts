/**
 * Pages of lists: newest first by a row's ordinal, and an opaque token that is only good for the query it came from.
 */
import { createHash } from 'node:crypto';
import { invalidFields } from '../common/errors.js';
import type { Database } from './database.js';

export interface PageRequest {
  /** 1 to 1,000; 0 or absent means 50, more means 1,000. */
  readonly pageSize?: number;
  /** nextPageToken of the page before; '' or absent for the first. */
  readonly pageToken?: string;
}

export interface Page<T> {
  readonly items: readonly T[];
  /** '' on the last page. */
  readonly nextPageToken: string;
}

export interface PageCursor {
  readonly limit: number;
  /** Rows come with ordinals below this. */
  readonly before: number;
}

function queryTag(query: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(query)).digest('base64url').slice(0, 12);
}

/** Reads a page request; `query` is everything else that decides the result (collection, tenant, filter). */
export function pageCursor(request: PageRequest, query: readonly string[]): PageCursor {
  const size = request.pageSize ?? 0;
  if (!Number.isInteger(size) || size < 0) throw invalidFields([{ field: 'page_size', description: 'must be a whole number, 0 or more' }]);
  const limit = size === 0 ? 50 : Math.min(size, 1000);
  const token = request.pageToken ?? '';
  if (token === '') return { limit, before: Number.MAX_SAFE_INTEGER };
  const [ordinal, tag] = Buffer.from(token, 'base64url').toString('utf8').split('.');
  const before = Number(ordinal);
  if (!Number.isSafeInteger(before) || before < 1 || tag !== queryTag(query)) {
    throw invalidFields([
      { field: 'page_token', description: 'is not a token of this list: pass back next_page_token with the same arguments' },
    ]);
  }
  return { limit, before };
}

/** A page from up to `limit + 1` rows in falling order of ordinal. */
export function toPage<R extends { ordinal: number }, T>(
  rows: readonly R[],
  cursor: PageCursor,
  query: readonly string[],
  map: (row: R) => T,
): Page<T> {
  const items = rows.slice(0, cursor.limit);
  const last = items.at(-1);
  const more = rows.length > cursor.limit && last !== undefined;
  return { items: items.map(map), nextPageToken: more ? Buffer.from(`${last.ordinal}.${queryTag(query)}`).toString('base64url') : '' };
}

/** Names are the program's own, never a caller's. */
export interface Listing {
  readonly table: string;
  readonly columns: string;
  /** Values of columns that the rows have. */
  readonly where: Readonly<Record<string, string>>;
}

/** A page of a table with an `ordinal`, newest first. `map` takes rows of the listed columns. */
export async function listNewest<T>(
  database: Pick<Database, 'query'>,
  { table, columns, where }: Listing,
  request: PageRequest,
  map: (row: never) => T,
): Promise<Page<T>> {
  const values = Object.values(where);
  const query = [table, ...values];
  const cursor = pageCursor(request, query);
  const conditions = [...Object.keys(where).map((column, i) => `${column} = $${i + 1}`), `ordinal < $${values.length + 1}`];
  const rows = await database.query<{ ordinal: number }>(
    `SELECT ${columns} FROM ${table} WHERE ${conditions.join(' AND ')} ORDER BY ordinal DESC LIMIT $${values.length + 2}`,
    [...values, cursor.before, cursor.limit + 1],
  );
  return toPage(rows, cursor, query, (row) => map(row as never));
}
