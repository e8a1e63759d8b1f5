/** `lorica models list` and `lorica models pull`: the catalogue, and fetching from it or from the Hugging Face hub. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CATALOGUE, defaultModelCache, isHubReference, pullFromHub, pullModel, type PullProgress } from '../models/catalogue.js';

export interface ModelsOutput {
  readonly write: (line: string) => void;
  /** For progress; absent where nobody watches. */
  readonly progress?: (text: string) => void;
}

export function listModels(cacheDir: string | undefined, { write }: ModelsOutput): void {
  const folder = cacheDir ?? defaultModelCache();
  for (const { id, title, licence, bytes, file } of CATALOGUE) {
    write(
      `${id}\n  ${title}\n  ${(bytes / 1e6).toFixed(0)} MB, ${licence}, ${existsSync(join(folder, file)) ? `in ${folder}` : 'not fetched yet'}`,
    );
  }
}

/** Writes the path of the model's file or folder once it is there and verified. `id` is the catalogue's, or `hf:owner/name[@revision][:file]`. */
export async function pull(
  id: string,
  cacheDir: string | undefined,
  signal: AbortSignal,
  { write, progress }: ModelsOutput,
): Promise<void> {
  const onProgress = ({ source, phase, bytes, totalBytes }: PullProgress): void => progress?.(bar(`${phase} from ${source}`, bytes, totalBytes));
  if (isHubReference(id)) {
    const { path, commit, source } = await pullFromHub(id, { signal, onProgress });
    progress?.(`${id} (${source}, commit ${commit})\n`);
    write(path);
    return;
  }
  const result = await pullModel(id, { signal, ...(cacheDir === undefined ? {} : { cacheDir }), onProgress });
  for (const { source, why } of result.tried) progress?.(`${source}: ${why}\n`);
  progress?.(`${id} (${result.source}, ${result.digest})\n`);
  write(result.path);
}

const BAR = 30;

function bar(text: string, bytes: number, totalBytes: number): string {
  const share = totalBytes > 0 ? Math.min(1, bytes / totalBytes) : 0;
  const filled = Math.round(share * BAR);
  return `\r[${'#'.repeat(filled)}${'.'.repeat(BAR - filled)}] ${(share * 100).toFixed(0).padStart(3)} % ${(bytes / 1e6).toFixed(1)} MB ${text}${share === 1 ? '\n' : ''}`;
}
