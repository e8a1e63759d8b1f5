/** Run as a process of its own: puts `bytes` bytes into the blob store of a folder and prints the outcome as JSON. */
import { LoricaError } from '../../src/common/errors.js';
import { openFolderBlobStore } from '../../src/storage/index.js';

const [folder = '', bytes = '0', ending = ''] = process.argv.slice(2);
const store = await openFolderBlobStore(folder);

async function* source(): AsyncGenerator<Uint8Array> {
  const piece = new Uint8Array(64 * 1024).fill(7);
  for (let left = Number(bytes); left > 0; left -= piece.length) yield await Promise.resolve(piece.subarray(0, left));
  if (ending !== '') process.kill(process.pid, 'SIGKILL');
}

const outcome = await store
  .put(source())
  .catch((error: unknown) => (error instanceof LoricaError ? { code: error.code, reason: error.reason } : { defect: String(error) }));
process.stdout.write(JSON.stringify(outcome));
