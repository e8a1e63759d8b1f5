/** A catalogue model from the Hugging Face hub: `{endpoint}/{repo}/resolve/{revision}/{file}`, which may redirect to a store. */
import { join } from 'node:path';
import type { CatalogueEntry } from './catalogue-entries.js';
import { SourceFailed, type FetchContext } from './catalogue-source.js';
import { hubCacheFolder, hubEndpoint, isOffline } from './hub-settings.js';
import { resumableDownload } from './resumable-download.js';

/** Where huggingface_hub keeps the file when it has downloaded it. */
export function hubCachePath({ hub }: CatalogueEntry, environment: NodeJS.ProcessEnv): string {
  return join(hubCacheFolder(hub.repo, environment), 'snapshots', hub.revision, hub.file);
}

/** Fills `context.temporary`, going on after what is there. Throws SourceFailed; errors of writing pass through. */
export async function downloadFromHub({ hub, bytes }: CatalogueEntry, context: FetchContext): Promise<void> {
  const { environment, temporary, signal, onProgress } = context;
  if (isOffline(environment)) throw new SourceFailed('HF_HUB_OFFLINE is set');
  const url = `${hubEndpoint(environment)}/${hub.repo}/resolve/${hub.revision}/${hub.file}`;
  const onBytes = (have: number): void => onProgress?.({ source: 'hub', phase: 'download', bytes: have, totalBytes: bytes });
  await resumableDownload({ url, bytes, temporary, token: environment['HF_TOKEN'], onBytes, signal });
}
