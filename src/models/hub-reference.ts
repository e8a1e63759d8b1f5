/** `hf:owner/name[@revision][:file]`, and which files of a repository make a model. Pure functions; nothing is fetched here. */
import { invalidFields, LoricaError } from '../common/errors.js';

export interface HubReference {
  /** owner/name */
  readonly repo: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** One GGUF file of the repository. */
  readonly file: string | undefined;
}

const REFERENCE = /^hf:([\w.-]+\/[\w.-]+)(?:@([\w./-]+))?(?::([\w./ -]+))?$/;
/** What a model folder is read from, beside the weights. */
const FOLDER_FILES = ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'];
export const SHARD_INDEX = 'model.safetensors.index.json';
const SINGLE = 'model.safetensors';

export function isHubReference(text: string): boolean {
  return text.startsWith('hf:');
}

/** INVALID_ARGUMENT / INVALID_FIELD when it is none, or when a part would lead out of a folder. */
export function parseHubReference(text: string): HubReference {
  const [, repo, revision = 'main', file] = REFERENCE.exec(text) ?? [];
  const parts = [repo, revision, file].flatMap((part) => part?.split('/') ?? []);
  if (repo === undefined || parts.some((part) => part === '' || part === '.' || part === '..')) {
    throw invalidFields([{ field: 'hub', description: `must be hf:owner/name, optionally @revision and :file.gguf, not ${JSON.stringify(text)}` }]);
  }
  return { repo, revision, file };
}

/**
 * The files to fetch of those that a repository has, as far as they are known without reading any: with a shard index among them, ask
 * `shardsOf` for the rest. Throws MODEL_UNSUPPORTED or CHECKPOINT_MISSING saying what to ask for instead.
 */
export function filesOfModel({ repo, file }: HubReference, names: readonly string[]): string[] {
  const has = (name: string): boolean => names.includes(name);
  const ggufs = names.filter((name) => name.endsWith('.gguf'));
  const choice = `Files: ${ggufs.slice(0, 20).join(', ') || 'no .gguf'}.`;
  if (file !== undefined) {
    if (has(file)) return [file];
    throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `${repo} has no file ${file}`, { hint: choice });
  }
  if (has('config.json') && (has(SINGLE) || has(SHARD_INDEX))) {
    if (!has('tokenizer.json')) {
      throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${repo} has no tokenizer.json`, {
        hint: 'Save the tokenizer with transformers (a "fast" tokenizer), which writes it.',
      });
    }
    return [...FOLDER_FILES.filter(has), has(SHARD_INDEX) ? SHARD_INDEX : SINGLE];
  }
  if (ggufs.length === 1) return ggufs;
  if (ggufs.length > 1) {
    throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `${repo} has ${ggufs.length} GGUF files: say which`, {
      hint: `Such as hf:${repo}:${ggufs[0]!}. ${choice}`,
    });
  }
  throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `${repo} holds neither safetensors with a config.json nor a GGUF file`, {
    hint: 'Pickled weights (pytorch_model.bin) are not read: they can run code. Save them as safetensors.',
  });
}

/** The weight files that a shard index names. CHECKPOINT_CORRUPT when it isn't one, or names a file that the repository hasn't. */
export function shardsOf(index: string, names: readonly string[], label: string): string[] {
  const corrupt = (why: string): LoricaError => new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_CORRUPT', `${label}: ${why}`);
  let map: unknown;
  try {
    map = (JSON.parse(index) as { weight_map?: unknown } | null)?.weight_map;
  } catch (error) {
    throw corrupt(`is not JSON: ${(error as Error).message}`);
  }
  if (typeof map !== 'object' || map === null) throw corrupt('weight_map is missing');
  const shards = [...new Set(Object.values(map as Record<string, unknown>))];
  const wrong = shards.find((name) => typeof name !== 'string' || !names.includes(name));
  if (wrong !== undefined) throw corrupt(`names ${JSON.stringify(wrong)}, which the repository does not have`);
  return (shards as string[]).sort();
}
