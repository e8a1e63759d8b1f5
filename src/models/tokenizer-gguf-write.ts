/**
 * A tokenizer.json as the metadata of a GGUF file, the inverse of tokenizer-gguf.ts. What GGUF can't say (an unknown
 * pre-tokenization, merges that no scores stand for) is refused by name. One thing its readers do their own way: where text
 * gets a space in front, they put it there before a text that begins with a space too.
 */
import { LoricaError } from '../common/errors.js';
import type { GgufField } from '../tensor/gguf-write.js';
import { preTokenizationName } from './pre-tokenizers.js';
import { ADDED_TOKEN_SCORE } from './tokenizer-gguf.js';
import { parseTokenizerSpec, type Json, type TokenizerSpec } from './tokenizer-spec.js';

/** Token types of the GGUF specification. */
const TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface GgufTokenizerSource {
  /** A parsed tokenizer.json. */
  readonly json: unknown;
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
  /** Rows of the embedding: ids that no token has are written as unused ones. */
  readonly vocabSize: number;
  /** Names the model in errors. */
  readonly label: string;
}

function unsupported(label: string, what: string): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `the tokenizer of ${label} can't be written as GGUF: ${what}`, {
    hint: 'Write the model as a Hugging Face folder.',
  });
}

/** Throws TOKENIZER_INVALID for a damaged source, MODEL_UNSUPPORTED naming what GGUF has no field for. */
export function ggufTokenizerFields(source: GgufTokenizerSource): Map<string, GgufField> {
  const spec = parseTokenizerSpec(source.json, source.label);
  if (spec.model.type !== 'BPE') throw unsupported(source.label, `it is a ${spec.model.type} model`);
  const greedy = spec.addedTokens.find((token) => token['lstrip'] === true || token['rstrip'] === true);
  if (greedy !== undefined) throw unsupported(source.label, `the token ${JSON.stringify(greedy.content)} takes white space beside it along`);
  const merges = mergePairs(spec.model['merges'] as readonly (string | [string, string])[]);
  const { tokens, types } = vocabulary(spec, source.vocabSize);
  const fields = new Map<string, GgufField>();
  const set = (key: string, field: GgufField): unknown => fields.set(`tokenizer.ggml.${key}`, field);
  if (spec.bytes.kind === 'byteLevel') {
    const pre = preTokenizationName(source.json as Json);
    if (pre === undefined) throw unsupported(source.label, 'its pre-tokenization has no name there');
    set('model', { type: 'string', value: 'gpt2' });
    set('pre', { type: 'string', value: pre });
    set('merges', { type: 'strings', value: merges.map((pair) => pair.join(' ')) });
  } else {
    set('model', { type: 'string', value: 'llama' });
    set('pre', { type: 'string', value: 'default' });
    set('scores', { type: 'float32s', value: scores(tokens, types, merges, source.label) });
    set('add_space_prefix', { type: 'bool', value: spec.bytes.kind === 'pieces' && spec.bytes.stripFirstSpace });
  }
  set('tokens', { type: 'strings', value: tokens });
  set('token_type', { type: 'int32s', value: types });
  const unknown = types.indexOf(TYPE.unknown);
  const ids = { bos: source.bosTokenId, eos: source.eosTokenIds[0], eot: source.eosTokenIds[1], eom: source.eosTokenIds[2], unknown: unknown < 0 ? undefined : unknown };
  if (source.eosTokenIds.length > 3) throw unsupported(source.label, `${source.eosTokenIds.length} tokens that end a text`);
  for (const [name, value] of Object.entries(ids)) if (value !== undefined) set(`${name}_token_id`, { type: 'uint32', value });
  const added = surroundings(spec.json['post_processor']);
  set('add_bos_token', { type: 'bool', value: added.first !== undefined && added.first === tokens[source.bosTokenId ?? -1] });
  set('add_eos_token', { type: 'bool', value: added.last !== undefined && added.last === tokens[source.eosTokenIds[0] ?? -1] });
  return fields;
}

function mergePairs(merges: readonly (string | [string, string])[]): [string, string][] {
  return merges.map((merge) => (typeof merge === 'string' ? (merge.split(' ') as [string, string]) : merge));
}

function vocabulary(spec: TokenizerSpec, vocabSize: number): { tokens: string[]; types: number[] } {
  const tokens = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`);
  const types = tokens.map((): number => TYPE.unused);
  for (const [token, id] of Object.entries(spec.vocab)) {
    tokens[id] = token;
    types[id] = spec.bytes.kind === 'pieces' && /^<0x[0-9A-F]{2}>$/.test(token) ? TYPE.byte : TYPE.normal;
  }
  for (const { id, content, special } of spec.addedTokens) {
    tokens[id] = content;
    types[id] = special ? TYPE.control : TYPE.userDefined;
  }
  const unknown = spec.model['unk_token'];
  const id = typeof unknown === 'string' ? tokens.indexOf(unknown) : -1;
  if (id >= 0) types[id] = TYPE.unknown;
  return { tokens, types };
}

/**
 * SentencePiece joins the pair whose union scores highest, so a token's score is the negative rank of the merges that make it.
 * That says the same only where all ways to split a token have neighbouring ranks and none is missing, as in vocabularies that
 * were converted from SentencePiece.
 */
function scores(tokens: readonly string[], types: readonly number[], merges: readonly [string, string][], label: string): number[] {
  const inMerges = new Set(merges.flatMap(([left, right]) => [left, right, left + right]));
  const joins = (token: string, id: number): boolean => types[id] === TYPE.normal || (types[id] === TYPE.userDefined && inMerges.has(token));
  const pieces = new Set(tokens.filter(joins));
  const made = new Map<string, number>();
  let previous: string | undefined;
  for (const [left, right] of merges) {
    const token = left + right;
    const strange = [left, right, token].find((part) => !pieces.has(part));
    if (strange !== undefined) throw unsupported(label, `its merges join ${JSON.stringify([left, right])}, and ${JSON.stringify(strange)} is no ordinary token`);
    if (token !== previous && made.has(token)) throw unsupported(label, `its merges into ${JSON.stringify(token)} have different ranks, which scores can't say`);
    if (token !== previous) made.set(token, made.size);
    previous = token;
  }
  let possible = 0;
  for (const token of pieces) for (let at = 1; at < token.length; at++) if (pieces.has(token.slice(0, at)) && pieces.has(token.slice(at))) possible += 1;
  if (possible !== merges.length) throw unsupported(label, `it lists ${merges.length} of ${possible} possible merges, which scores can't say`);
  return tokens.map((token, id) => {
    if (pieces.has(token) && joins(token, id)) return -(made.get(token) ?? made.size);
    return types[id] === TYPE.userDefined ? ADDED_TOKEN_SCORE : 0;
  });
}

/** The special tokens that a template puts before and after a text. */
function surroundings(processor: unknown): { first?: string; last?: string } {
  const step = processor as Json | null;
  if (step?.['type'] === 'Sequence') {
    const found = (step['processors'] as Json[]).find((inner) => inner['type'] === 'TemplateProcessing');
    return found === undefined ? {} : surroundings(found);
  }
  if (step?.['type'] !== 'TemplateProcessing') return {};
  const single = step['single'] as { SpecialToken?: { id: string } }[];
  const first = single[0]?.SpecialToken?.id;
  const last = single.at(-1)?.SpecialToken?.id;
  return { ...(first !== undefined && { first }), ...(last !== undefined && { last }) };
}
