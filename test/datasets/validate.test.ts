/** Every finding of a validation with its line, path and fix; token findings on the tokenizer and chat template of a tiny model. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { LoricaError } from '../../src/common/errors.js';
import { Xoshiro128 } from '../../src/common/random.js';
import {
  FINDING_CODES,
  FINDING_RULES,
  knownRows,
  MAX_STREAMED,
  validateJsonl,
  type Example,
  type Finding,
  type RowMeter,
  type ValidationOptions,
  type ValidationReport,
} from '../../src/datasets/index.js';
import { rowMeasurer, type MeasureOptions } from '../../src/main/row-measure.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { chunksOf, collect } from '../storage/temporary.js';

let tiny: Checkpoint;
beforeAll(async () => {
  tiny = await openCheckpoint(resolve('test/golden/tiny-serving'), { id: 'tiny' });
});
afterAll(() => tiny.close());

const meter = (options: Partial<MeasureOptions> = {}, parts = tiny): RowMeter => {
  const measure = rowMeasurer(parts, { maxLengthTokens: 128, ...options });
  return { maxLengthTokens: options.maxLengthTokens ?? 128, measure: async (rows) => measure(rows) };
};

async function validate(file: string | Uint8Array, options: ValidationOptions = {}, size = 1 << 16): Promise<{ findings: Finding[]; report: ValidationReport }> {
  const items = await collect(validateJsonl(chunksOf(typeof file === 'string' ? Buffer.from(file) : file, size), options));
  return { report: items.pop() as ValidationReport, findings: items as Finding[] };
}

const lines = (...rows: unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
const shown = ({ severity, code, line, path, message }: Finding): string => `${severity} ${code} ${line} ${path}: ${message}`;
const user = (content: string): unknown => ({ role: 'user', content });
const assistant = (content: string): unknown => ({ role: 'assistant', content });
async function* rows(...examples: Example[]): AsyncGenerator<Example & { line: number }> {
  for (const [i, example] of examples.entries()) yield await Promise.resolve({ ...example, line: i + 1 });
}

test('every code has a fix of one sentence and a row in the documentation', () => {
  const page = readFileSync('docs/datasets.md', 'utf8');
  for (const code of FINDING_CODES) {
    expect(FINDING_RULES[code].fix).toMatch(/^[A-Z].*\.$/);
    expect(page).toContain(`| \`${code}\` | ${FINDING_RULES[code].severity} |`);
  }
});

describe('without a model', () => {
  test('repetitions: exact ones and those but for form are told apart', async () => {
    const { findings, report } = await validate(lines({ text: 'Café au lait' }, { text: 'Café au lait' }, { text: ' cafe\u0301  AU lait' }, { text: 'tea' }));
    expect(findings.map(shown)).toEqual([
      'warning DUPLICATE_ROW 2 $: repeats line 1',
      'warning NORMALIZED_DUPLICATE 3 $: repeats line 1 but for case, white space or Unicode form',
    ]);
    expect(findings.map(({ relatedLine }) => relatedLine)).toEqual([1, 1]);
    expect(report.statistics.duplicateRows).toBe(1);
  });

  test('one text with two labels', async () => {
    const { findings } = await validate(lines({ text: 'fine', label: 'a' }, { text: 'Fine ', label: 'b' }, { text: 'FINE', label: 'A' }));
    expect(findings.map(shown)).toEqual([
      'warning CONFLICTING_LABEL 2 $.label: line 1 has the same text with another label',
      'warning NORMALIZED_DUPLICATE 3 $: repeats line 1 but for case, white space or Unicode form',
    ]);
  });

  test('overlap with other datasets, whatever the label', async () => {
    const compareWith = [
      await knownRows('tenants/t/datasets/evaluation', rows({ kind: 'label', text: 'other', label: 'x' }, { kind: 'label', text: 'Shared text', label: 'x' })),
      await knownRows('tenants/t/datasets/more', rows({ kind: 'label', text: 'shared  TEXT', label: 'x' })),
    ];
    const { findings, report } = await validate(lines({ text: 'own', label: 'a' }, { text: 'shared text', label: 'b' }), { compareWith });
    expect(findings.map(shown)).toEqual([
      'warning OVERLAP 2 $: is line 2 of tenants/t/datasets/evaluation too',
      'warning OVERLAP 2 $: is line 1 of tenants/t/datasets/more too',
    ]);
    expect(findings[0]).toMatchObject({ relatedLine: 2, relatedDataset: 'tenants/t/datasets/evaluation' });
    expect(report.overlapRows).toBe(1);
  });

  test('label balance', async () => {
    const labelled = (label: string, count: number): unknown[] => Array.from({ length: count }, (_, i) => ({ text: `${label} ${i}`, label }));
    const skewed = await validate(lines(...labelled('a', 22), ...labelled('b', 2)));
    expect(skewed.findings.map(shown)).toEqual([
      'warning LABEL_IMBALANCE 0 $.label: the most frequent label has 11.0 rows for one of the rarest, and 92% of all',
    ]);
    // The entropy of 11/12 and 1/12 in bits, by hand.
    expect(skewed.report.labelBalance).toEqual({ labels: 2, imbalanceRatio: 11, evenness: expect.closeTo(0.41382, 5), majorityShare: expect.closeTo(11 / 12, 12) });
    expect((await validate(lines(...labelled('a', 10), ...labelled('b', 1)))).findings).toEqual([]);
    const single = await validate(lines(...labelled('a', 3)));
    expect(single.findings.map(shown)).toEqual(['warning SINGLE_LABEL 0 $.label: all rows have the same label']);
    expect(single.report.labelBalance).toMatchObject({ labels: 1, imbalanceRatio: 1, evenness: 0, majorityShare: 1 });
    expect((await validate(lines({ text: 'x' }))).report.labelBalance).toBeUndefined();
  });

  test('personal data is named by path, never quoted', async () => {
    const { findings } = await validate(lines({ messages: [user('I am jane@x.org, also j@x.org, 415-555-2671'), assistant('ok')] }));
    expect(findings.map(shown)).toEqual([
      'warning EMAIL_ADDRESS 1 $.messages[0].content: probably holds an e-mail address (2 times)',
      'warning PHONE_NUMBER 1 $.messages[0].content: probably holds a telephone number',
    ]);
    expect(JSON.stringify(findings)).not.toMatch(/jane|x\.org|555/);
  });

  test('of each code the first thousand are given, all are counted', async () => {
    const { findings, report } = await validate('{"text":"same"}\n'.repeat(1_500) + 'oops\n'.repeat(1_200));
    expect(findings.filter(({ code }) => code === 'DUPLICATE_ROW')).toHaveLength(MAX_STREAMED);
    expect(findings.filter(({ code }) => code === 'INVALID_JSON').at(-1)!.line).toBe(2_500);
    expect(report.findingCounts).toEqual([{ code: 'INVALID_JSON', count: 1_200 }, { code: 'DUPLICATE_ROW', count: 1_499 }]);
    expect([report.errorCount, report.warningCount]).toEqual([1_200, 1_499]);
  });

  test('a mark before a later line is a warning, not broken JSON', async () => {
    const { findings, report } = await validate('{"text":"a"}\n\ufeff{"text":"b"}\n');
    expect(findings.map(shown)).toEqual(['warning BYTE_ORDER_MARK 2 $: begins (as where files were joined) with a byte order mark, which is ignored']);
    expect(report.statistics.rows).toBe(2);
  });
});

describe('with a model', () => {
  test('statistics by hand: one token a letter, and the end', async () => {
    // The vocabulary has tokens for letters; 'q' and 'z' are never merged.
    const text = (count: number): unknown => ({ text: 'qz'.repeat(count).slice(0, count) });
    expect(tiny.tokenizer.encode('qzqz')).toHaveLength(4);
    const { report, findings } = await validate(lines(...[1, 2, 3, 4, 9].map(text), text(150)), { meter: meter() });
    expect(findings.map(shown)).toEqual(['warning ANSWER_TRUNCATED 6 $.text: the row has 151 tokens, the limit is 128: 23 of the 150 tokens that count are lost']);
    expect(report.tokens).toEqual({
      maxLengthTokens: 128, rows: 6, tokens: 2 + 3 + 4 + 5 + 10 + 151, lossTokens: 1 + 2 + 3 + 4 + 9 + 150,
      minTokens: 2, medianTokens: 4, p95Tokens: 151, p99Tokens: 151, maxTokens: 151,
      truncatedRows: 1, answerTruncatedRows: 1, allMaskedRows: 0, epochTokens: 1 + 2 + 3 + 4 + 9 + 127, epochLossTokens: 1 + 2 + 3 + 4 + 9 + 127,
    });
  });

  test('a prompt that is cut, and an answer that is', async () => {
    const row = (prompt: number, completion: number): unknown => ({ prompt: 'qz'.repeat(prompt), completion: 'zq'.repeat(completion) });
    const { findings, report } = await validate(lines(row(7, 2), row(10, 5), row(2, 12)), { meter: meter({ maxLengthTokens: 20 }) });
    expect(findings.map(shown)).toEqual([
      'warning PROMPT_TRUNCATED 2 $: the row has 31 tokens, the limit is 20: the prompt loses its oldest 11',
      'warning ANSWER_TRUNCATED 3 $.completion: the row has 29 tokens, the limit is 20: 6 of the 25 tokens that count are lost',
    ]);
    expect(report.tokens).toMatchObject({ truncatedRows: 2, answerTruncatedRows: 1 });
  });

  test('of a preference both answers are fed', async () => {
    const { findings, report } = await validate(lines({ prompt: 'qz', chosen: 'zqz', rejected: 'q' }, { prompt: 'qz', chosen: 'zqzqzqzqzq', rejected: 'q' }), { meter: meter({ maxLengthTokens: 8 }) });
    expect(report.tokens).toMatchObject({ rows: 2, tokens: 6 + 4 + 13 + 4, lossTokens: 4 + 2 + 11 + 2, minTokens: 6, maxTokens: 13, epochTokens: 5 + 3 + 7 + 3, truncatedRows: 1 });
    expect(findings.map(shown)).toEqual(['warning ANSWER_TRUNCATED 2 $: the row has 13 tokens, the limit is 8: 4 of the 13 tokens that count are lost']);
    expect((await validate(lines({ prompt: 'p', chosen: 'c', rejected: 'c' }))).findings.map(({ code, path }) => `${code} ${path}`)).toEqual(['EQUAL_ANSWERS $.rejected']);
  });

  test('conversations in which nothing counts', async () => {
    const silent = { messages: [user('anyone?')] };
    const { findings, report } = await validate(lines(silent, { messages: [user('hi'), assistant('ho')] }), { meter: meter() });
    expect(findings.map(shown)).toEqual(['warning ALL_MASKED 1 $.messages: no token of the row counts in the loss']);
    expect(report.tokens).toMatchObject({ rows: 2, allMaskedRows: 1 });
    expect((await validate(lines(silent), { meter: meter({ loss: 'all' }) })).findings).toEqual([]);
    const all = await validate(lines(silent, { messages: [user('no?')] }), { meter: meter() });
    expect(all.findings.at(-1)).toMatchObject({ severity: 'error', code: 'NOTHING_COUNTS', line: 0, path: '$' });
    expect(all.report.errorCount).toBe(1);
  });

  test('answers without an end', async () => {
    const { compileChatTemplate } = await import('../../src/models/chat-template.js');
    const endless = {
      ...tiny,
      chatTemplate: compileChatTemplate("{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}", {}),
    };
    const file = lines({ messages: [user('hi'), assistant('ho')] });
    expect((await validate(file, { meter: meter({}, endless) })).findings.map(shown)).toEqual(['warning MISSING_END 1 $.messages: the answer has no end of text']);
    expect((await validate(file, { meter: meter() })).findings).toEqual([]);
    expect((await validate(lines({ text: 'x', label: 'a' }, { text: 'y', label: 'b' }), { meter: meter({}, endless) })).findings).toEqual([]);
  });

  test('text that spells a special token', async () => {
    const { findings } = await validate(lines({ prompt: 'p', completion: 'c</s>d' }), { meter: meter() });
    expect(findings.map(shown)).toEqual(['warning SPECIAL_TOKEN_IN_TEXT 1 $.completion: spells a special token of the tokenizer']);
  });

  test('a template that refuses a row names the row; others are measured; one that never ends is stopped', async () => {
    const { compileChatTemplate } = await import('../../src/models/chat-template.js');
    const source = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}{{ m['content'] + eos_token }}{% endfor %}";
    const strict = { ...tiny, chatTemplate: compileChatTemplate(source, { eosToken: '</s>' }) };
    const file = lines({ messages: [user('a'), assistant('b')] }, { messages: [{ role: 'system', content: 'x' }, assistant('b')] });
    const { findings, report } = await validate(file, { meter: meter({ loss: 'all' }, strict) });
    expect(findings.map(shown)).toEqual([
      'error CHAT_TEMPLATE_REFUSED 2 $.messages: the chat template of the base model refuses the row: no system turns',
    ]);
    expect(report.tokens?.rows).toBe(1);

    const loop = "{% for m in messages %}{% if m['content'] == 'stop' %}{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}{% endif %}{{ m['content'] + eos_token }}{% endfor %}";
    const endless = { ...tiny, chatTemplate: compileChatTemplate(loop, { eosToken: '</s>' }) };
    const stopped = await validate(lines({ messages: [user('a'), assistant('b')] }, { messages: [user('stop')] }), { meter: meter({ loss: 'all' }, endless) });
    expect(stopped.findings.map(({ code, line }) => `${code} ${line}`)).toEqual(['CHAT_TEMPLATE_REFUSED 2']);
    expect(stopped.report.tokens?.rows).toBe(1);
  });

  test('conversations on a model without a template fail as tuning would', async () => {
    const bare = { ...tiny, chatTemplate: undefined };
    await expect(validate(lines({ messages: [user('a')] }), { meter: meter({}, bare) })).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'MODEL_UNSUPPORTED',
    });
  });
});

describe('hostile files', () => {
  test.each([
    ['deep JSON', `{"text":${'['.repeat(200_000)}${']'.repeat(200_000)}}\n`, ['WRONG_TYPE 1 $.text']],
    ['NUL', '{"text":"a\u0000b"}\n\u0000\n', ['INVALID_JSON 1 $', 'INVALID_JSON 2 $']],
    ['an escaped NUL', '{"text":"a\\u0000b"}\n', []],
    ['CR LF and a lone CR', '{"text":"a"}\r\n{"text":"b"}\r{"text":"c"}\r\n', ['CARRIAGE_RETURNS 1 $', 'INVALID_JSON 2 $']],
    ['lone surrogates', '{"text":"\\ud83d"}\n{"text":"\\ude00\\ud83d"}\n', ['LONE_SURROGATE 1 $.text', 'LONE_SURROGATE 2 $.text']],
    ['names of the prototype', '{"__proto__":1}\n{"text":"x","constructor":"y"}\n{"text":"x","label":"__proto__"}\n', ['UNKNOWN_KIND 1 $', 'UNKNOWN_FIELD 2 $.constructor', 'SINGLE_LABEL 0 $.label']],
    ['UTF-16', Buffer.from('\ufeff{"text":"a"}\n', 'utf16le'), ['INVALID_UTF8 1 $', 'INVALID_JSON 2 $']],
    ['numbers beyond range', '{"text":1e999}\n', ['WRONG_TYPE 1 $.text']],
  ])('%s', async (_, file, expected) => {
    const { findings } = await validate(file, { meter: meter() });
    expect(findings.map(({ code, line, path }) => `${code} ${line} ${path}`)).toEqual(expected);
  });

  test('random bytes and damaged rows give findings, or errors of our own, never anything else; pieces change nothing', async () => {
    const random = new Xoshiro128(7);
    const whole = (below: number): number => random.nextUint32() % below;
    const good = lines({ text: 'größe 😀', label: 'a' }, { text: 'zwei', label: 'b' }, { messages: [user('x'), assistant('y')] }, { prompt: 'p', completion: 'c' });
    for (let round = 0; round < 150; round += 1) {
      const bytes = round % 3 === 0 ? Uint8Array.from({ length: whole(600) }, () => whole(256)) : Uint8Array.from(Buffer.from(good));
      for (let change = 0; round % 3 !== 0 && change < 1 + whole(4); change += 1) bytes[whole(bytes.length)] = [whole(256), 0x0a, 0x22, 0x5c, 0x00, 0xef][whole(6)]!;
      const run = async (size: number): Promise<unknown> =>
        validate(bytes, { meter: meter() }, size).catch((error: unknown) => {
          expect(error).toBeInstanceOf(LoricaError);
          return (error as LoricaError).reason;
        });
      const once = await run(1 << 16);
      expect(await run(1 + whole(40))).toEqual(once);
    }
  });
});
