/**
 * The pre-tokenizations of byte-level BPE vocabularies by the names that llama.cpp gives them: split patterns applied one after
 * the other, as the tokenizer.json of the models that use them spells them. The table is read both ways: a GGUF file names
 * an entry, and a tokenizer.json that is written as GGUF must match one.
 */
type Json = Record<string, unknown>;

/** The pre-tokenization pattern of GPT-2. */
export const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

const CONTRACTIONS = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)`;
const SPACES = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`;
/** GPT-4's, which Llama 3 and OLMo 2 share: words, up to three digits, runs of other characters with the line ends after them. */
const GPT4_PATTERN = String.raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|${SPACES}`;
const QWEN2_PATTERN = String.raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|${SPACES}`;
const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
/** GPT-4o's: words split where upper case follows lower case, contractions belong to their word. */
const GPT4O_PATTERN = String.raw`[^\r\n\p{L}\p{N}]?${UPPER}*${LOWER}+${CONTRACTIONS}?|[^\r\n\p{L}\p{N}]?${UPPER}+${LOWER}*${CONTRACTIONS}?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|${SPACES}`;
const DIGIT = String.raw`\p{N}`;

export interface PreTokenization {
  readonly patterns: readonly string[];
  /** Text is brought into Unicode's normal form C first. */
  readonly nfc: boolean;
  /** A piece that is a token as a whole is taken without merging. */
  readonly ignoreMerges: boolean;
  /** Whether a bos is added when the file doesn't say. */
  readonly addBos: boolean;
}

const plain = (...patterns: string[]): PreTokenization => ({ patterns, nfc: false, ignoreMerges: false, addBos: false });
const GPT2 = plain(GPT2_PATTERN);
const DIGITS_GPT2 = plain(DIGIT, GPT2_PATTERN);
const QWEN2 = { ...plain(QWEN2_PATTERN), nfc: true };

/** Of entries that are equal, the first is the one that is written. */
export const PRE_TOKENIZATIONS: Readonly<Record<string, PreTokenization>> = {
  'gpt-2': GPT2,
  default: GPT2,
  olmo: GPT2,
  smollm: DIGITS_GPT2,
  starcoder: DIGITS_GPT2,
  refact: DIGITS_GPT2,
  'command-r': DIGITS_GPT2,
  qwen2: QWEN2,
  'deepseek-r1-qwen': QWEN2,
  'llama-bpe': { ...plain(GPT4_PATTERN), ignoreMerges: true, addBos: true },
  dbrx: plain(GPT4_PATTERN),
  'gpt-4o': plain(GPT4O_PATTERN),
};

/** The normalizer and pre_tokenizer of a tokenizer.json. */
export function preTokenizationJson(pre: PreTokenization): { normalizer: Json | null; pre_tokenizer: Json } {
  return {
    normalizer: pre.nfc ? { type: 'NFC' } : null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        ...pre.patterns.map((pattern) => ({ type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false })),
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
      ],
    },
  };
}

/** The name of the pre-tokenization that a byte-level BPE tokenizer.json does; undefined when the table has none such. */
export function preTokenizationName(json: Json): string | undefined {
  const patterns = patternsOf(json['pre_tokenizer']);
  const normalizer = json['normalizer'] as Json | null | undefined;
  const ignoreMerges = (json['model'] as Json)['ignore_merges'] === true;
  if (patterns === undefined || (normalizer != null && normalizer['type'] !== 'NFC')) return undefined;
  const same = (pre: PreTokenization): boolean =>
    pre.patterns.join('\n') === patterns.join('\n') && pre.nfc === (normalizer != null) && pre.ignoreMerges === ignoreMerges;
  return Object.entries(PRE_TOKENIZATIONS).find(([, pre]) => same(pre))?.[0];
}

/** The split patterns of steps that end in a byte-level one; undefined for anything else. */
function patternsOf(step: unknown): string[] | undefined {
  const flat = (item: unknown): Json[] =>
    (item as Json | null)?.['type'] === 'Sequence' ? ((item as Json)['pretokenizers'] as unknown[]).flatMap(flat) : item == null ? [] : [item as Json];
  const steps = flat(step);
  const last = steps.pop();
  if (last?.['type'] !== 'ByteLevel' || last['add_prefix_space'] === true) return undefined;
  const patterns = steps.map((item) => {
    if (item['type'] === 'Digits') return item['individual_digits'] === true ? DIGIT : undefined;
    const isolated = item['type'] === 'Split' && item['behavior'] === 'Isolated' && item['invert'] !== true;
    return isolated ? (item['pattern'] as { Regex?: string } | undefined)?.Regex : undefined;
  });
  if (last['use_regex'] !== false) patterns.push(GPT2_PATTERN);
  return patterns.every((pattern) => pattern !== undefined) ? patterns : undefined;
}
