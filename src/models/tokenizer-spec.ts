/**
 * The parts of a tokenizer.json that we rely on, checked, and rewritten where @huggingface/tokenizers 0.2 deviates from the
 * reference implementation (Rust `tokenizers`): its `Digits` knows ASCII digits only and the `\s` of its `ByteLevel` is JavaScript's.
 * Both become `Split` steps, whose patterns it translates faithfully. Anything but BPE is refused by name.
 */
import { LoricaError } from '../common/errors.js';
import { GPT2_PATTERN } from './pre-tokenizers.js';

export type Json = Record<string, unknown>;

export interface AddedTokenSpec {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

export interface TokenizerSpec {
  readonly model: Json & { readonly vocab: Readonly<Record<string, number>> };
  readonly addedTokens: readonly (AddedTokenSpec & Json)[];
  /** How tokens become bytes: the byte-level alphabet of GPT-2, or pieces with ▁ for a space and <0xNN> for a byte. */
  readonly bytes: { readonly kind: 'byteLevel' } | { readonly kind: 'pieces'; readonly stripFirstSpace: boolean };
  /** The whole file, as handed to the library. */
  readonly json: Json;
}

export function tokenizerError(label: string, why: string, cause?: unknown): LoricaError {
  return new LoricaError('INVALID_ARGUMENT', 'TOKENIZER_INVALID', `the tokenizer of ${label} is not usable: ${why}`, cause === undefined ? {} : { cause });
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Checks `value`, the parsed tokenizer.json of `label`. Throws TOKENIZER_INVALID, or MODEL_UNSUPPORTED naming the feature. */
export function parseTokenizerSpec(value: unknown, label: string): TokenizerSpec {
  if (!isObject(value) || !isObject(value['model'])) throw tokenizerError(label, 'it is not a tokenizer.json object with a model');
  const model = value['model'];
  const type = model['type'] ?? 'BPE';
  if (type !== 'BPE') throw unsupported(label, `model type ${JSON.stringify(type)}`);
  if (!isObject(model['vocab'])) throw tokenizerError(label, 'its vocabulary is missing');
  checkVocabulary(model['vocab'], label);
  checkMerges(model['merges'], model['vocab'] as Record<string, number>, label);
  const added = value['added_tokens'] ?? [];
  if (!Array.isArray(added)) throw tokenizerError(label, 'added_tokens is not a list');
  const addedTokens = added.map((token) => {
    if (!isObject(token) || typeof token['content'] !== 'string' || !isId(token['id'])) throw tokenizerError(label, `added token ${JSON.stringify(token)}`);
    return { ...token, id: token['id'], content: token['content'], special: token['special'] === true };
  });
  return {
    model: model as TokenizerSpec['model'],
    addedTokens,
    bytes: bytesRule(value['decoder'], label),
    json: {
      ...value,
      normalizer: value['normalizer'] ?? null,
      pre_tokenizer: rewritePreTokenizer(value['pre_tokenizer'] ?? null),
      post_processor: value['post_processor'] ?? null,
      decoder: null,
      added_tokens: addedTokens,
    },
  };
}

function unsupported(label: string, what: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `the tokenizer of ${label} has an unsupported ${what}`, {
    hint: 'Supported: byte-level BPE, and BPE over ▁ pieces with byte fallback.',
  });
}

function isId(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 24;
}

function checkVocabulary(vocab: Json, label: string): void {
  const seen = new Set<unknown>();
  for (const [token, id] of Object.entries(vocab)) {
    if (!isId(id)) throw tokenizerError(label, `token ${JSON.stringify(token)} has the id ${JSON.stringify(id)}`);
    if (seen.has(id)) throw tokenizerError(label, `two tokens have the id ${id}`);
    seen.add(id);
  }
  if (seen.size === 0) throw tokenizerError(label, 'its vocabulary is empty');
}

function checkMerges(merges: unknown, vocab: Record<string, number>, label: string): void {
  if (!Array.isArray(merges)) throw tokenizerError(label, 'its merges are missing');
  for (const merge of merges as unknown[]) {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge;
    if (!Array.isArray(pair) || pair.length !== 2) throw tokenizerError(label, `merge ${JSON.stringify(merge)} is no pair`);
    const [left, right] = pair as [string, string];
    if (!Object.hasOwn(vocab, left) || !Object.hasOwn(vocab, right) || !Object.hasOwn(vocab, left + right)) {
      throw tokenizerError(label, `merge ${JSON.stringify(merge)} needs a token that the vocabulary lacks`);
    }
  }
}

function bytesRule(decoder: unknown, label: string): TokenizerSpec['bytes'] {
  const steps = isObject(decoder) ? (decoder['type'] === 'Sequence' ? (decoder['decoders'] as unknown[]) : [decoder]) : [];
  const types = Array.isArray(steps) ? steps.map((step) => (isObject(step) ? String(step['type']) : '')) : [];
  if (types.length === 1 && types[0] === 'ByteLevel') return { kind: 'byteLevel' };
  const metaspace = (steps as Json[]).find((step) => step['type'] === 'Metaspace');
  const known = ['Replace', 'ByteFallback', 'Fuse', 'Strip', 'Metaspace'];
  if (types.length > 0 && types.every((type) => known.includes(type)) && (metaspace !== undefined || types.includes('Replace'))) {
    return { kind: 'pieces', stripFirstSpace: types.includes('Strip') || (metaspace !== undefined && metaspace['prepend_scheme'] !== 'never') };
  }
  throw unsupported(label, `decoder ${types.length === 0 ? 'null' : types.join(' + ')}`);
}

function split(pattern: string): Json {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}

function rewritePreTokenizer(step: unknown): unknown {
  if (!isObject(step)) return step;
  if (step['type'] === 'Sequence') {
    const inner = (step['pretokenizers'] as unknown[] | undefined) ?? [];
    return { ...step, pretokenizers: inner.map(rewritePreTokenizer) };
  }
  if (step['type'] === 'Digits') return split(step['individual_digits'] === true ? String.raw`\p{N}` : String.raw`\p{N}+`);
  if (step['type'] === 'ByteLevel' && step['use_regex'] !== false && step['add_prefix_space'] !== true) {
    return { type: 'Sequence', pretokenizers: [split(GPT2_PATTERN), { ...step, use_regex: false }] };
  }
  return step;
}
