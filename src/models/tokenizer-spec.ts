/**
 * The parts of a tokenizer.json that we rely on, checked, with its steps rewritten for the library that runs them. BPE, WordPiece
 * and Unigram are known; what they can do that isn't supported is refused by name.
 */
import { LoricaError } from '../common/errors.js';
import { rewriteNormalizer, rewritePreTokenizer, UnsupportedStep } from './tokenizer-steps.js';

export type Json = Record<string, unknown>;

export interface AddedTokenSpec {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

export type BytesRule =
  /** The byte-level alphabet of GPT-2. */
  | { readonly kind: 'byteLevel' }
  /** ▁ stands for a space, <0xNN> for a byte where `byteFallback`; the space that encoding put at the beginning is dropped. */
  | { readonly kind: 'pieces'; readonly stripFirstSpace: boolean; readonly byteFallback: boolean }
  /** Words are set apart by spaces, tokens with the prefix go on; `cleanUp` drops spaces before punctuation. */
  | { readonly kind: 'words'; readonly prefix: string; readonly cleanUp: boolean };

export interface TokenizerSpec {
  readonly model: Json & { readonly type: 'BPE' | 'WordPiece' | 'Unigram' };
  /** Id by token, added tokens not counted. */
  readonly vocab: Readonly<Record<string, number>>;
  readonly addedTokens: readonly (AddedTokenSpec & Json)[];
  /** How tokens become bytes. */
  readonly bytes: BytesRule;
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
  if (type !== 'BPE' && type !== 'WordPiece' && type !== 'Unigram') throw unsupported(label, `model type ${JSON.stringify(type)}`);
  const vocab = type === 'Unigram' ? unigramVocabulary(model, label) : model['vocab'];
  if (!isObject(vocab)) throw tokenizerError(label, 'its vocabulary is missing');
  checkVocabulary(vocab, label);
  if (type === 'BPE') checkMerges(model, vocab as Record<string, number>, label);
  if (type === 'WordPiece' && !Object.hasOwn(vocab, String(model['unk_token']))) throw tokenizerError(label, 'its vocabulary lacks the unknown token');
  const added = value['added_tokens'] ?? [];
  if (!Array.isArray(added)) throw tokenizerError(label, 'added_tokens is not a list');
  const addedTokens = added.map((token) => {
    if (!isObject(token) || typeof token['content'] !== 'string' || !isId(token['id'])) throw tokenizerError(label, `added token ${JSON.stringify(token)}`);
    if (token['single_word'] === true) throw unsupported(label, `added token ${JSON.stringify(token['content'])} with single_word`);
    return { ...token, id: token['id'], content: token['content'], special: token['special'] === true };
  });
  const spacesReplaced = JSON.stringify(value['normalizer'] ?? null).includes('"pattern":{"String":" "},"content":"▁"');
  return {
    model: { ...model, type },
    vocab: vocab as Record<string, number>,
    addedTokens,
    bytes: bytesRule(value['decoder'], label),
    json: {
      ...value,
      model: { ...model, type },
      normalizer: rewritten(() => rewriteNormalizer(value['normalizer']), label),
      pre_tokenizer: rewritten(() => rewritePreTokenizer(value['pre_tokenizer'], spacesReplaced), label),
      post_processor: value['post_processor'] ?? null,
      decoder: null,
      added_tokens: addedTokens,
    },
  };
}

function rewritten(rewrite: () => unknown, label: string): unknown {
  try {
    return rewrite();
  } catch (cause) {
    throw cause instanceof UnsupportedStep ? unsupported(label, cause.message) : cause;
  }
}

function unigramVocabulary(model: Json, label: string): Json {
  const list = model['vocab'];
  const valid = (entry: unknown): boolean => Array.isArray(entry) && entry.length === 2 && typeof entry[0] === 'string' && Number.isFinite(entry[1]);
  if (!Array.isArray(list) || !list.every(valid)) throw tokenizerError(label, 'its vocabulary is no list of pieces with scores');
  if (model['byte_fallback'] === true) throw unsupported(label, 'model type "Unigram" with byte_fallback');
  const unknown = model['unk_id'];
  if (!isId(unknown) || unknown >= list.length) throw tokenizerError(label, 'its vocabulary lacks the unknown token');
  const vocab = Object.create(null) as Record<string, number>;
  (list as [string, number][]).forEach(([piece], id) => (vocab[piece] ??= id));
  return vocab;
}

function unsupported(label: string, what: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `the tokenizer of ${label} has an unsupported ${what}`, {
    hint: 'Supported: byte-level BPE, BPE and Unigram over ▁ pieces, and WordPiece.',
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

function checkMerges(model: Json, vocab: Record<string, number>, label: string): void {
  const merges = model['merges'];
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix', 'dropout']) {
    if (model[key] != null && model[key] !== '' && model[key] !== 0) throw unsupported(label, `model type "BPE" with ${key} ${JSON.stringify(model[key])}`);
  }
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

function bytesRule(decoder: unknown, label: string): BytesRule {
  const steps = isObject(decoder) ? (decoder['type'] === 'Sequence' ? (decoder['decoders'] as unknown[]) : [decoder]) : [];
  const types = Array.isArray(steps) ? steps.map((step) => (isObject(step) ? String(step['type']) : '')) : [];
  if (types.length === 1 && types[0] === 'ByteLevel') return { kind: 'byteLevel' };
  if (types.length === 1 && types[0] === 'WordPiece') {
    const { prefix = '##', cleanup = true } = steps[0] as { prefix?: string; cleanup?: boolean };
    return { kind: 'words', prefix, cleanUp: cleanup };
  }
  const metaspace = (steps as Json[]).find((step) => step['type'] === 'Metaspace');
  const known = ['Replace', 'ByteFallback', 'Fuse', 'Strip', 'Metaspace'];
  if (types.length > 0 && types.every((type) => known.includes(type)) && (metaspace !== undefined || types.includes('Replace'))) {
    const stripFirstSpace = types.includes('Strip') || (metaspace !== undefined && metaspace['prepend_scheme'] !== 'never');
    return { kind: 'pieces', stripFirstSpace, byteFallback: types.includes('ByteFallback') };
  }
  throw unsupported(label, `decoder ${types.length === 0 ? 'null' : types.join(' + ')}`);
}
