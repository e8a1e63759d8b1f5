/** What every Database does. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Database, isUniqueViolation } from '../../src/storage/index.js';
import type { Temporary } from '../storage/temporary.js';

export function databaseContract(open: () => Promise<Temporary<Database>>): void {
  describe('database', () => {
    let temporary: Temporary<Database>;
    let database: Database;
    beforeAll(async () => {
      temporary = await open();
      database = temporary.value;
      await database.execute(
        'CREATE TABLE numbers (n bigint PRIMARY KEY, note text, data json, at timestamptz); CREATE TABLE other (n integer)',
      );
    });
    afterAll(() => temporary.dispose());

    const notes = async (where = 'true'): Promise<unknown[]> =>
      (await database.query<{ note: string }>(`SELECT note FROM numbers WHERE ${where} ORDER BY n`)).map((row) => row.note);

    test('gives every type back as the same JavaScript value', async () => {
      const at = new Date('2026-01-02T03:04:05.678Z');
      const data = { text: 'a\u0000b\ud800', list: [1, null, 'x'], z: 1, a: 2 };
      await database.query('INSERT INTO numbers (n, note, data, at) VALUES ($1, $2, $3, $4)', [
        9007199254740991,
        undefined,
        JSON.stringify(data),
        at,
      ]);
      const rows = await database.query(
        'SELECT n, note, data, at, count(*) OVER () AS total, n = ANY ($1) AS listed, now() AS now FROM numbers',
        [[9007199254740991]],
      );
      expect(rows).toEqual([{ n: 9007199254740991, note: null, data, at, total: 1, listed: true, now: expect.any(Date) }]);
      await database.query('DELETE FROM numbers');
    });

    test('a transaction that throws leaves nothing, one that returns stays', async () => {
      const failed = database.transaction(async (tx) => {
        await tx.query('INSERT INTO numbers (n, note) VALUES (1, $1)', ['lost']);
        throw new RangeError('stop');
      });
      await expect(failed).rejects.toThrow(new RangeError('stop'));
      await database.transaction((tx) => tx.query('INSERT INTO numbers (n, note) VALUES (2, $1)', ['kept']));
      expect(await notes()).toEqual(['kept']);
    });

    test('an inner transaction is undone alone', async () => {
      await database.transaction(async (tx) => {
        await tx.query(`INSERT INTO numbers (n, note) VALUES (10, 'outer')`);
        const inner = tx.transaction(async (deeper) => {
          await deeper.query(`INSERT INTO numbers (n, note) VALUES (11, 'inner')`);
          await deeper.transaction((deepest) => deepest.query(`INSERT INTO numbers (n, note) VALUES (12, 'inmost')`));
          await deeper.query('SELECT 1 / 0');
        });
        await expect(inner).rejects.toThrow(/division by zero/);
        await tx.query(`INSERT INTO numbers (n, note) VALUES (13, 'after')`);
      });
      expect(await notes('n >= 10')).toEqual(['outer', 'after']);
    });

    test('a transaction whose failed statement was swallowed does not pretend to have committed', async () => {
      const swallowed = database.transaction(async (tx) => {
        await tx.query(`INSERT INTO numbers (n, note) VALUES (20, 'never')`);
        await tx.query('SELECT 1 / 0').catch(() => undefined);
      });
      await expect(swallowed).rejects.toThrow();
      expect(await notes('n = 20')).toEqual([]);
    });

    test('knows a duplicate key, and refuses text that cannot be stored', async () => {
      const twice = (): Promise<unknown> => database.query(`INSERT INTO numbers (n, note) VALUES (30, 'x')`);
      await twice();
      expect(isUniqueViolation(await twice().catch((error: unknown) => error))).toBe(true);
      await expect(database.query('SELECT $1::text', ['a\u0000b'])).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        reason: 'INVALID_FIELD',
      });
    });

    test('many callers at once all get their own answer', async () => {
      const sums = await Promise.all(
        Array.from({ length: 40 }, (_, index) =>
          index % 2 === 0
            ? database.query<{ v: number }>('SELECT $1::int AS v', [index])
            : database.transaction((tx) => tx.query<{ v: number }>('SELECT $1::int AS v', [index])),
        ),
      );
      expect(sums.map(([row]) => row?.v)).toEqual(Array.from({ length: 40 }, (_, index) => index));
    });
  });
}
