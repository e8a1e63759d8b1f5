/** Where the Hugging Face hub is and where its files are kept: the variables and the folders that huggingface_hub uses. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import { SourceFailed } from './catalogue-source.js';

/** Without a slash at the end. Throws SourceFailed when HF_ENDPOINT is no URL. */
export function hubEndpoint(environment: NodeJS.ProcessEnv): string {
  const endpoint = (environment['HF_ENDPOINT'] || 'https://huggingface.co').replace(/\/+$/, '');
  if (!URL.canParse(endpoint)) throw new SourceFailed(`HF_ENDPOINT ${JSON.stringify(endpoint)} is no URL`);
  return endpoint;
}

export function isOffline(environment: NodeJS.ProcessEnv): boolean {
  return /^(1|true|yes|on)$/i.test(environment['HF_HUB_OFFLINE'] ?? '');
}

/** The folder of a model repository in the shared cache: refs/, blobs/ and snapshots/ are inside. */
export function hubCacheFolder(repo: string, environment: NodeJS.ProcessEnv): string {
  const home = environment['HF_HOME'] || join(environment['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'huggingface');
  const cache = environment['HF_HUB_CACHE'] || environment['HUGGINGFACE_HUB_CACHE'] || join(home, 'hub');
  return join(cache, `models--${repo.replace('/', '--')}`);
}
