/** Run as a process of its own: opens the database of a folder and inserts rows, printing each number once it is acknowledged. */
import { openDatabase } from '../../src/storage/index.js';

const database = await openDatabase({ dataDir: process.argv[2] ?? '' });
await database.execute('CREATE TABLE numbers (n integer PRIMARY KEY)');
for (let n = 1; n < 1_000_000; n += 1) {
  await database.query('INSERT INTO numbers (n) VALUES ($1)', [n]);
  process.stdout.write(`${n}\n`);
}
