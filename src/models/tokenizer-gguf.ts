/**
 * The tokenizer that a GGUF file carries, as the tokenizer.json it was converted from: `gpt2` (byte-level BPE, with the
 * pre-tokenizer named by `tokenizer.ggml.pre`) and `llama` (SentencePiece BPE with scores and byte fallback).
 */
import { LoricaError } from '../common/errors.js';
import type { GgufValue } from '../tensor/gguf.js';
import { PRE_TOKENIZATIONS, preTokenizationJson } from './pre-tokenizers.js';
import { tokenizerError, type Json } from './tokenizer-spec.js';

type Metadata = ReadonlyMap<string, GgufValue>;

/** Token types of the GGUF specification. */
const TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4 } as const;

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
}

/** Builds the tokenizer.json. Throws TOKENIZER_INVALID for damaged metadata, MODEL_UNSUPPORTED naming an unknown model or pre-tokenizer. */
export function tokenizerJsonFromGguf(metadata: Metadata, label: string): Json {
  const model = metadata.get('tokenizer.ggml.model');
  const tokens = list(metadata, 'tokens', 'string', label);
  const types = metadata.has('tokenizer.ggml.token_type') ? list(metadata, 'token_type', 'number', label) : tokens.map(() => 1);
  if (tokens.length === 0 || types.length !== tokens.length) throw tokenizerError(label, `${tokens.length} tokens with ${types.length} types`);
  const vocabulary: Vocabulary = { tokens, types };
  if (model === 'gpt2') return byteLevelJson(metadata, vocabulary, label);
  if (model === 'llama') return piecesJson(metadata, vocabulary, label);
  throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `the tokenizer of ${label} is of the unsupported GGUF kind ${JSON.stringify(model ?? null)}`, {
    hint: 'Supported: gpt2 (byte-level BPE) and llama (SentencePiece BPE).',
  });
}

function list(metadata: Metadata, name: string, type: 'string', label: string): readonly string[];
function list(metadata: Metadata, name: string, type: 'number', label: string): readonly number[];
function list(metadata: Metadata, name: string, type: 'string' | 'number', label: string): readonly unknown[] {
  const value = metadata.get(`tokenizer.ggml.${name}`);
  if (!Array.isArray(value) || !value.every((item) => typeof item === type)) throw tokenizerError(label, `tokenizer.ggml.${name} is no list of ${type}s`);
  return value as readonly unknown[];
}

/** Id by token; of two equal tokens the first counts, as in llama.cpp's lookups by text of a converter's padding tokens. */
function vocabularyMap(tokens: readonly string[]): Record<string, number> {
  const vocab: Record<string, number> = Object.create(null) as Record<string, number>;
  tokens.forEach((token, id) => (vocab[token] ??= id));
  return vocab;
}

function addedTokens({ tokens, types }: Vocabulary): Json[] {
  const added: Json[] = [];
  tokens.forEach((content, id) => {
    const type = types[id];
    if (type === TYPE.control || type === TYPE.unknown || type === TYPE.userDefined) {
      added.push({ id, content, special: type !== TYPE.userDefined, normalized: false, single_word: false, lstrip: false, rstrip: false });
    }
  });
  return added;
}

/** Adds bos and eos where the file says so. */
function postProcessor(metadata: Metadata, tokens: readonly string[], addBos: boolean): Json | null {
  const flag = (name: string, fallback: boolean): boolean => (metadata.get(`tokenizer.ggml.${name}`) ?? fallback) === true;
  const special: Record<string, Json> = {};
  const token = (name: string, wanted: boolean): Json[] => {
    const id = metadata.get(`tokenizer.ggml.${name}_token_id`);
    const text = typeof id === 'number' ? tokens[id] : undefined;
    if (!wanted || text === undefined) return [];
    special[text] = { id: text, ids: [id], tokens: [text] };
    return [{ SpecialToken: { id: text, type_id: 0 } }];
  };
  const single = [
    ...token('bos', flag('add_bos_token', addBos)),
    { Sequence: { id: 'A', type_id: 0 } },
    ...token('eos', flag('add_eos_token', false)),
  ];
  return single.length === 1 ? null : { type: 'TemplateProcessing', single, pair: single, special_tokens: special };
}

function byteLevelJson(metadata: Metadata, vocabulary: Vocabulary, label: string): Json {
  const name = metadata.get('tokenizer.ggml.pre') ?? 'default';
  const pre = typeof name === 'string' && Object.hasOwn(PRE_TOKENIZATIONS, name) ? PRE_TOKENIZATIONS[name] : undefined;
  if (pre === undefined) {
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `the tokenizer of ${label} has the unsupported pre-tokenizer ${JSON.stringify(name)}`, {
      hint: `Supported: ${Object.keys(PRE_TOKENIZATIONS).join(', ')}.`,
    });
  }
  const unknown = vocabulary.tokens[vocabulary.types.indexOf(TYPE.unknown)] ?? null;
  const model = { vocab: vocabularyMap(vocabulary.tokens), merges: list(metadata, 'merges', 'string', label), unk_token: unknown, ignore_merges: pre.ignoreMerges };
  return {
    version: '1.0',
    added_tokens: addedTokens(vocabulary),
    ...preTokenizationJson(pre),
    post_processor: postProcessor(metadata, vocabulary.tokens, pre.addBos),
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: { type: 'BPE', ...model },
  };
}

function piecesJson(metadata: Metadata, vocabulary: Vocabulary, label: string): Json {
  const { tokens, types } = vocabulary;
  const scores = list(metadata, 'scores', 'number', label);
  if (scores.length !== tokens.length) throw tokenizerError(label, `${tokens.length} tokens with ${scores.length} scores`);
  const vocab = vocabularyMap(tokens);
  const unknown = tokens[types.indexOf(TYPE.unknown)];
  const prefix = metadata.get('tokenizer.ggml.add_space_prefix') !== false;
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  return {
    version: '1.0',
    added_tokens: addedTokens(vocabulary),
    normalizer: { type: 'Sequence', normalizers: [...(prefix ? [{ type: 'Prepend', prepend: '▁' }] : []), replace] },
    pre_tokenizer: null,
    post_processor: postProcessor(metadata, tokens, true),
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: { type: 'BPE', vocab, merges: mergesFromScores(vocabulary, scores, vocab), byte_fallback: true, fuse_unk: true, unk_token: unknown ?? null },
  };
}

/** The score of tokens that converters add to a vocabulary from outside: no piece of SentencePiece's, and no merge makes them. */
export const ADDED_TOKEN_SCORE = -1000;

/**
 * SentencePiece joins the adjacent pair whose union scores highest. As ranked merges: every way to split a piece into two
 * pieces, the higher-scored piece first; among splits of equal score the order of the pieces' ids keeps the list deterministic.
 * User-defined pieces (runs of spaces or line ends) are joined as others are.
 */
function mergesFromScores({ tokens, types }: Vocabulary, scores: readonly number[], vocab: Record<string, number>): [string, string][] {
  const merges: { readonly pair: [string, string]; readonly score: number; readonly id: number; readonly left: number }[] = [];
  const joins = (id: number): boolean => types[id] === TYPE.normal || (types[id] === TYPE.userDefined && scores[id] !== ADDED_TOKEN_SCORE);
  tokens.forEach((token, id) => {
    if (!joins(id)) return;
    for (let at = 1; at < token.length; at++) {
      const left = token.slice(0, at);
      const right = token.slice(at);
      const leftId = vocab[left];
      const rightId = vocab[right];
      if (leftId === undefined || rightId === undefined || !joins(leftId) || !joins(rightId)) continue;
      merges.push({ pair: [left, right], score: scores[id] as number, id, left: leftId });
    }
  });
  merges.sort((a, b) => b.score - a.score || a.id - b.id || a.left - b.left);
  return merges.map(({ pair }) => pair);
}
