/** Reads one member out of a tar stream (POSIX ustar), without ever writing a name the archive chose. Long-name extensions are skipped over. */

const BLOCK_BYTES = 512;

/** Yields the bytes of the first file called `member` and reads on to the end; yields nothing when there is none. Throws on a damaged header. */
export async function* tarMember(source: AsyncIterable<Buffer>, member: string): AsyncGenerator<Buffer> {
  let pending: Buffer = Buffer.alloc(0);
  let left = 0;
  let padding = 0;
  let wanted = false;
  let found = false;
  for await (const chunk of source) {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    while (pending.length > 0) {
      if (left > 0) {
        const part = pending.subarray(0, left);
        pending = pending.subarray(part.length);
        left -= part.length;
        if (wanted) yield part;
        continue;
      }
      wanted = false;
      if (padding > 0) {
        const skipped = Math.min(padding, pending.length);
        pending = pending.subarray(skipped);
        padding -= skipped;
        continue;
      }
      if (pending.length < BLOCK_BYTES) break;
      const header = readHeader(pending.subarray(0, BLOCK_BYTES));
      pending = pending.subarray(BLOCK_BYTES);
      if (header === undefined) continue;
      left = header.bytes;
      padding = (BLOCK_BYTES - (left % BLOCK_BYTES)) % BLOCK_BYTES;
      wanted = !found && header.regular && header.name === member;
      found ||= wanted;
    }
  }
}

function text(block: Buffer, from: number, length: number): string {
  const field = block.subarray(from, from + length);
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end === -1 ? length : end);
}

/** undefined for the zero blocks at the end. */
function readHeader(block: Buffer): { name: string; bytes: number; regular: boolean } | undefined {
  if (block.every((byte) => byte === 0)) return undefined;
  let sum = 0;
  for (let i = 0; i < BLOCK_BYTES; i++) sum += i >= 148 && i < 156 ? 0x20 : (block[i] as number);
  if (parseInt(text(block, 148, 8), 8) !== sum) throw Object.assign(new Error('a tar header has a wrong checksum'), { code: 'Z_TAR' });
  const prefix = text(block, 257, 5) === 'ustar' && block[262] === 0 ? text(block, 345, 155) : '';
  const name = text(block, 0, 100);
  const type = text(block, 156, 1);
  return { name: prefix === '' ? name : `${prefix}/${name}`, bytes: parseInt(text(block, 124, 12), 8) || 0, regular: type === '0' || type === '' };
}
