/**
 * Exported checkpoints while they are sent: written whole into a folder of their own, read piece by piece, removed. What a process
 * that died left behind is removed when the server starts (`clearExports`). Invariant: a file is never sent before it is complete.
 */
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HEAD_FILE, headSettings, type AdapterContent } from '../adapters/index.js';
import { exportCheckpoint, sha256File, type Checkpoint } from '../models/checkpoint.js';
import type { ExportedFiles, ExportFormat } from '../services/index.js';

const PIECE_BYTES = 1 << 20;
/** No export takes this long; the folder may be shared with other processes, whose exports go on. */
const STALE_MS = 24 * 3600 * 1000;
const GGUF_STORAGE = { float32: 'F32', float16: 'F16', q8_0: 'Q8_0' } as const;

/** Writes `checkpoint` with `change` merged in. Throws as `exportCheckpoint`; nothing is left then. */
export async function writeExport(checkpoint: Checkpoint, change: AdapterContent | undefined, format: ExportFormat, root: string): Promise<ExportedFiles> {
  await mkdir(root, { recursive: true });
  const folder = await mkdtemp(join(root, 'export-'));
  const dispose = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    if (format.kind === 'gguf') {
      const storage = GGUF_STORAGE[format.type];
      await exportCheckpoint(checkpoint, join(folder, `${checkpoint.id}.${storage}.gguf`), { kind: 'gguf', storage }, change);
    } else {
      await exportCheckpoint(checkpoint, folder, { kind: 'huggingFace', dtype: format.type }, change);
      // What config.json can not say: the template that texts are read by.
      if (change?.head !== undefined) await writeFile(join(folder, HEAD_FILE), `${JSON.stringify(headSettings(change.head), null, 2)}\n`);
    }
    const names = (await readdir(folder)).sort();
    const files = await Promise.all(
      names.map(async (name) => ({ name, bytes: (await stat(join(folder, name))).size, sha256: await sha256File(join(folder, name)) })),
    );
    return {
      files,
      read: (name) => createReadStream(join(folder, name), { highWaterMark: PIECE_BYTES }) as AsyncIterable<Buffer>,
      dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** Removes what processes that died were sending. */
export async function clearExports(root: string): Promise<void> {
  for (const name of await readdir(root).catch(() => [])) {
    const folder = join(root, name);
    const { mtimeMs } = await stat(folder);
    if (Date.now() - mtimeMs > STALE_MS) await rm(folder, { recursive: true, force: true });
  }
}
