/**
 * The normalizers and pre-tokenizers of a tokenizer.json, rewritten where @huggingface/tokenizers 0.2 deviates from the reference
 * implementation (Rust `tokenizers`): its `Digits` and `\w` know ASCII only, the `\s` of its built-in steps is JavaScript's, its
 * `Metaspace` doesn't split, its `BertNormalizer` and `Lowercase` treat a final sigma and control characters otherwise. Each becomes
 * steps of `Split` and `Replace`, whose patterns it translates faithfully. What can't be said that way is refused by name.
 */
import { GPT2_PATTERN } from './pre-tokenizers.js';

type Json = Record<string, unknown>;

/** Thrown with the name of a step that isn't supported. */
export class UnsupportedStep extends Error {}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const PUNCTUATION = String.raw`[\p{P}\x21-\x2F\x3A-\x40\x5B-\x60\x7B-\x7E]`;

function split(pattern: string, behavior: 'Isolated' | 'Removed' = 'Isolated'): Json {
  return { type: 'Split', pattern: { Regex: pattern }, behavior, invert: false };
}

function replace(pattern: string, content: string): Json {
  return { type: 'Replace', pattern: { Regex: pattern }, content };
}

function sequence(field: 'pretokenizers' | 'normalizers', steps: readonly unknown[]): Json {
  return { type: 'Sequence', [field]: steps.filter((step) => step !== null) };
}

/** Throws UnsupportedStep. `spacesReplaced` says that no space is left when the pre-tokenizer begins. */
export function rewritePreTokenizer(step: unknown, spacesReplaced: boolean): unknown {
  if (!isObject(step)) return null;
  switch (step['type']) {
    case 'Sequence':
      return sequence('pretokenizers', ((step['pretokenizers'] as unknown[] | undefined) ?? []).map((inner) => rewritePreTokenizer(inner, spacesReplaced)));
    case 'Digits':
      return split(step['individual_digits'] === true ? String.raw`\p{N}` : String.raw`\p{N}+`);
    case 'ByteLevel':
      if (step['add_prefix_space'] === true) throw new UnsupportedStep('pre-tokenizer ByteLevel with add_prefix_space');
      return step['use_regex'] === false ? step : sequence('pretokenizers', [split(GPT2_PATTERN), { ...step, use_regex: false }]);
    case 'Metaspace':
      return step['split'] === false ? step : sequence('pretokenizers', [step, split(`${mark(step)}[^${mark(step)}]*|[^${mark(step)}]+`)]);
    case 'BertPreTokenizer':
      return sequence('pretokenizers', [split(String.raw`\s+`, 'Removed'), split(PUNCTUATION)]);
    case 'WhitespaceSplit':
      return split(String.raw`\s+`, 'Removed');
    case 'Whitespace':
      return { ...split(String.raw`\w+|[^\w\s]+`), invert: true };
    case 'Punctuation':
      if ((step['behavior'] ?? 'Isolated') !== 'Isolated') throw new UnsupportedStep(`pre-tokenizer Punctuation with behavior ${String(step['behavior'])}`);
      return split(PUNCTUATION);
    case 'Split':
      return rewriteSplit(step, spacesReplaced);
    default:
      throw new UnsupportedStep(`pre-tokenizer ${String(step['type'])}`);
  }
}

function mark(step: Json): string {
  return (step['replacement'] as string | undefined) ?? '▁';
}

function rewriteSplit(step: Json, spacesReplaced: boolean): unknown {
  if (step['behavior'] === 'Isolated' && step['invert'] !== true) return step;
  if (step['behavior'] === 'Removed') return step;
  // Gemma's: it splits at spaces after its normalizer has replaced them all.
  if (spacesReplaced && (step['pattern'] as Json | undefined)?.['String'] === ' ') return null;
  throw new UnsupportedStep(`pre-tokenizer Split with behavior ${String(step['behavior'])}${step['invert'] === true ? ', inverted' : ''}`);
}

/** The blocks that BERT's normalizer sets apart. */
const CHINESE = '[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]';
/** JavaScript alone maps a capital sigma by its place in the word. */
const LOWERCASE = [replace('\u03A3', '\u03C3'), { type: 'Lowercase' }];
const STRIP_ACCENTS = [{ type: 'NFD' }, replace(String.raw`\p{Mn}`, '')];

/** Throws UnsupportedStep. */
export function rewriteNormalizer(step: unknown): unknown {
  if (!isObject(step)) return null;
  switch (step['type']) {
    case 'Sequence':
      return sequence('normalizers', ((step['normalizers'] as unknown[] | undefined) ?? []).map(rewriteNormalizer));
    case 'Lowercase':
      return sequence('normalizers', LOWERCASE);
    case 'StripAccents':
      return replace(String.raw`\p{M}`, '');
    case 'BertNormalizer':
      return bertNormalizer(step);
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
    case 'Prepend':
    case 'Replace':
      return step;
    default:
      throw new UnsupportedStep(`normalizer ${String(step['type'])}`);
  }
}

function bertNormalizer(step: Json): Json {
  const flag = (name: string, fallback: boolean): boolean => (step[name] ?? fallback) === true;
  const lowercase = flag('lowercase', true);
  return sequence('normalizers', [
    ...(flag('clean_text', true) ? [replace(String.raw`(?![\t\n\r])[\uFFFD\p{Cc}\p{Cf}\p{Co}]`, ''), replace(String.raw`\s`, ' ')] : []),
    ...(flag('handle_chinese_chars', true) ? [replace(CHINESE, ' $& ')] : []),
    ...(flag('strip_accents', lowercase) ? STRIP_ACCENTS : []),
    ...(lowercase ? LOWERCASE : []),
  ]);
}
