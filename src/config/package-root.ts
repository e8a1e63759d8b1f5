/** Where the package lies, in the source tree and after compilation alike: the folder that holds proto/ and models/. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The nearest folder upwards whose package.json is Lorica's. */
export function packageRoot(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const manifest = join(folder, 'package.json');
    if (existsSync(manifest) && (JSON.parse(readFileSync(manifest, 'utf8')) as { name?: string }).name === 'lorica') return folder;
    if (folder === dirname(folder)) throw new Error('the package lorica is incomplete: its package.json is missing');
  }
}
