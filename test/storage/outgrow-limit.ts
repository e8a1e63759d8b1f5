/**
 * Run as a process of its own: writes to the embedded database of a folder until the kernel refuses to let its log grow (RLIMIT_FSIZE, set and
 * lifted here), and prints what statements answered before, during and after as JSON.
 */
import koffi from 'koffi';
import { LoricaError } from '../../src/common/errors.js';
import { openDatabase } from '../../src/storage/index.js';

const RLIMIT_FSIZE = 1;
const UNLIMITED = 0xffff_ffff_ffff_ffffn;
const limits = koffi.struct('rlimit', { soft: 'uint64', hard: 'uint64' });
const setrlimit = koffi.load(null).func('setrlimit', 'int', ['int', koffi.pointer(limits)]) as (what: number, limit: object) => number;
const limitFiles = (soft: bigint): void => {
  if (setrlimit(RLIMIT_FSIZE, { soft, hard: UNLIMITED }) !== 0) throw new Error('setrlimit failed');
};
const answer = (call: Promise<unknown>): Promise<unknown> =>
  call.catch((error: unknown) => (error instanceof LoricaError ? `${error.code} ${error.reason}` : String(error)));

const database = await openDatabase({ dataDir: process.argv[2] ?? '' });
await database.execute('CREATE TABLE numbers (n integer PRIMARY KEY)');
const grow = `SELECT pg_logical_emit_message(false, 'test', repeat('x', 100000))`;
limitFiles(15_000_000n);
let acknowledged = 0;
const write = async (): Promise<never> => {
  for (;;) {
    await database.query('INSERT INTO numbers (n) VALUES ($1)', [acknowledged + 1]);
    acknowledged += 1;
    await database.query(grow);
  }
};
const refused = await answer(write());
// Many at once, statements and transactions: each is answered, none hangs.
const during = await Promise.all(
  Array.from({ length: 6 }, () => [answer(database.query(grow)), answer(database.transaction((tx) => tx.query(grow)))]).flat(),
);
limitFiles(UNLIMITED);
let after: unknown = refused;
for (let attempt = 0; typeof after === 'string' && attempt < 20; attempt += 1) {
  await new Promise((resolve) => setTimeout(resolve, 500));
  after = await answer(database.query<{ count: number }>('SELECT count(*) AS count FROM numbers').then(([row]) => row?.count));
}
await database.query('INSERT INTO numbers (n) VALUES (-1)');
await database.close();
await new Promise((resolve) => process.stdout.write(JSON.stringify({ acknowledged, refused, during, after }), resolve));
// The instances that could not be opened in between keep a timer of their own.
process.exit(0);
